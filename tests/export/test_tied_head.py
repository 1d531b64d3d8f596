"""A reranker whose language head is its table of embeddings, and adapters that untie them: PEFT's scores and states."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from periscope_export.errors import ExportError
from periscope_export.graphs.graph import module_runner
from periscope_export.models.weights import load_step
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.repository.writing import write_preparation
from periscope_runtime.asked import Asked
from periscope_runtime.collate import collate
from periscope_runtime.item import Item
from periscope_runtime.prepare import Preparer
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_reranker
from periscope_testing.qwen3_vl.reference import RerankerReference
from periscope_testing.torchvision_operators import declare_torchvision_operators

# PEFT warns of tied weights that an adapter changes, which is what these tests are about, and calls what transformers
# wants to rename.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

SIZES = Qwen3VLSizes(vision_layers=1, levels=(0,), layers=1, shards=1)
HEAD, EMBEDDINGS = "lm_head.weight", "model.language_model.embed_tokens.weight"
QUERY, DOCUMENT = "revenue by region", "The revenue grew by a fifth in 2024."

# The changes of an adapter, and whether PEFT's merge_and_unload gives what its live model does; not where it adds
# a product to a tensor that both weights share.
ADAPTERS: dict[str, tuple[dict[str, Any], bool]] = {
    "head": ({"modules_to_save": ["lm_head"]}, True),
    "embeddings": ({"modules_to_save": ["embed_tokens"]}, True),
    "both": ({"modules_to_save": ["lm_head", "embed_tokens"]}, True),
    "product on the head": ({"target_modules": ["q_proj", "lm_head"]}, False),
    "product on the embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, False),
    "products on both": ({"target_modules": ["lm_head", "embed_tokens"], "use_dora": True}, False),
    "product on the embeddings, head": (
        {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]},
        True,
    ),
    "embeddings, head tied to them": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "product on the embeddings, head tied to them": (
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
        False,
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl_reranker(tmp_path_factory.mktemp("tied") / "base", SIZES, seed=5)


@pytest.fixture(scope="module")
def reference(base: Path) -> RerankerReference:
    return RerankerReference(base)


def published(reference: RerankerReference, model: Any) -> tuple[float, NDArray[Any]]:
    """A model's score of the pair, and its last state [H], of length 1."""
    inputs = reference.prepare(reference.conversation({"text": QUERY}, {"text": DOCUMENT}))
    words = reference.processor.tokenizer.get_vocab()
    with torch.inference_mode():
        found = model(**inputs, output_hidden_states=True)
    logits_V, state_H = found.logits[0, -1], found.hidden_states[-1][0, -1]
    score = torch.sigmoid(logits_V[words["yes"]] - logits_V[words["no"]])
    return float(score), torch.nn.functional.normalize(state_H, dim=-1).numpy()


def ours(folder: Path, checkpoint: Path, base: Path | None = None) -> tuple[float, NDArray[Any], PublishedRetriever]:
    """The same by the towers, in float32."""
    retriever = open_retriever(str(checkpoint), "qwen3_vl_reranker", None if base is None else str(base))
    written = write_preparation(folder, "r", retriever.recipe, retriever.tokenizer)
    preparer = Preparer(written["rerank"])
    query, document = (preparer.side(Item(text=text.encode())) for text in (QUERY, DOCUMENT))
    row = preparer.pair(query, document, Asked())
    tensors: dict[str, Any] = dict(collate([row], preparer.preparation.buckets))
    for step in retriever.steps:
        tensors |= module_runner(step, load_step(step, retriever.checkpoint.weights))(step.name, tensors)
    state_H = tensors["hidden_states"][0, len(row.input_ids_T) - 1]
    return float(tensors["score"][0, 0]), state_H / np.linalg.norm(state_H), retriever


def assert_same(found: tuple[float, NDArray[Any], Any], wanted: tuple[float, NDArray[Any]]) -> None:
    assert found[0] == pytest.approx(wanted[0], abs=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=1e-5)


def loaded(base: Path) -> Any:
    transformers = importlib.import_module("transformers")
    return transformers.Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()


def trained(base: Path, folder: Path, options: dict[str, Any]) -> Any:
    """Save an adapter whose trained numbers are all random, and return the live model."""
    declare_torchvision_operators()
    peft = importlib.import_module("peft")
    config = peft.LoraConfig(r=3, lora_alpha=6, **{"target_modules": ["q_proj"]} | options)
    model = peft.get_peft_model(loaded(base), config)
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.add_((0.05 if "saved" in name else 0.1) * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(("options", "merges"), ADAPTERS.values(), ids=ADAPTERS.keys())
def test_adapters_score_as_peft_does(
    base: Path, reference: RerankerReference, tmp_path: Path, options: dict[str, Any], merges: bool
) -> None:
    live = trained(base, tmp_path / "adapter", options)
    wanted = published(reference, live)
    assert_same(ours(tmp_path / "towers", tmp_path / "adapter", base), wanted)
    assert abs(wanted[0] - published(reference, reference.model)[0]) > 1e-3
    merged = published(reference, live.merge_and_unload())
    assert (abs(merged[0] - wanted[0]) < 1e-5) == merges


def test_tying_of_which_half_is_stored_is_refused(base: Path, tmp_path: Path) -> None:
    """As PEFT 0.18 saves it, which did not tie; later versions tie the same file when they load it."""
    adapter = tmp_path / "adapter"
    trained(base, adapter, {"target_modules": ["embed_tokens"]})
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "ensure_weight_tying": True}))
    with pytest.raises(ExportError, match=r"embed_tokens\..*: ensure_weight_tying is set, and nothing is stored"):
        open_retriever(str(adapter), "qwen3_vl_reranker", str(base))


def rewritten(base: Path, folder: Path, tied: bool, head: str) -> Path:
    """Copy the checkpoint with a head of its own ("other"), a copy of the embeddings, that alone, or without one."""
    folder.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors" and "index" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(next(base.glob("*.safetensors")))
    if head == "other":
        weights[HEAD] = weights[EMBEDDINGS].flip(0)
    elif head != "none":
        weights[HEAD] = weights[EMBEDDINGS].clone()
    if head == "alone":
        del weights[EMBEDDINGS]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = tied
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("tied", "head"),
    [
        *((True, head) for head in ("none", "copy", "other", "alone")),
        *((False, head) for head in ("none", "other", "alone")),
    ],
)
def test_full_weights_score_as_transformers_does(
    base: Path, reference: RerankerReference, tmp_path: Path, tied: bool, head: str
) -> None:
    checkpoint = rewritten(base, tmp_path / "checkpoint", tied, head)
    if tied or head == "other":
        assert_same(ours(tmp_path / "towers", checkpoint), published(reference, loaded(checkpoint)))
    else:
        reason = "no lm_head.weight is stored, and config.json" if head == "none" else "missing: .*embed_tokens.weight"
        with pytest.raises(ExportError, match=reason):
            open_retriever(str(checkpoint), "qwen3_vl_reranker")


def test_a_head_that_knows_no_answer_is_refused(base: Path, tmp_path: Path) -> None:
    """One that was never trained, with which every pair scores a half."""
    checkpoint = rewritten(base, tmp_path / "checkpoint", False, "other")
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, HEAD: torch.zeros_like(weights[HEAD])}, path, metadata={"format": "pt"})
    retriever = open_retriever(str(checkpoint), "qwen3_vl_reranker")
    head = next(step for step in retriever.steps if step.name == "rerank_head")
    with pytest.raises(ExportError, match=r"weights: lm_head\.weight \('yes' less 'no'\) is all zero"):
        load_step(head, retriever.checkpoint.weights)
