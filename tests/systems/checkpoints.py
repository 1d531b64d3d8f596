"""The systems that are served side by side in these tests: recipe, and what makes its random checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from periscope_demo.checkpoints.jina_clip import make_jina_clip

# By the name that the retriever is served under: its recipe, and a function that writes a checkpoint into a folder.
SYSTEMS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "jina_clip_v1": ("jina_clip_v1", make_jina_clip),
}
