"""The demonstration's trained retriever."""

from __future__ import annotations

from pathlib import Path

# Its recipe.
SHIPPED_RECIPE = "colqwen2_dense"


def shipped_checkpoint() -> Path:
    """Return the folder of its adapter, which names its base beside it; see its model card."""
    return Path(__file__).parent / "retriever" / "colqwen2-demo"
