"""Instructions, tasks, dimensions and texts beside images reach the server, or are refused before anything is sent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from periscope_client import (
    Embeddings,
    InvalidInput,
    ItemsFailed,
    MissingVectors,
    Retriever,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client._transport import Tensors

from .fake import FakeTransport, Outputs, answer, config
from .vectors import expected_late, same


def picture(width: int) -> Image.Image:
    return Image.new("RGB", (width, 5), (width % 256, 20, 30))


def late(embeddings: Embeddings, index: int = 0) -> Any:
    return embeddings.late_vectors()[index]


def test_info(rich: Retriever, retriever: Retriever, judge: Retriever) -> None:
    info = rich.info()
    assert (info.accepts, info.fused) == (("text", "image", "video"), ("image", "video"))
    assert info.instructions == info.tasks == ("text", "image", "video", "rerank")
    assert (info.dense_width, info.dimensions) == (4, (2, 4))
    assert info.queries == info.candidates == ("text", "image", "video")
    assert (info.reranks, info.max_candidates) == (True, 3)

    info = judge.info()
    assert (info.accepts, info.outputs, info.late_width, info.dense_width) == ((), (), None, None)
    assert (info.queries, info.candidates, info.max_candidates) == (("text",), ("text",), 2)

    info = retriever.info()
    assert (info.fused, info.instructions, info.tasks, info.dimensions) == ((), (), (), None)
    assert (info.reranks, info.queries, info.candidates, info.max_candidates) == (False, (), (), None)


def test_instruction_and_task(rich: Retriever) -> None:
    plain, asked, named = (
        rich.embed_text(["one two"], **options)  # type: ignore[arg-type]
        for options in ({}, {"instruction": "Find it."}, {"task": "find"})
    )
    np.testing.assert_array_equal(late(plain), expected_late("query", b"one two", 3))
    np.testing.assert_array_equal(late(asked), expected_late("query/Find it.", b"one two", 3))
    assert same(asked, named)
    with pytest.raises(ItemsFailed, match="preprocess: has an instruction that is empty"):
        rich.embed_text(["a"], instruction="")
    page = rich.embed_image([picture(16)], role="query", instruction="größer")
    np.testing.assert_array_equal(late(page), expected_late("query/größer", picture(16).tobytes(), 2))
    with pytest.raises(ItemsFailed, match=r"preprocess: task 'sort' is unknown\. Use one of: find, compare"):
        rich.embed_text(["a"], task="sort")


def test_text_beside_images(rich: Retriever) -> None:
    pages = [picture(8), picture(16), picture(24)]
    fused = rich.embed_image(pages, ["ä caption", None, ""])
    pixels = [page.tobytes() for page in pages]
    np.testing.assert_array_equal(late(fused, 0), expected_late("document", pixels[0] + "/ä caption".encode(), 1))
    np.testing.assert_array_equal(late(fused, 1), expected_late("document", pixels[1], 2))
    np.testing.assert_array_equal(
        late(fused, 2), expected_late("document", pixels[2], 3), "to the server empty is none"
    )
    assert fused.names == ["8x5 image", "16x5 image", "24x5 image"]
    lazily = rich.embed_image(iter(pages), text=(text for text in ("ä caption", None, "")))
    assert same(lazily, fused)
    kept = rich.embed_image(pages, [None, 7, "refuse: no"], on_error="keep")  # type: ignore[list-item]
    assert str(kept.errors[1]) == "item 1 (16x5 image): read: a text is a str, not int"
    assert str(kept.errors[2]) == "item 2 (24x5 image): preprocess: no"


def test_as_many_texts_as_images(rich: Retriever) -> None:
    def images(count: int) -> Iterator[Image.Image]:
        return (picture(8) for _ in range(count))

    with pytest.raises(ValueError, match=r"text has one entry for each item .*: 1 for 2 items"):
        rich.embed_image([picture(8)] * 2, ["a"])
    with pytest.raises(ValueError, match=r"text has one entry .*: text ends after 1"):
        rich.embed_image(images(2), ["a"])
    with pytest.raises(ValueError, match=r"text has one entry .*: the items end after 2"):
        rich.embed_image(images(2), itertools.repeat("a"))
    for wrong in ("a", b"a"):
        with pytest.raises(TypeError, match=r"text is a collection: for a single one write text=\[text\]"):
            rich.embed_image([picture(8)], wrong)  # type: ignore[arg-type]
    assert len(rich.embed_image([], [])) == 0


def test_dimensions(rich: Retriever) -> None:
    whole = rich.embed_text(["a b"], outputs=["dense"]).dense_vectors()
    for dimensions in (2, 3, 4, np.int64(3)):
        cut = rich.embed_text(["a b"], dimensions=dimensions).dense_vectors()  # type: ignore[arg-type]
        assert cut.shape == (1, dimensions)
        np.testing.assert_allclose(cut, whole[:, :dimensions] / np.linalg.norm(whole[:, :dimensions]), atol=1e-6)
    failed = rich.embed_text(["fault"], dimensions=3, on_error="keep")
    assert failed.dense is not None
    assert failed.dense.shape == (1, 3)
    short, wide = rich.embed_text(["a"], dimensions=2), rich.embed_text([], dimensions=3)
    with pytest.raises(ValueError, match=r"dense vectors of 2 and of 3 dimensions are not comparable\. Embed one side"):
        Embeddings.concat([short, wide])


def test_dimensions_that_cannot_be_had(rich: Retriever, retriever: Retriever, slim: Retriever) -> None:
    for wrong in (0, 1, 5, -2):
        with pytest.raises(MissingVectors, match=rf"'rich' .* no dense vectors of {wrong} dimensions: it has 2 to 4"):
            rich.embed_text(["a"], dimensions=wrong)
    with pytest.raises(MissingVectors, match=r"'toy' \(recipe 'standin'\) has no dense vectors of 2 .*: it has 4 only"):
        retriever.embed_text(["a"], dimensions=2)
    assert same(retriever.embed_text(["a"], dimensions=4), retriever.embed_text(["a"])), "the width that it has"
    with pytest.raises(MissingVectors, match=r"'slim' .* has no dense vectors"):
        slim.embed_text(["a"], dimensions=2)
    with pytest.raises(ValueError, match="outputs leaves them out"):
        rich.embed_text(["a"], dimensions=2, outputs=["late"])
    with pytest.raises(TypeError):
        rich.embed_text(["a"], dimensions=2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instruction": "Find it."}, r"'toy' \(recipe 'standin'\) takes no instruction for images\. Leave it out"),
        ({"task": "find"}, "takes no task for images"),
        ({"text": [None]}, "takes no text beside images"),
    ],
)
def test_options_that_the_retriever_does_not_have(
    retriever: Retriever, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*arguments: object) -> None:
        raise AssertionError("something was sent")

    monkeypatch.setattr(retriever._async._connection, "infer", never)
    with pytest.raises(InvalidInput, match=message):
        retriever.embed_image([picture(8)], **options)


def test_options_of_some_kinds_only(transport: FakeTransport) -> None:
    transport.others["toy_embed_video"] = {**config(), "input": [{"name": "VIDEO"}, {"name": "INSTRUCTION"}]}
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        assert retriever.info().instructions == ("video",)
        with pytest.raises(InvalidInput, match=r"takes no instruction for texts, only for videos\."):
            retriever.embed_text(["a"], instruction="b")


def test_wrong_options(rich: Retriever) -> None:
    with pytest.raises(ItemsFailed, match="has both an instruction and a task"):
        rich.embed_text(["a"], instruction="Find it.", task="find")
    for name in ("role", "instruction", "task"):
        with pytest.raises(TypeError, match=f"{name} is a str or None, not bytes"):
            rich.embed_text(["a"], **{name: b"find"})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="not valid Unicode"):
        rich.embed_text(["a"], instruction="\ud800")


def test_inputs_on_the_wire(transport: FakeTransport) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []

    def reply(model: str, inputs: Tensors) -> Outputs:
        sent.append((model, {name: array.tolist() for name, array in inputs.items()}))
        return answer() | {"dense": np.ones((1, inputs["DIMENSIONS"][0, 0]), np.float32)}

    names = ("TEXT", "IMAGE", "VIDEO", "ROLE", "INSTRUCTION", "TASK", "DIMENSIONS")
    description = config(outputs=("late", "late_mask", "dense"))
    description["input"] = [{"name": name} for name in names]
    description["output"][-1]["dims"] = ["-1"]
    description["parameters"] |= {"dense_width": {"string_value": "8"}, "dense_smallest": {"string_value": "2"}}
    transport.description = transport.others["toy_embed_video"] = description
    transport.reply = reply
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        retriever.embed_text(["a"], instruction="b", dimensions=2)
        retriever.embed_image([b"a\0"], ["c"], task="d", dimensions=8)
        retriever.embed_video([[b"a\0", b"b"]], role=None, dimensions=8)
    common = {"DIMENSIONS": [[8]]}
    assert sent == [
        ("toy_embed_text", {"TEXT": [[b"a"]], "ROLE": [[b"query"]], "INSTRUCTION": [[b"b"]], "DIMENSIONS": [[2]]}),
        (
            "toy_embed_image",
            {"TEXT": [[b"c"]], "IMAGE": [[b"a\0"]], "ROLE": [[b"document"]], "TASK": [[b"d"]], **common},
        ),
        ("toy_embed_video", {"VIDEO": [[b"a\0", b"b"]], **common}),
    ]


def test_several_images_in_an_item(transport: FakeTransport) -> None:
    sent: list[Any] = []

    def reply(model: str, inputs: Tensors) -> Outputs:
        sent.append(inputs["IMAGE"].tolist())
        return answer()

    transport.description = {**config(), "input": [{"name": "IMAGE", "dims": ["-1"]}]}
    transport.reply = reply
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        assert retriever.info().several_images
        items: list[Any] = [[b"a", b"b"], b"c", (b"d",), [], [b"e", b""], [b"f", 7]]
        found = retriever.embed_image(items, on_error="keep")
    assert sorted(sent) == [[[b"a", b"b"]], [[b"c"]], [[b"d"]]]
    assert found.names[:3] == ["1 bytes (2 images)", "1 bytes", "1 bytes"]
    messages = {place: str(error) for place, error in found.errors.items()}
    assert messages[3].endswith("read: the item has no images")
    assert "read: image 1 (0 bytes): the image is empty" in messages[4]
    assert "read: image 1 (int): an image is a path" in messages[5]
    assert sorted(messages) == [3, 4, 5]


def test_several_images_are_refused_where_an_item_has_one(transport: FakeTransport) -> None:
    transport.description = {**config(), "input": [{"name": "IMAGE", "dims": ["1"]}]}
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        assert not retriever.info().several_images
        found = retriever.embed_image([[b"a", b"b"], b"c"], on_error="keep")
    assert list(found.errors) == [0]
    assert "takes one image an item. Embed them as items of their own" in str(found.errors[0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "the parameter 'dense_width' of the model 'toy_embed_text' is ''"),
        ({"dense_width": "eight"}, "'dense_width' of the model 'toy_embed_text' is 'eight', not a positive number"),
        ({"dense_width": "8"}, "the parameter 'dense_smallest'"),
        ({"dense_width": "8", "dense_smallest": "0"}, "'dense_smallest' .* is '0'"),
    ],
)
def test_widths_that_nothing_says(transport: FakeTransport, parameters: dict[str, str], message: str) -> None:
    description = config(outputs=("dense",))
    description["input"] = [{"name": "DIMENSIONS"}]
    description["output"][0]["dims"] = ["-1"]
    description["parameters"] |= {name: {"string_value": value} for name, value in parameters.items()}
    transport.description = description
    with pytest.raises(UnexpectedAnswer, match=message), Retriever("fake:1", "toy", transport=transport):
        pass  # pragma: no cover


def test_a_vector_of_another_width_than_asked_for(transport: FakeTransport) -> None:
    transport.description = config(outputs=("dense",))
    transport.reply = {"dense": np.ones((1, 3), np.float32)}
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        kept = retriever.embed_text(["a"], on_error="keep")
    assert isinstance(kept.errors[0].cause, UnexpectedAnswer)
    assert "the dense vector has 3 dimensions, not 2" in str(kept.errors[0])


def test_embeds_everything_but_does_not_rerank(transport: FakeTransport) -> None:
    transport.others["toy_embed_video"] = config()
    with (
        Retriever("fake:1", "toy", transport=transport) as retriever,
        pytest.raises(UnknownModel, match="only embeds texts, images and videos"),
    ):
        retriever.rerank("q", ["a"])


def test_only_reranks(judge: Retriever) -> None:
    with pytest.raises(UnknownModel, match="'judge' does not embed texts, it only reranks"):
        judge.embed_text(["a"], outputs=["late"])
    with pytest.raises(UnknownModel, match="'judge' does not embed images, it only reranks"):
        judge.similarity_maps("a", picture(8))
