"""The comparison of adapters chosen by row with one that is merged."""

from __future__ import annotations

from pathlib import Path

from e2e.exported import Exported
from periscope_client import Retriever
from periscope_perf.interleaved import Rounds, interleave
from periscope_perf.pages import SMALL_PAGE, page_files, queries
from periscope_perf.task_adapters import FORMS, measures, table
from periscope_serve.server import Server


def test_both_forms_are_measured_in_turns(small: Exported, tmp_path: Path) -> None:
    """Any two retrievers will do: what is timed is what the server takes."""
    asked: list[str] = []
    with (
        Server([small.repository], grpc_port=0, http_port=0, metrics_port=0, log=tmp_path / "log") as server,
        Retriever(server.grpc_url, small.name) as retriever,
    ):
        found = measures(dict.fromkeys(FORMS, retriever), page_files(2, SMALL_PAGE), queries(3))
        rounds = {name: interleave(forms, 2, asked.append) for name, forms in found.items()}
    lines = table(rounds).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| pages a second",
        "| ms a query alone",
        "| queries a second",
    ]
    assert all(figure > 0 for one in rounds.values() for figures in one.figures.values() for figure in figures)
    assert len(asked) == 6


def test_the_table_compares_round_by_round() -> None:
    """A round in which the machine was slow is slow for both."""
    found = Rounds({"stacked": [2.0, 9.0, 11.0], "merged": [1.0, 10.0, 10.0]})
    assert table({"pages a second": found}).splitlines()[-1] == "| pages a second | 9 | 10 | 1.100 | 0.900 | 2.000 |"
