"""`python -m periscope_demo.training`: train the demonstration's retriever from nothing. See demo/README.md."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from periscope_demo.checkpoint import Sizes, _config
from periscope_demo.pages.vocabulary import FILLERS, TERMS
from periscope_demo.tokenizer import make_tokenizer
from periscope_demo.training import plan
from periscope_demo.training.loop import train
from periscope_demo.training.model import TrainedRetriever
from periscope_export.exporter import progress
from periscope_export.recipe import load_recipe
from periscope_runtime.recipe import load_preparation


def main() -> None:
    """Train, resuming where an interrupted run stopped."""
    parser = argparse.ArgumentParser(prog="python -m periscope_demo.training", description=main.__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="states and logs")
    folder: Path = parser.parse_args().work
    say = progress()
    torch.manual_seed(plan.SEED)
    tokenizer = make_tokenizer((*TERMS, *FILLERS))
    preparation = folder / "preparation"
    preparation.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(preparation / "tokenizer.json"))
    (preparation / "recipe.json").write_text(json.dumps(load_recipe("colqwen2").served()), encoding="utf-8")
    sizes = Sizes(
        vision_layers=plan.VISION_LAYERS,
        language_layers=plan.LANGUAGE_LAYERS,
        mlp=plan.MLP,
        vocabulary=-(-tokenizer.get_vocab_size() // 64) * 64,
    )
    config = _config(sizes, tokenizer)
    config["vision_config"]["num_heads"] = 4
    model = TrainedRetriever(config, load_preparation(preparation / "recipe.json").image)
    kept = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(("helpers", "log_scales")))
    say(f"retriever: {kept / 1e6:.2f} million weights, vocabulary of {tokenizer.get_vocab_size()} tokens")
    train(
        model,
        plan.BASE,
        folder=folder / "base",
        preparation=preparation,
        seed=plan.SEED,
        rate=plan.PEAK_RATE,
        warmup=plan.WARMUP,
        say=say,
    )


if __name__ == "__main__":
    main()
