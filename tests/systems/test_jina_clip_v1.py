"""jina-clip-v1 through the running server: bytes in, vectors out, against code that nobody here wrote."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from e2e.exported import Exported
from e2e.pages import QUERIES, SIZES, column, draw_page, encode, infer
from periscope_client import Retriever
from periscope_serve.server import Server
from periscope_testing.jina_clip.reference import JinaClipReference

TOLERANCE = 1e-4
NAME = "jina_clip_v1"
# Wide, tall, smaller than a patch, square, already of the size, odd margins.
PAGES = [draw_page(*size, seed) for seed, size in enumerate((*SIZES, (224, 224), (225, 671), (641, 481)))]


@pytest.fixture(scope="module")
def system(systems: dict[str, Exported]) -> Exported:
    return systems[NAME]


@pytest.fixture(scope="module")
def reference(system: Exported) -> JinaClipReference:
    return JinaClipReference(system.checkpoint)


def one_by_one(reference: JinaClipReference, texts: tuple[str, ...]) -> NDArray[np.float32]:
    return np.concatenate([reference.texts([text]) for text in texts])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_images_and_texts_get_the_reference_s_vectors(
    server: Server, reference: JinaClipReference, protocol: Literal["grpc", "http"]
) -> None:
    with Retriever(server.url(protocol), NAME, protocol=protocol) as retriever:
        images = retriever.embed_image([encode(page) for page in PAGES]).dense_vectors()
        texts = retriever.embed_text(list(QUERIES), role="query").dense_vectors()
        documents = retriever.embed_text(list(QUERIES), role="document").dense_vectors()
    wanted_images, wanted_texts = reference.images(PAGES), one_by_one(reference, QUERIES)
    np.testing.assert_allclose(images, wanted_images, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(texts, wanted_texts, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(texts, documents, rtol=0, atol=1e-6)
    np.testing.assert_allclose(texts @ images.T, wanted_texts @ wanted_images.T, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate((images, texts)), axis=1), 1, atol=1e-6)


def test_a_row_of_a_batch_equals_the_single_row(triton: InferenceServerClient) -> None:
    """Texts of different lengths in one request: each is padded to the longest, and still the same."""
    for path, name, items in (
        ("text", "TEXT", [query.encode() for query in QUERIES]),
        ("image", "IMAGE", [encode(page) for page in PAGES]),
    ):
        together = infer(triton, f"{NAME}_embed_{path}", {name: column(items)})["dense"]
        alone = [infer(triton, f"{NAME}_embed_{path}", {name: column([item])})["dense"][0] for item in items]
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "x".join(map(str, page.size)))
def test_patches_are_exactly_the_published_pixels(
    triton: InferenceServerClient, reference: JinaClipReference, page: Image.Image
) -> None:
    resize, crop, *_ = reference.transform.transforms
    pixels = np.asarray(crop(resize(page))).reshape(14, 16, 14, 16, 3)
    outputs = infer(triton, f"{NAME}_preprocess_image", {"IMAGE": column([encode(page)])})
    np.testing.assert_array_equal(outputs["patches"][0, 0], pixels.transpose(0, 2, 4, 1, 3).reshape(196, 768))
    assert outputs["pool_mask"].tolist() == [[1]]


@pytest.mark.parametrize("query", QUERIES)
def test_tokens_are_the_reference_s(triton: InferenceServerClient, reference: JinaClipReference, query: str) -> None:
    outputs = infer(triton, f"{NAME}_preprocess_text", {"TEXT": column([query.encode()])})
    real = outputs["attention_mask"][0] > 0
    assert outputs["input_ids"][0][real].tolist() == reference.tokenizer.encode(query).ids
    np.testing.assert_array_equal(outputs["attention_mask"], outputs["pool_mask"])


def test_another_crop_is_another_vector(triton: InferenceServerClient, reference: JinaClipReference) -> None:
    """The view of a retriever of this kind without the crop, or with a corner in the place of the centre."""
    page = draw_page(500, 300)
    right = infer(triton, f"{NAME}_embed_image", {"IMAGE": column([encode(page)])})["dense"][0]
    wrong = [page.resize((224, 224), Image.Resampling.BICUBIC), page.crop((0, 0, 300, 300))]
    assert np.abs(right - reference.images([page])[0]).max() <= TOLERANCE
    for vector in reference.images(wrong):
        assert np.abs(right - vector).max() > 10 * TOLERANCE


def refusal(triton: InferenceServerClient, path: str, name: str, item: bytes, **more: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        infer(triton, f"{NAME}_embed_{path}", {name: column([item]), **more})
    return str(caught.value)


def test_a_text_that_the_published_code_would_cut_is_refused(triton: InferenceServerClient) -> None:
    """510 words of one token each, [CLS] and [SEP] are 512."""
    infer(triton, f"{NAME}_embed_text", {"TEXT": column([b"x " * 510])})
    message = refusal(triton, "text", "TEXT", b"x " * 511)
    assert "preprocess: text 0: has 513 tokens, above the limit of 512. Shorten or split it." in message


def test_a_broken_image_says_which(triton: InferenceServerClient) -> None:
    assert "preprocess: image 0: is not an image that can be read" in refusal(triton, "image", "IMAGE", b"no image")
