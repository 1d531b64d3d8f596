"""Finding a checkpoint folder: a local directory, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from periscope_export.errors import ExportError

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?$")
_SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})$")
_MODULE = re.compile(r"^\d+_Dense/")
_SIDE_FILES = (".json", ".txt", ".model", ".jinja")
_ANSWER_SECONDS = 20.0


class Location(NamedTuple):
    """A folder on this machine and the name of it that may be written into what is exported."""

    folder: Path
    label: str


def locate(location: str | Path, revision: str | None = None, folders: Sequence[str] = ()) -> Location:
    """Return the folder of a checkpoint, downloading it for a hub id (`org/name` or `org/name@revision`).

    Weights are fetched from its root, and from these `folders` of it. A directory on this machine wins over a hub id
    of the same spelling. Raises `ExportError` when the location is neither, when a revision is given for a directory or
    twice, and when the hub does not hand the files out.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ExportError(
                f"checkpoint: {location} is a directory, which has no revision {revision!r}. Leave it out."
            )
        return Location(path.resolve(), _label(path.resolve()))
    if path.exists():
        raise ExportError(f"checkpoint: {location} is a file. Give the directory that holds it.")
    if isinstance(location, Path) or not _HUB_ID.match(location):
        raise ExportError(
            f"checkpoint: there is no directory {location}, and it is not a hub id either. "
            "Give a directory, or an id as in vidore/colqwen2-v1.0."
        )
    repo, _, pinned = location.partition("@")
    if pinned and revision is not None and pinned != revision:
        raise ExportError(f"checkpoint: {location} names revision {pinned!r} and {revision!r} is given too. Give one.")
    folder = _download(repo, pinned or revision, folders)
    return Location(folder, _label(folder))


def hub_id(location: str) -> str | None:
    """Return `org/name` for a hub id, without its revision, or a folder of the hub's cache; None for anything else."""
    path = Path(location).expanduser()
    if path.is_dir():
        match = _SNAPSHOT.search(path.resolve().as_posix())
        return f"{match[1]}/{match[2]}" if match else None
    return location.partition("@")[0] if _HUB_ID.match(location) else None


def _label(folder: Path) -> str:
    """`org/name@commit` for a folder in the hub's cache, else the folder's own name: never a path of this machine."""
    match = _SNAPSHOT.search(folder.as_posix())
    return f"{match[1]}/{match[2]}@{match[3][:12]}" if match else folder.name


def _download(repo: str, revision: str | None, folders: Sequence[str]) -> Path:
    try:
        # Not list_repo_files, which tries for half a minute where there is no network.
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=_ANSWER_SECONDS)
    except HfHubHTTPError as error:  # the hub answered: there is no such thing, or not for this user
        raise _not_fetched(repo, revision, error) from error
    except Exception as error:  # no answer, whatever the network calls that: an earlier download may still be here
        if cached := _cached(repo, revision):
            return cached
        raise _not_fetched(repo, revision, error) from error
    needed = _needed([file.rfilename for file in info.siblings or ()], folders)
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=needed))
    except Exception as error:
        raise _not_fetched(repo, revision, error) from error


def _cached(repo: str, revision: str | None) -> Path | None:
    """Folder of an earlier download of this revision. It may be incomplete: reading the weights finds that out."""
    found = (
        huggingface_hub.try_to_load_from_cache(repo, name, revision=revision)
        for name in ("adapter_config.json", "config.json")
    )
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def _not_fetched(repo: str, revision: str | None, error: Exception) -> ExportError:
    lines = str(error).strip().splitlines() or [""]
    return ExportError(
        f"checkpoint: there is no directory {repo}, and {repo}{f' at revision {revision}' if revision else ''} could "
        f"not be fetched from the hub ({type(error).__name__}: {lines[0]}). Download it where the hub can be reached "
        f"(hf download {repo} --local-dir DIR) and give that directory; for a gated or private one, log in first "
        "(hf auth login)."
    )


def _needed(files: list[str], more: Sequence[str] = ()) -> list[str]:
    """Of a repository's files, those that an export reads: weights of one kind at its root, and the small ones.

    Weights of `more` folders too, and those of a dense layer of sentence-transformers (2_Dense), which lies in a folder
    with a number.
    """
    small = [name for name in files if name.endswith(_SIDE_FILES)]
    folders = {"", *more} | {name.rpartition("/")[0] for name in files if _MODULE.match(name)}
    return small + [name for folder in sorted(folders) for name in _weights(folder, files)]


def _weights(folder: str, files: list[str]) -> list[str]:
    inside = {name: name.rpartition("/")[2] for name in files if name.rpartition("/")[0] == folder}
    safetensors = [
        name for name, file in inside.items() if file.endswith(".safetensors") and not file.startswith("consolidated")
    ]
    binaries = [
        name
        for name, file in inside.items()
        if file.endswith(".bin") and file.startswith(("pytorch_model", "adapter_model"))
    ]
    return safetensors or binaries
