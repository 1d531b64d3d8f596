"""The training on a few steps: it learns, resumes as if never interrupted, and publishes what it learnt."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from periscope_demo.training import loop, plan
from periscope_demo.training.__main__ import train_retriever
from periscope_demo.training.adapter import freeze_into
from periscope_demo.training.batches import BatchMaker
from periscope_demo.training.losses import losses
from periscope_demo.training.model import TrainedRetriever
from periscope_runtime.recipe_file import load_preparation
from periscope_testing.colqwen2.layout import config_of
from periscope_testing.colqwen2.reference import ColQwen2Reference
from periscope_testing.tokenizers.qwen2 import make_tokenizer

SCRAPS = dataclasses.replace(plan.PLAN.base[1], steps=3, pages=3)
TINY = plan.Plan(base=(SCRAPS,), adapter=(dataclasses.replace(SCRAPS, steps=2),))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    train_retriever(folder, TINY)
    return folder


def trained(work: Path) -> TrainedRetriever:
    tokenizer = make_tokenizer(plan.TOKENS)
    sizes = plan.sizes(tokenizer)
    preparation = load_preparation(work / "preparation" / "recipe.json")
    model = TrainedRetriever(config_of(sizes, tokenizer), preparation.page_policy)
    freeze_into(model, sizes.rank)
    model.load_state_dict(torch.load(work / "adapter" / "state.pt", weights_only=True)["model"])
    return model


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here batches are drawn in this process, in that of `work` by another: they depend on their numbers alone."""
    monkeypatch.setattr(loop, "DataLoader", lambda batches, **_: batches)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # sums end in the digits that they had in `work`
    monkeypatch.setattr(loop, "_SAVE_SECONDS", -1)
    monkeypatch.setattr(loop, "_LOG_STEPS", 1)
    save = loop._save

    def save_and_stop(folder: Path, model: TrainedRetriever, optimizer: torch.optim.Optimizer, done: int) -> None:
        save(folder, model, optimizer, done)
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_retriever(tmp_path, TINY)
    monkeypatch.setattr(loop, "_save", save)
    train_retriever(tmp_path, TINY)
    wanted, found = (torch.load(folder / "base" / "state.pt", weights_only=True) for folder in (work, tmp_path))
    assert found["done"] == wanted["done"] == 3
    logged = (tmp_path / "base" / "log.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in logged] == ["step", "1", "2", "3"]
    for name, tensor in wanted["model"].items():
        torch.testing.assert_close(found["model"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_what_was_done_is_not_done_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "losses", lambda *_: pytest.fail("a step was made"))
    train_retriever(work, TINY)


def test_the_published_files_are_the_trained_model(work: Path) -> None:
    """By the published implementation, which merges the adapter into a base that lies beside it."""
    model, reference = trained(work), ColQwen2Reference(work / "colqwen2-demo")
    text = "where is garlic and bread"
    batch = BatchMaker(work / "preparation").query_tensors([text])
    with torch.inference_mode():
        vectors = model.queries(batch)
    late_TK, dense_H = reference.late_and_dense(reference.query_inputs([text]))[0]
    np.testing.assert_allclose(late_TK, vectors.late_BTK[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(dense_H, vectors.dense_BH[0], rtol=0, atol=1e-5)
    settings = json.loads((work / "colqwen2-demo" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "../colqwen2-demo-base"
    assert (work / "colqwen2-demo" / "learning-curve.png").stat().st_size > 5000


def test_the_adapter_changes_the_vectors(work: Path) -> None:
    model = trained(work)
    batch = BatchMaker(work / "preparation").query_tensors(["garlic"])
    with torch.inference_mode():
        with_it = model.queries(batch).late_BTK
        for name, parameter in model.named_parameters():
            if name.endswith("up_RO"):
                parameter.zero_()
        without = model.queries(batch).late_BTK
    assert (with_it - without).abs().max() > 1e-4


def test_every_loss_moves_the_weights_that_are_kept(work: Path) -> None:
    tokenizer = make_tokenizer(plan.TOKENS)
    preparation = load_preparation(work / "preparation" / "recipe.json")
    torch.manual_seed(0)
    model = TrainedRetriever(config_of(plan.sizes(tokenizer), tokenizer), preparation.page_policy)
    batch = BatchMaker(work / "preparation").make(np.random.default_rng(0), SCRAPS)
    for name, loss in losses(model, batch, contrast=True).items():
        model.zero_grad()
        torch.autograd.backward([loss], retain_graph=True)
        moved = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
        assert any(key.startswith("language_model.") for key in moved) or name in ("letters", "visual_terms"), name
        assert any(key.startswith("visual.blocks.0.") for key in moved) or name == "query_terms", name
