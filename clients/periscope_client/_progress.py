"""A progress bar that appears only when there is something to wait for and somebody to see it."""

from __future__ import annotations

from typing import NoReturn

from tqdm import tqdm

QUIET_SECONDS = 2.0


def progress_bar(total: int | None, unit: str, show: bool | None) -> tqdm[NoReturn]:
    """A bar on stderr. `show=None`: after 2 s, and only on a terminal; True: always; False: never."""
    # tqdm's own `disable=None` means "unless stderr is a terminal".
    return tqdm(
        total=total,
        unit=unit,
        disable=None if show is None else not show,
        delay=QUIET_SECONDS if show is None else 0,
        leave=show is True,
    )
