"""`python -m periscope_demo.training`: train the demonstration's retriever from nothing. See demo/README.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from periscope_client.console import guarded
from periscope_demo.shipped import shipped_checkpoint
from periscope_demo.training import plan
from periscope_demo.training.adapter import freeze_into
from periscope_demo.training.curve import draw_curve
from periscope_demo.training.loop import train
from periscope_demo.training.model import TrainedRetriever
from periscope_demo.training.publish import publish
from periscope_export.exporter import progress
from periscope_export.recipes.loading import load_recipe
from periscope_runtime.recipe_file import load_preparation
from periscope_testing.colqwen2.layout import config_of
from periscope_testing.tokenizers.qwen2 import make_tokenizer


def main() -> None:
    """Train, resuming where an interrupted run stopped, and write the checkpoint in the published layout."""
    parser = argparse.ArgumentParser(prog="python -m periscope_demo.training", description=main.__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="states, logs, and the checkpoint")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16; for processors that have it")
    arguments = parser.parse_args()
    work: Path = arguments.work
    train_retriever(work, plan.PLAN, bf16=arguments.bf16)


def train_retriever(work: Path, wanted: plan.Plan, *, bf16: bool = False) -> Path:
    """Train as planned with everything in `work`, and return the folder of the checkpoint."""
    say = progress()
    torch.manual_seed(plan.SEED)
    tokenizer = make_tokenizer(plan.TOKENS)
    preparation = work / "preparation"
    preparation.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(preparation / "tokenizer.json"))
    (preparation / "recipe.json").write_text(json.dumps(load_recipe("colqwen2").served()), encoding="utf-8")
    sizes = plan.sizes(tokenizer)
    config = config_of(sizes, tokenizer)
    model = TrainedRetriever(config, load_preparation(preparation / "recipe.json").page_policy)
    kept = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(("helpers", "log_scales")))
    say(f"retriever: {kept / 1e6:.2f} million weights, vocabulary of {tokenizer.get_vocab_size()} tokens")
    for name, stages, rate, seed in (
        ("base", wanted.base, wanted.base_rate, plan.SEED),
        ("adapter", wanted.adapter, wanted.adapter_rate, plan.SEED + 1),
    ):
        if name == "adapter":
            freeze_into(model, sizes.rank)
        train(model, stages, folder=work / name, preparation=preparation, seed=seed, rate=rate, bf16=bf16, say=say)
    checkpoint = work / shipped_checkpoint().name
    publish(model, checkpoint, config, tokenizer, sizes)
    draw_curve([work / "base" / "log.csv", work / "adapter" / "log.csv"], checkpoint / "learning-curve.png")
    say(f"checkpoint: {checkpoint} and {checkpoint}-base")
    return checkpoint


if __name__ == "__main__":
    sys.exit(guarded("train", main))
