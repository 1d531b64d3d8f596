"""ColPali, where it is unlike the others: a page has a fixed grid, and the augmentation token is the padding token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contract.served import Served, column
from contract.servers import Servers
from contract.tolerances import PARITY
from e2e.pages import draw_page
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import resolve
from periscope_testing.colpali.reference import ColPaliReference
from periscope_testing.reference import Item


@pytest.fixture
def colpali(servers: Servers) -> Served:
    return servers.of("colpali")


def test_a_page_has_a_vector_for_each_patch_and_each_token_of_its_prompt(colpali: Served) -> None:
    late, _ = colpali.embed(Item(image=draw_page(300, 200), role="document"))
    assert np.shape(np.asarray(late)) == (1024 + len(("<bos>", "Describe", " the", " image.", "\n")), 128)


def test_the_augmentation_tokens_are_text_and_padding_is_not(colpali: Served) -> None:
    """Both have the id of <pad>."""
    prepared = colpali.step("preprocess_text", {"TEXT": column([b"revenue", b"revenue " * 20])})
    ids_BT, mask_BT = prepared["input_ids"], prepared["attention_mask"]
    assert not ids_BT[0][mask_BT[0] == 0].any()
    assert (mask_BT[0] == 0).sum() > 10
    real = ids_BT[0][mask_BT[0] > 0]
    assert (real == 0).sum() == 10
    assert real[0] == 2
    assert (real == 2).sum() == 1, "<bos> once, although the tokenizer would add its own"


@pytest.mark.parametrize("query", ["revenue by region", "Umsätze nach 地区 in 2025, 🙂 cafés?"])
def test_similarity_maps_are_those_of_the_published_vectors(colpali: Served, query: str) -> None:
    page, reference = draw_page(500, 300), colpali.reference
    assert isinstance(reference, ColPaliReference)
    tokenize = reference.processor.tokenizer.tokenize
    found = colpali.retriever.similarity_maps(query, page)
    (query_TK,), (page_SK,) = reference.queries([query]), reference.images([page])
    # Of the words' own tokens; a blank that no letter took along is of no word.
    token, maps = len(tokenize("<bos>Question:")), []
    for word in query.split(" "):
        pieces = tokenize(" " + word)
        own = [token + place for place, piece in enumerate(pieces) if piece != "▁"]
        maps.append(np.einsum("tk,rck->trc", query_TK[own], page_SK[:1024].reshape(32, 32, 128)).mean(0))
        token += len(pieces)
    assert token + 11 == len(query_TK)
    assert list(found.words) == query.split(" ")
    np.testing.assert_allclose(found.maps, np.array(maps), rtol=0, atol=PARITY)


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
