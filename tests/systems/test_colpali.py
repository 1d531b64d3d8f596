"""ColPali through the server: its vectors and scores are the published ones, in every layout it comes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported
from e2e.pages import column, draw_page, encode, infer, rows
from periscope_client import Retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import resolve
from periscope_serve.server import Server
from periscope_testing.colpali.reference import ColPaliReference

TOLERANCE = 1e-4
SIZES = ((100, 100), (500, 90), (70, 620), (20, 17), (1100, 900), (448, 448))
QUERIES = (
    "revenue by region",
    "Welche Seite zeigt den Energieverbrauch?",
    "図表 📈 of 2024, naïve café",
    "a\nb  {text} {augmentation} <pad> <bos> <loc0001>",
    "  x\n",
    "how many visitors " * 20,
)
NAMES = ("colpali", "colpali_merged", "colpali_hf")

Vectors = Sequence[NDArray[np.float32]]


def largest_difference(found: Vectors, wanted: Vectors) -> float:
    assert [vectors.shape for vectors in found] == [vectors.shape for vectors in wanted]
    return max(float(np.abs(one - other).max()) for one, other in zip(found, wanted, strict=True))


@pytest.fixture(scope="module")
def references(systems: dict[str, Exported]) -> dict[str, ColPaliReference]:
    return {name: ColPaliReference(systems[name].checkpoint, side=56) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_pages_queries_and_scores_are_the_published_ones(
    server: Server, references: dict[str, ColPaliReference], name: str
) -> None:
    reference = references[name]
    pages = [draw_page(*size, seed) for seed, size in enumerate(SIZES)]
    with Retriever(server.grpc_url, name) as retriever:
        found_pages = retriever.embed_image([encode(page) for page in pages])
        found_queries = retriever.embed_text(list(QUERIES), role="query")
        scores = retriever.maxsim(found_queries, found_pages)
    wanted_pages, wanted_queries = reference.images(pages), reference.queries(QUERIES)
    assert largest_difference(found_pages.late_vectors(), wanted_pages) <= TOLERANCE
    assert largest_difference(found_queries.late_vectors(), wanted_queries) <= TOLERANCE
    np.testing.assert_allclose(scores, reference.maxsim(wanted_queries, wanted_pages), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1"])
def test_pages_of_other_modes_are_prepared_as_published(
    triton: InferenceServerClient, references: dict[str, ColPaliReference], mode: str
) -> None:
    """Transparency over white."""
    page = draw_page(90, 60).convert(mode)
    if "A" in mode:
        page.putalpha(page.getchannel(0).point(lambda value: value // 2))
    (found,) = rows(infer(triton, "colpali_hf_embed_image", {"IMAGE": column([encode(page)])}))
    assert largest_difference([found], references["colpali_hf"].images([page])) <= TOLERANCE


def test_a_page_has_a_vector_for_each_patch_and_each_token_of_its_prompt(server: Server) -> None:
    with Retriever(server.grpc_url, "colpali") as retriever:
        (late,) = retriever.embed_image([draw_page(300, 200)]).late_vectors()
    assert late.shape == (1024 + len(("<bos>", "Describe", " the", " image.", "\n")), 128)
    np.testing.assert_allclose(np.linalg.norm(late, axis=-1), 1, atol=1e-6)


def test_a_row_of_a_batch_equals_the_single_row(triton: InferenceServerClient) -> None:
    pages = [encode(draw_page(*size)) for size in ((100, 100), (500, 90))]
    together = rows(infer(triton, "colpali_embed_image", {"IMAGE": column(pages)}))
    alone = [rows(infer(triton, "colpali_embed_image", {"IMAGE": column([page])}))[0] for page in pages]
    assert largest_difference(together, alone) <= 1e-5
    # Of very different lengths: attention is bidirectional, so padding that is seen would show.
    texts = [query.encode() for query in QUERIES]
    together = rows(infer(triton, "colpali_embed_text", {"TEXT": column(texts)}))
    alone = [rows(infer(triton, "colpali_embed_text", {"TEXT": column([text])}))[0] for text in texts]
    assert largest_difference(together, alone) <= 1e-5


def test_the_augmentation_tokens_are_text_and_padding_is_not(triton: InferenceServerClient) -> None:
    """Both have the id of <pad>."""
    prepared = infer(triton, "colpali_preprocess_text", {"TEXT": column([b"revenue", b"revenue " * 20])})
    ids_BT, mask_BT = prepared["input_ids"], prepared["attention_mask"]
    assert not ids_BT[0][mask_BT[0] == 0].any()
    assert (mask_BT[0] == 0).sum() > 10
    real = ids_BT[0][mask_BT[0] > 0]
    assert (real == 0).sum() == 10
    assert real[0] == 2
    assert (real == 2).sum() == 1, "<bos> once, although the tokenizer would add its own"


@pytest.mark.parametrize("size", SIZES)
def test_patches_are_exactly_the_published_pixels(
    triton: InferenceServerClient, references: dict[str, ColPaliReference], size: tuple[int, int]
) -> None:
    page = draw_page(*size)
    (patches,) = infer(triton, "colpali_preprocess_image", {"IMAGE": column([encode(page)])})["patches"]
    processor = references["colpali"].processor.image_processor
    (pixels,) = processor(page, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    cut = patches.reshape(32, 32, 3, 14, 14).transpose(2, 0, 3, 1, 4).reshape(3, 448, 448)
    np.testing.assert_array_equal(cut, pixels)


@pytest.mark.parametrize("query", ["revenue by region", "Umsätze nach 地区 in 2025, 🙂 cafés?"])
def test_similarity_maps_are_those_of_the_published_vectors(
    server: Server, references: dict[str, ColPaliReference], query: str
) -> None:
    page, tokenize = draw_page(500, 300), references["colpali"].processor.tokenizer.tokenize
    with Retriever(server.grpc_url, "colpali") as retriever:
        found = retriever.similarity_maps(query, page)
    (query_TK,), (page_SK,) = references["colpali"].queries([query]), references["colpali"].images([page])
    # Of the words' own tokens; a blank that no letter took along is of no word.
    token, maps = len(tokenize("<bos>Question:")), []
    for word in query.split(" "):
        pieces = tokenize(" " + word)
        own = [token + place for place, piece in enumerate(pieces) if piece != "▁"]
        maps.append(np.einsum("tk,rck->trc", query_TK[own], page_SK[:1024].reshape(32, 32, 128)).mean(0))
        token += len(pieces)
    assert token + 11 == len(query_TK)
    assert list(found.words) == query.split(" ")
    np.testing.assert_allclose(found.maps, np.array(maps), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("published", "other"),
    [
        ("Question: ", "Query: "),  # colpali-engine 0.3.4 to 0.3.10
        ("Question: ", ""),  # and since
    ],
)
def test_another_prompt_is_far_away(
    references: dict[str, ColPaliReference], published: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = references["colpali_hf"]
    (wanted,) = reference.queries(["revenue"])
    assert reference.processor.query_prefix == published
    monkeypatch.setattr(reference.processor, "query_prefix", other)
    (found,) = reference.queries(["revenue"])
    assert np.abs(found[-11:] - wanted[-11:]).max() > 100 * TOLERANCE


def test_a_crop_is_far_away(references: dict[str, ColPaliReference]) -> None:
    reference, page = references["colpali_hf"], draw_page(300, 100)
    cropped = page.crop((100, 0, 200, 100))
    assert largest_difference(reference.images([cropped]), reference.images([page])) > 100 * TOLERANCE


def test_what_a_checkpoint_says_of_images_and_prompts_wins() -> None:
    stored: dict[str, dict[str, Any]] = {
        "preprocessor_config.json": {"size": {"height": 224, "width": 224}, "image_mean": [0.1, 0.2, 0.3]},
        "processor_config.json": {"query_prefix": "Query: ", "visual_prompt_prefix": "What is this?"},
    }
    recipe, _ = resolve(load_recipe("colpali"), lambda file: stored.get(file))
    assert recipe.preparation.page_policy.side == 224
    assert recipe.preparation.page_policy.mean == (0.1, 0.2, 0.3)
    assert recipe.preparation.prompts == {
        "query": {"text": "<bos>Query: {text}{augmentation}\n"},
        "document": {"image": "<image><bos>What is this?\n"},
    }
