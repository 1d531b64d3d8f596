"""One preparer shared by threads gives what it gives alone."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from periscope_runtime.collate import collate
from periscope_runtime.errors import PreparationError
from periscope_runtime.prepare import Preparer, Row
from runtime.pictures import encode, noise, with_alpha

THREADS = 8
Item = tuple[str, bytes]

ITEMS: list[Item] = [
    *(
        ("image", encode(noise(40 + 31 * n, 150 - 9 * n), name))
        for n, name in enumerate(["PNG", "JPEG", "WEBP", "TIFF"])
    ),
    ("image", encode(with_alpha(70, 90), "PNG")),
    ("image", encode(noise(50, 50).quantize(9), "GIF")),
    ("image", b"no image"),
    ("image", encode(noise(60, 60), "PNG")[:900]),
    *(("text", f"how many visitors in {year}?".encode()) for year in range(2000, 2012)),
    ("text", "\u56fe\u8868 \U0001f4c8".encode()),
    ("text", b"\xff"),
    ("text", b""),
]


def outcome(preparer: Preparer, item: Item) -> str | dict[str, object]:
    """All that a preparation gives, in a form that can be compared."""
    kind, data = item
    try:
        row: Row = preparer.text(data) if kind == "text" else preparer.image(data)
    except PreparationError as error:
        return str(error)
    return {name: array.tolist() for name, array in collate([row], preparer.preparation.buckets).items()}


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_eight_threads_at_once_prepare_what_one_prepares(preparer: Preparer) -> None:
    expected = [outcome(preparer, item) for item in ITEMS]
    barrier = Barrier(THREADS)

    def work(seed: int) -> list[str | dict[str, object]]:
        order = list(range(len(ITEMS)))
        random.Random(seed).shuffle(order)
        barrier.wait(timeout=60)
        outcomes = {index: outcome(preparer, ITEMS[index]) for index in order}
        return [outcomes[index] for index in range(len(ITEMS))]

    with ThreadPoolExecutor(THREADS) as pool:
        for outcomes in pool.map(work, range(THREADS)):
            assert outcomes == expected


def test_preparing_twice_gives_the_same(preparer: Preparer) -> None:
    assert [outcome(preparer, item) for item in ITEMS[:6]] == [outcome(preparer, item) for item in ITEMS[:6]]
