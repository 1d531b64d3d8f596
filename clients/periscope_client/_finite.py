"""Values that are not finite: compared with others they give no order at all, and a NaN would sort anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from periscope_client._errors import UnexpectedAnswer

NOT_FINITE = "are not finite (NaN or infinity)"


def require_finite(values: NDArray[Any], name: str) -> None:
    """Raises: UnexpectedAnswer when the server gave a NaN or an infinity among the values."""
    wrong = values.size - np.count_nonzero(np.isfinite(values))
    if wrong:
        raise UnexpectedAnswer(
            f"{wrong} of the {values.size} values of {name} {NOT_FINITE}, so numbers were too large for the precision "
            "that the retriever was exported in. Export it in another (fp32, bf16)."
        )


def infinite_items(late: Sequence[NDArray[Any] | None] | None, dense_ND: NDArray[Any] | None) -> list[int]:
    """Places of the items with a value that is not finite, in late vectors [T, K] or in a dense one."""
    late_places = (
        place for place, late_TK in enumerate(late or ()) if late_TK is not None and not np.isfinite(late_TK).all()
    )
    dense_places = () if dense_ND is None else np.flatnonzero(~np.isfinite(dense_ND).all(axis=1)).tolist()
    return sorted({*late_places, *dense_places})
