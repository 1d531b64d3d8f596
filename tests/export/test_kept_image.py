"""A language model that keeps the image beside texts, beside the same one that is given its visual tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from e2e.pages import draw_page, encode
from periscope_export.errors import ExportError
from periscope_export.fidelity import fingerprint
from periscope_export.fidelity.record import Array
from periscope_export.graphs.graph import module_runner
from periscope_export.graphs.precision import at, cast
from periscope_export.models.kept_image import constant_rows
from periscope_export.models.kept_prefixes import keeping, prefixes_to_keep
from periscope_export.models.towers import Towers
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.recipes.overrides import Settings
from periscope_export.repository.writing import write_preparation
from periscope_runtime.asked import Asked
from periscope_runtime.collate import collate
from periscope_runtime.completion import completed
from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item
from periscope_runtime.prepare import Preparer, Row
from periscope_testing.colpali.checkpoint import make_colpali
from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl

RECIPE = "dse_qwen2"
# Of states, which are as long as they are wide: sums in another order.
TOLERANCE = 2e-5
TEXTS = (b"energy", b"which month had the most visitors, and why")
PAGE = encode(draw_page(60, 50))
LANGUAGE = "language_model"
# Pages of 16 visual tokens.
SMALL: Settings = {"preparation.image.resize": [{"stretch": {"side": 112}}]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers: each keeps keys and values of its own."""
    return make_qwen2_vl(tmp_path_factory.mktemp("made") / "checkpoint", Qwen2VLSizes(vision_layers=1))


class Kept:
    """The towers of an export with these settings, and its preparation, with prefixes or without."""

    def __init__(
        self, checkpoint: Path, folder: Path, prefixes: bool = False, settings: Settings | None = None
    ) -> None:
        settings = {**SMALL, **(settings or {})}
        self.retriever = open_retriever(str(checkpoint), RECIPE, settings=settings)
        recipe, tokenizer = self.retriever.recipe, self.retriever.tokenizer
        kept = prefixes_to_keep(self.retriever.steps, recipe, tokenizer) if prefixes else []
        self.towers = Towers(keeping(self.retriever.steps, kept), self.retriever.checkpoint.weights)
        self.preparer = Preparer(write_preparation(folder, "r", recipe, tokenizer, kept)["text"])

    def rows(self, role: str, *texts: bytes) -> list[Row]:
        return [self.preparer.text(text, role) for text in texts]

    def tensors(self, rows: list[Row]) -> dict[str, Array]:
        tensors = collate(rows, self.preparer.preparation.buckets, self.preparer.kept)
        wanted = {spec.name: spec.wanted for step in self.retriever.steps for spec in step.inputs}
        if "patches" in tensors:
            return {**tensors, **self.run("vision_encoder", tensors)}
        return completed(tensors, wanted, self.retriever.width)

    def run(self, name: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return module_runner(at(self.towers.steps[name], "fp32"), self.towers[name])(name, tensors)

    def pooled(self, tensors: Mapping[str, Array]) -> Array:
        return self.run(LANGUAGE, tensors)["hidden_states"][tensors["pool_mask"] > 0]


@pytest.fixture(scope="module")
def plain(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(checkpoint, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def prefixed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(checkpoint, tmp_path_factory.mktemp("prefixed"), prefixes=True)


def test_states_are_those_of_a_model_that_is_given_the_image(plain: Kept) -> None:
    """Its visual tokens as the vision tower gives them, in place of none."""
    tensors = plain.tensors(plain.rows("query", *TEXTS))
    assert tensors["visual_tokens"].shape[1] == 0
    image = {name: tensor.numpy() for name, tensor in constant_rows(plain.preparer.preparation).items()}
    tokens = plain.run("vision_encoder", image)["visual_tokens"]
    given = {**tensors, "visual_tokens": np.repeat(tokens, len(TEXTS), axis=0)}
    np.testing.assert_allclose(plain.pooled(tensors), plain.pooled(given), rtol=0, atol=TOLERANCE)
    # The tokens of one colour are all alike.
    given["visual_tokens"] = -given["visual_tokens"]
    assert np.abs(plain.pooled(tensors) - plain.pooled(given)).max() > 100 * TOLERANCE


@pytest.mark.parametrize("positions", ["mrope", "sequential"])
def test_prefixes_go_on_behind_the_image(checkpoint: Path, tmp_path: Path, positions: str) -> None:
    """Up to the content, with the positions of its grid; queries and documents have one each, pages the shared one."""
    settings = {"preparation.positions": positions}
    whole = Kept(checkpoint, tmp_path / "whole", settings=settings)
    kept = Kept(checkpoint, tmp_path / "kept", prefixes=True, settings=settings)
    items = {role: kept.rows(role, *TEXTS) for role in ("query", "document")}
    items["page"] = [kept.preparer.image(PAGE)]
    lengths = []
    for name, rows in items.items():
        tensors = kept.tensors(rows)
        lengths.append(tensors["prefix_index"].shape[1])
        found, wanted = kept.pooled(tensors), whole.pooled(whole.tensors(rows))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE, err_msg=name)
    assert kept.preparer.kept is not None
    shared, query, document = (len(prefix_J) for prefix_J in kept.preparer.kept)
    assert lengths == [query, document, shared]
    image = kept.preparer.image_token_id
    assert [(ids_J == image).sum() for ids_J in kept.preparer.kept] == [0, 4, 4]


def test_prefixes_of_two_lengths_in_one_request_come_whole(prefixed: Kept, plain: Kept) -> None:
    mixed = [*prefixed.rows("query", TEXTS[0]), *prefixed.rows("document", TEXTS[0])]
    tensors = prefixed.tensors(mixed)
    assert tensors["prefix_index"].shape == (2, 0)
    found, wanted = prefixed.pooled(tensors), plain.pooled(plain.tensors(mixed))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_it_is_in_the_precision_of_the_graph(plain: Kept) -> None:
    tokens = cast(plain.towers[LANGUAGE], "bf16").image_tokens
    assert isinstance(tokens, torch.nn.Parameter)
    assert (tokens.dtype, len(tokens)) == (torch.bfloat16, 4)


@pytest.mark.parametrize("field", ["colour", "width"])
def test_another_image_is_another_retriever(plain: Kept, checkpoint: Path, tmp_path: Path, field: str) -> None:
    """Other vectors, and another fingerprint."""
    value = {"colour": [255, 0, 0], "width": 84}[field]
    other = Kept(checkpoint, tmp_path, settings={f"preparation.constant_image.{field}": value})
    found, right = (one.pooled(one.tensors(one.rows("query", *TEXTS))) for one in (other, plain))
    assert np.abs(found - right).max() > 100 * TOLERANCE

    def begun(retriever: PublishedRetriever) -> str:
        return fingerprint.begin(retriever.recipe, "fp32", retriever.steps, retriever.tokenizer).hexdigest()

    assert begun(other.retriever) != begun(plain.retriever)


def test_every_weight_is_read_once(checkpoint: Path) -> None:
    """The vision tower is asked for by the language model, and again as a step."""
    retriever = open_retriever(str(checkpoint), RECIPE)
    weights, read = retriever.checkpoint.weights, Counter[str]()

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(weights, name)

        def read(self, name: str) -> torch.Tensor:
            read[name] += 1
            return weights.read(name)

    towers = Towers(retriever.steps, Counted())  # type: ignore[arg-type]
    assert isinstance(towers[LANGUAGE].image_tokens, torch.Tensor)
    assert len(towers.digest) == 32 * len(retriever.steps)
    assert set(read.values()) == {1}


def test_a_tower_of_one_size_takes_no_other(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "extends: colpali\npreparation:\n  constant_image: {width: 28, height: 28}\n"
        '  prompts: {query: {text: "{constant_image}{text}{augmentation}"}}\n'
    )
    with pytest.raises(
        ExportError, match="constant_image is an image that the vision tower of paligemma does not take"
    ):
        open_retriever(str(make_colpali(tmp_path / "checkpoint")), str(mine))


def test_an_item_holds_no_image_token_of_its_own(plain: Kept) -> None:
    """No text of a user stands for the kept image."""
    with pytest.raises(PreparationError, match=r"contains <\|image_pad\|>, which stands for an image"):
        plain.preparer.item(Item(text=b"<|image_pad|>"), Asked())
