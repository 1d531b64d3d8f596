"""Oddities of Nemotron ColEmbed V2; everything else is in tests/contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contract.served import distance
from contract.servers import Servers
from contract.tolerances import PARITY, ROW
from e2e.pages import draw_page, encode
from periscope_client import Retriever
from periscope_client._endpoint import Protocol
from periscope_export.errors import ExportError
from periscope_export.published import open_retriever
from periscope_runtime.errors import PreparationError
from periscope_runtime.prepare import Row
from periscope_testing.files import rewrite_json
from periscope_testing.nemotron_colembed_v2 import NemotronReference, make_nemotron_colembed_v2
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes
from periscope_testing.reference import Item
from systems.prepared import preparing

RECIPE = "nemotron_colembed_v2"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = Qwen3VLSizes(vision_layers=1, levels=(0,), layers=1)
    return make_nemotron_colembed_v2(tmp_path_factory.mktemp("nemotron") / "checkpoint", sizes, q_max_length=43)


@pytest.fixture(scope="module")
def prepared(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Item], Row]:
    return preparing(checkpoint, RECIPE, tmp_path_factory.mktemp("prepared"))


def test_the_limit_of_queries_is_the_checkpoint_s_and_none_of_documents(
    checkpoint: Path, prepared: Callable[[Item], Row]
) -> None:
    reference = NemotronReference(checkpoint)
    for item in (Item("1" * 20), Item("1" * 2000, draw_page(90, 60), role="document")):
        np.testing.assert_array_equal(prepared(item).input_ids_T, reference.ids(item))
    with pytest.raises(PreparationError, match="tokens, above the limit of 43"):
        prepared(Item("1" * 21))
    with pytest.raises(PreparationError, match=r"tokens, \d+ of them visual, above the limit of 3212"):
        prepared(Item("1" * 3150, draw_page(300, 200), role="document"))


def test_a_text_alone_is_no_document(prepared: Callable[[Item], Row]) -> None:
    with pytest.raises(PreparationError, match="role 'document'"):
        prepared(Item("revenue", role="document"))


def test_another_pooling_and_other_recipes_are_refused(tmp_path: Path) -> None:
    checkpoint = make_nemotron_colembed_v2(tmp_path / "made", Qwen3VLSizes(vision_layers=1, levels=(0,), layers=1))
    with pytest.raises(ExportError, match="model_type is 'qwen3_vl_nemotron_embed', this system needs 'qwen3_vl'"):
        open_retriever(str(checkpoint), "qwen3_vl_embedding")
    rewrite_json(checkpoint / "config.json", pooling="avg")
    with pytest.raises(ExportError, match="pooling is 'avg', this system needs 'colbert'"):
        open_retriever(str(checkpoint), RECIPE)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_pages_of_13_megabytes_pass_the_wire(servers: Servers, protocol: Protocol) -> None:
    """As many visual tokens, and as wide, as published: four pages of one request are 52 MB."""
    served = servers.of("nemotron_8b")
    page = draw_page(896, 896, 3)
    with Retriever(served.server.url(protocol), served.system.name, protocol=protocol) as retriever:
        pages = retriever.embed_image([encode(page)] * 4)
        queries = retriever.embed_text(["revenue by region"], role="query")
        scores_QN = retriever.maxsim(queries, pages)
    late = pages.late_vectors()
    wanted = served.reference.embed(Item(image=page, role="document"))
    assert {one.shape for one in late} == {np.shape(np.asarray(wanted.late))}
    assert late[0].nbytes > 784 * 4096 * 4
    assert distance(served.vectors(pages)[0], wanted) <= PARITY
    assert np.ptp(np.stack(late), axis=0).max() <= ROW
    np.testing.assert_allclose(
        scores_QN[0], [(queries.late_vectors()[0] @ one.T).max(1).sum() for one in late], atol=PARITY, rtol=0
    )
