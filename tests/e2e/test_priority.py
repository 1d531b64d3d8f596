"""Steps that only pages pass through give way on the CPU, so that a query does not share it with them."""

from __future__ import annotations

import psutil

from e2e.exported import Exported
from periscope_serve.server import Server

PAGES_ONLY = {"preprocess_image", "vision_encoder"}


def test_only_steps_of_pages_give_way(server: Server, trained: Exported) -> None:
    found: dict[str, int] = {}
    for process in psutil.Process(server.pid).children(recursive=True):
        for step in (*PAGES_ONLY, "preprocess_text", "language_model", "late_head", "dense_head", "maxsim"):
            if any(f"{trained.name}_{step}" in word.split("/") for word in process.cmdline()):
                found[step] = max(thread_nice(process))
    assert {step for step, nice in found.items() if nice == 19} == PAGES_ONLY
    assert {step for step, nice in found.items() if nice == 0} == found.keys() - PAGES_ONLY
    assert len(found) == 7


def thread_nice(process: psutil.Process) -> list[int]:
    """The niceness of each thread: Linux keeps one for each, and hands it on to the threads that it makes."""
    values = []
    for thread in process.threads():
        with open(f"/proc/{process.pid}/task/{thread.id}/stat", encoding="ascii") as stat:
            values.append(int(stat.read().rpartition(")")[2].split()[16]))
    return values
