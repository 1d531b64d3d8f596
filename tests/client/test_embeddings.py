"""The container of vectors: slices, joins, and the file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from periscope_client import Embeddings, FingerprintMismatch, InvalidInput, ItemError, MissingVectors, VectorFileError

from .vectors import embeddings, same


def failed() -> Embeddings:
    whole = embeddings(2, 3, 4)
    assert whole.late is not None
    late = [whole.late[0], None, whole.late[2]]
    errors = {1: ItemError(1, "item 1", InvalidInput("bad"))}
    return Embeddings(late, None, "f", "recipe", whole.names, errors)


def test_indexing() -> None:
    whole = embeddings(1, 2, 3, 4)
    assert len(whole) == len(list(whole)) == 4
    assert whole[1].names == ["item 1"]
    assert whole[-1].names == ["item 3"]
    assert whole[1:3].names == ["item 1", "item 2"]
    assert whole[[3, 0]].names == ["item 3", "item 0"]
    assert whole[np.array([2])].late_vectors()[0].shape == (3, 4)
    assert whole[[]].dense is not None
    assert len(whole[[]]) == 0
    with pytest.raises(IndexError):
        whole[4]


def test_errors_follow_their_items() -> None:
    partial = failed()
    assert list(partial[1:].errors) == [0]
    assert partial[1:].errors[0].index == 0
    assert partial[::2].errors == {}
    assert partial.without_failed().names == ["item 0", "item 2"]
    joined = Embeddings.concat([partial, partial])
    assert [error.index for error in joined.errors.values()] == list(joined.errors) == [1, 4]


def test_concat() -> None:
    whole = embeddings(1, 2, 3, 4, 5)
    assert same(Embeddings.concat([whole[:2], whole[2:2], whole[2:]]), whole)
    assert Embeddings.concat([whole[:2], whole[2:]]).names == whole.names
    with pytest.raises(FingerprintMismatch, match="not comparable"):
        Embeddings.concat([whole, embeddings(1, fingerprint="g")])
    with pytest.raises(MissingVectors, match="not all parts have dense vectors"):
        Embeddings.concat([whole, embeddings(1, dense=False)])
    with pytest.raises(MissingVectors, match="not all parts have late vectors"):
        Embeddings.concat([Embeddings(None, whole.dense, "f", "recipe", whole.names), whole])
    with pytest.raises(ValueError, match="at least one"):
        Embeddings.concat([])
    with pytest.raises(ValueError, match="1 vectors for 2 items"):
        Embeddings(None, np.zeros((1, 3), np.float32), "f", "r", ["a", "b"])


@given(st.lists(st.integers(0, 6), max_size=6), st.booleans())
def test_round_trip(lengths: list[int], dense: bool) -> None:
    whole = embeddings(*lengths, dense=dense)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors"  # no .npz is added
        whole.save(path)
        loaded = Embeddings.load(path)
        assert same(loaded, whole)
        assert (loaded.recipe, loaded.names) == (whole.recipe, whole.names)
        assert list(path.parent.iterdir()) == [path], "nothing is left beside the file"


def test_dense_alone_and_any_name(tmp_path: Path) -> None:
    only = Embeddings(None, np.ones((2, 3), np.float32), "f", "r", ["größer", "zwei\nZeilen"])
    only.save(tmp_path / "a.npz")
    loaded = Embeddings.load(tmp_path / "a.npz")
    assert loaded.late is None
    assert loaded.names == only.names


def test_file_is_plain_numpy(tmp_path: Path) -> None:
    whole = embeddings(2, 0, 3)
    whole.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert set(archive) == {"late", "late_offsets", "dense", "fingerprint", "recipe", "names"}
        assert archive["late_offsets"].tolist() == [0, 2, 2, 5]
        np.testing.assert_array_equal(archive["late"][2:5], whole.late_vectors()[2])


def test_dense_vectors_are_complete_or_missing() -> None:
    whole = embeddings(1, 2)
    assert whole.dense_vectors() is whole.dense
    with pytest.raises(MissingVectors, match="no dense vectors here"):
        embeddings(1, dense=False).dense_vectors()
    rows = np.array([[1, 2], [np.nan, np.nan]], np.float32)
    errors = {1: ItemError(1, "b", InvalidInput("bad"))}
    with pytest.raises(MissingVectors, match="1 of 2 items failed"):
        Embeddings(None, rows, "f", "r", ["a", "b"], errors).dense_vectors()


@pytest.mark.parametrize("kind", ["late", "dense"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_an_error(tmp_path: Path, kind: str, value: float) -> None:
    """Wherever it comes from: arrays of the caller's own, and files of those who did not look."""
    arrays = embeddings(2, 3, 4)
    good = arrays.late_vectors()[2].copy()
    late, dense = arrays.late_vectors(), arrays.dense_vectors()
    (late[1] if kind == "late" else dense[1])[0] = value
    broken = Embeddings([*late], dense, "f", "recipe", arrays.names)
    for use in (broken.late_vectors, broken.dense_vectors, lambda: broken.save(tmp_path / "a.npz")):
        with pytest.raises(MissingVectors, match=r"of 1 of 3 items are not finite .* item 1 \(item 1\)"):
            use()
    assert len(broken[[0, 2]].late_vectors()) == 2

    np.savez(
        tmp_path / "old.npz",
        late=np.concatenate(late),
        late_offsets=[0, 2, 5, 9],
        dense=dense,
        names=arrays.names,
        fingerprint="f",
        recipe="recipe",
    )
    loaded = Embeddings.load(tmp_path / "old.npz")
    assert str(loaded.errors[1]).startswith(f"item 1 (item 1): its vectors in {tmp_path / 'old.npz'} are not finite")
    assert list(loaded.errors) == [1]
    with pytest.raises(MissingVectors, match="1 of 3 items failed"):
        loaded.dense_vectors()
    np.testing.assert_array_equal(loaded.without_failed().late_vectors()[1], good)


def test_partial_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(MissingVectors, match=r"Go on with embeddings\.without_failed"):
        failed().save(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings(2).save(tmp_path / "a.npz")

    def disk_full(file: object, **arrays: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", disk_full)
    with pytest.raises(OSError, match="No space"):
        embeddings(3, 4).save(tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert len(Embeddings.load(tmp_path / "a.npz")) == 1


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        embeddings(2).save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link.npz").symlink_to("vectors.npz")
    for count in (1, 2):
        embeddings(*range(1, count + 1)).save(tmp_path / "link.npz")
        assert (tmp_path / "link.npz").is_symlink()
        assert len(Embeddings.load(tmp_path / "vectors.npz")) == count


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not vectors")
    (tmp_path / "empty").write_bytes(b"")
    np.savez(tmp_path / "foreign.npz", a=np.ones(3))
    np.save(tmp_path / "single.npy", np.ones(3))
    np.savez(tmp_path / "pickled.npz", names=np.array([object()], dtype=object))
    embeddings(2, 3).save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:200])
    for path in tmp_path.iterdir():
        with pytest.raises(VectorFileError, match=path.name):
            Embeddings.load(path)
    with pytest.raises(VectorFileError, match="it lacks fingerprint, recipe, names"):
        Embeddings.load(tmp_path / "foreign.npz")
    with pytest.raises(FileNotFoundError):
        Embeddings.load(tmp_path / "missing.npz")
