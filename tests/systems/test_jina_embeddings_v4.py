"""Oddities of jina-embeddings-v4; everything else is in tests/contract."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.served import distance
from contract.servers import Servers
from contract.tolerances import MISTAKE, PARITY
from export.test_towers import QUERY, page, towers
from periscope_client import ItemsFailed
from periscope_export.errors import ExportError
from periscope_export.fidelity.record import Golden
from periscope_export.published import open_retriever
from periscope_testing.files import write_json, write_tensors
from periscope_testing.jina_embeddings_v4 import TASKS, JinaEmbeddingsV4Reference, make_jina_embeddings_v4
from periscope_testing.qwen2_vl import Layout, Qwen2VLSizes
from periscope_testing.reference import Item
from periscope_testing.sentence_transformers_files import write

RECIPE = "jina_embeddings_v4"
MERGED = {"adapters.task": "text-matching", "adapters.merged": True}
SMALL = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64)


@pytest.mark.parametrize(("layout", "tied", "dtype"), [("old", True, torch.bfloat16), ("new", False, torch.float32)])
def test_every_layout(tmp_path: Path, layout: Layout, tied: bool, dtype: torch.dtype) -> None:
    sizes = Qwen2VLSizes(vision_layers=3, language_layers=1, heads=4, kv_heads=2, tied=tied, dtype=dtype)
    checkpoint = make_jina_embeddings_v4(tmp_path / "checkpoint", sizes, layout=layout)
    retriever, reference = open_retriever(str(checkpoint), RECIPE), JinaEmbeddingsV4Reference(checkpoint)
    for place, task in enumerate(TASKS):

        def choose(tensors: Golden, place: int = place) -> None:
            for of_path in tensors.values():
                of_path["adapter_index"] = np.full_like(of_path["adapter_index"], place)

        tensors = towers(retriever, tmp_path / task, choose)
        for path, item in {"text": Item(QUERY, task=task), "image": Item(image=page(), task=task)}.items():
            late_TK, dense_H = (np.asarray(one) for one in reference.embed(item))
            mask = tensors[path]["late_mask"][0] > 0
            np.testing.assert_allclose(tensors[path]["late"][0][mask], late_TK, rtol=0, atol=1e-5)
            np.testing.assert_allclose(tensors[path]["dense"][0], dense_H, rtol=0, atol=1e-5)


def test_a_checkpoint_that_was_merged_for_one_task(tmp_path: Path) -> None:
    """As jinaai/jina-embeddings-v4-vllm-text-matching: a plain Qwen2.5-VL without the projection of late vectors."""
    reference = JinaEmbeddingsV4Reference(make_jina_embeddings_v4(tmp_path / "made", SMALL))
    wanted = reference.embed(Item(QUERY, task="text-matching"))
    reference.live.set_adapter("text-matching")
    weights = reference.live.merge_and_unload().state_dict()
    merged = tmp_path / "merged"
    merged.mkdir()
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (merged / name).write_bytes((tmp_path / "made" / name).read_bytes())
    left_out = ("multi_vector_projector.weight", "multi_vector_projector.bias", "lm_head.weight")
    write_tensors(merged, {name: tensor for name, tensor in weights.items() if name not in left_out})
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    write_json(merged / "config.json", {**config, "model_type": "qwen2_5_vl"})

    with pytest.raises(ExportError, match=r"has no adapters/adapter_config\.json.*--set adapters\.merged=true"):
        open_retriever(str(merged), RECIPE)
    with pytest.raises(ExportError, match=r"no late projection \(multi_vector_p.*--set outputs\.late=null"):
        open_retriever(str(merged), RECIPE, settings=MERGED)
    retriever = open_retriever(str(merged), RECIPE, settings={**MERGED, "outputs.late": None})
    assert list(retriever.recipe.preparation.tasks) == ["text-matching"]
    found = towers(retriever, tmp_path / "towers")["text"]["dense"][0]
    np.testing.assert_allclose(found, np.asarray(wanted.dense), rtol=0, atol=1e-5)


def test_files_of_sentence_transformers_change_nothing(tmp_path: Path) -> None:
    """They name the class that does all of it, and the prompts that the recipe has."""
    checkpoint = make_jina_embeddings_v4(tmp_path / "made", SMALL)
    plain = open_retriever(str(checkpoint), RECIPE, settings={"adapters.task": "code"}).recipe
    prompts = {"query": "Query: ", "passage": "Passage: "}
    write(checkpoint, first="custom_st.Transformer", prompts=prompts, similarity_fn_name="cosine")
    assert open_retriever(str(checkpoint), RECIPE, settings={"adapters.task": "code"}).recipe == plain


def test_one_graph_of_all_tasks_and_that_of_one_give_the_same(servers: Servers) -> None:
    stacked, merged = servers.of("jina_v4"), servers.of("jina_v4_code")
    for item in (Item(QUERY), Item(QUERY, role="document"), Item(image=page(), role="document")):
        found = stacked.embed(replace(item, task="code"))
        assert distance(found, merged.embed(item)) <= PARITY
        assert distance(found, stacked.embed(item)) > MISTAKE


def test_tasks_that_a_retriever_has_not(servers: Servers) -> None:
    for name, task, known in (("jina_v4", "summaries", list(TASKS)), ("jina_v4_code", "retrieval", ["code"])):
        refusal = re.escape(f"has the task {task!r}, which this retriever does not know. Use one of {known}")
        with pytest.raises(ItemsFailed, match=refusal):
            servers.of(name).retriever.embed_text(["energy"], task=task)
