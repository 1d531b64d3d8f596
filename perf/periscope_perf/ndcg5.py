"""nDCG@5 of the demonstration's retriever in some engine and precision, for rows of `periscope bench`.

Measured in a process of its own, before anything is measured here: exporting needs torch, and what measures a server
must hold neither its memory nor its threads.

    python -m periscope_perf.ndcg5 --engine onnxruntime --precision fp32 --scratch DIR
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from periscope_perf.interleaved import Say

_LABEL = "nDCG@5: "


def as_served(engine: str, precision: str, scratch: Path, say: Say) -> float | None:
    """Measure it; None where that is not possible here, and a line says why. `scratch` takes the repository."""
    say(f"nDCG@5 of the demonstration's retriever in {engine} {precision}")
    options = ["--engine", engine, "--precision", precision, "--scratch", str(scratch)]
    command = [sys.executable, "-m", __name__, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = (done.stdout if done.returncode == 0 else done.stderr).strip().rpartition("\n")[2]
    if done.returncode == 0 and last.startswith(_LABEL):
        return float(last.removeprefix(_LABEL))
    say(f"without ndcg5: {last}")
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print it, or the reason why there is none as the last line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m periscope_perf.ndcg5", description=main.__doc__)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--scratch", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        from periscope_perf.candidates import ndcg5
        from periscope_perf.interleaved import SideError
        from periscope_perf.targets import Candidate, load_plan
    except ImportError as error:
        print(
            f"{error}. Install what it takes, in a checkout of Periscope: pip install '.[perf,demo]'", file=sys.stderr
        )
        return 1

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    candidate = Candidate(engine=options.engine, precision=options.precision)
    try:
        print(f"{_LABEL}{ndcg5(candidate, load_plan().quality, options.scratch, say):.6f}")
    except SideError as error:
        say(str(error).splitlines()[0])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
