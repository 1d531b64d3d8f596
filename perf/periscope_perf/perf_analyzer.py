"""NVIDIA's perf_analyzer: where it is, how it is called, and how it is run.

It is run in the folder that holds its input data: it writes its tables only to bare file names (those of the composing
models are named `<model>_v<version>.<table>`, and a folder in front makes them vanish).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from periscope_perf.errors import MissingToolError, RunError

FOLDER = Path(".perf")
"""The place where `make perf` installs, in the folder that it is called from."""

BINARY = "bin/perf_analyzer"
LIBRARIES = "lib"

# The status of perf_analyzer when no three windows in turn agreed.
_UNSTABLE = 2
_UNSTABLE_TEXT = "Failed to obtain stable measurement"

# Windows of a load that runs until it is told to end: it ends with its window.
_ENDLESS = ("--measurement-request-count=1", "--max-trials=1000000", "--stability-percentage=0.0001")

_LONGEST = 3600
"""Seconds after which a measurement is given up: a server that never answers would be waited for without end."""


@dataclass(frozen=True)
class Level:
    """One level of load: requests in flight, or requests a second that arrive at random."""

    kind: str  # "concurrency" or "request_rate"
    value: float

    def arguments(self) -> list[str]:
        """The arguments of perf_analyzer."""
        if self.kind == "concurrency":
            return [f"--concurrency-range={self.value:.0f}"]
        # Without threads enough, late answers would hold back later requests.
        return [f"--request-rate-range={self.value:.6g}", "--request-distribution=poisson", "--max-threads=64"]


@dataclass(frozen=True)
class Call:
    """A measurement by perf_analyzer.

    model: the ensemble that is asked.
    data, table: names of files in the folder that it runs in, one read and one written.
    level: of load.
    window: the least requests of a window; trials: the most windows.
    percentile, stability: of the latencies that are compared, and by how many percent three windows may differ.
    grpc_url, metrics_url: where the server listens.
    requests_file: the file that keeps every request; "" for none.
    """

    model: str
    data: str
    table: str
    level: Level
    window: int
    percentile: int
    stability: int
    trials: int
    grpc_url: str
    metrics_url: str
    requests_file: str = ""

    def command(self) -> list[str]:
        """The command line, without what the machine adds to it."""
        command = [*_target(self.model, self.data, self.grpc_url), *self.level.arguments()]
        command += ["--measurement-mode=count_windows", f"--measurement-request-count={self.window}"]
        command += [f"--percentile={self.percentile}", f"--stability-percentage={self.stability}"]
        command += [f"--max-trials={self.trials}", "-f", self.table, "--verbose-csv", "-v"]
        command += ["--collect-metrics", "--metrics-url", self.metrics_url]
        return [*command, "--profile-export-file", self.requests_file] if self.requests_file else command

    def text(self) -> str:
        """The command line as it would be typed."""
        return shlex.join(self.command())


@dataclass(frozen=True)
class Run:
    """A run of perf_analyzer: its output, and whether three windows agreed. Only then are there tables."""

    stable: bool
    output: str


@dataclass(frozen=True)
class PerfAnalyzer:
    """An installed perf_analyzer: its binary, and the folder of its libraries ("" where the system has them)."""

    binary: Path
    libraries: str

    def run(self, call: Call, folder: Path) -> Run:
        """Measure. Raises: RunError with what perf_analyzer said when it could not."""
        command = [str(self.binary), *call.command()[1:]]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment(self.libraries),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=_LONGEST,
            )
        except subprocess.TimeoutExpired:
            raise RunError(
                f"{call.model}: no measurement within {_LONGEST} seconds. See Triton's log for what the server waits "
                "for, or ask for a smaller window"
            ) from None
        unstable = done.returncode == _UNSTABLE and _UNSTABLE_TEXT in done.stdout
        if done.returncode != 0 and not unstable:
            raise RunError(
                f"{call.model}: perf_analyzer ended with status {done.returncode}: {reason(done.stdout)}. "
                f"Its command was: {call.text()}"
            )
        return Run(not unstable, done.stdout)

    @contextlib.contextmanager
    def beside(self, model: str, data: str, concurrency: int, grpc_url: str, folder: Path) -> Iterator[Load]:
        """Keep requests in flight until the block ends; then wait for their answers.

        Raises: RunError when the load ended by itself, which it never does while its requests are answered.
        """
        command = beside_command(model, data, concurrency, grpc_url)
        with (
            (folder / f"{Path(data).stem}-beside.log").open("w+") as log,
            subprocess.Popen(
                [str(self.binary), *command[1:]],
                cwd=folder,
                env=environment(self.libraries),
                stdout=log,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            load = Load(model, process)
            try:
                yield load
                load.check()
            except RunError as error:
                log.seek(0)
                raise RunError(f"{error}: {reason(log.read())}") from None
            finally:
                # perf_analyzer waits for what is in flight. To cut answers off can end this Triton (docs/serving.md).
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
                process.kill()


@dataclass(frozen=True)
class Load:
    """A load that runs beside a measurement."""

    model: str
    process: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raise RunError when it has ended."""
        if self.process.poll() is not None:
            raise RunError(f"{self.model}: the load beside the measurement ended with status {self.process.returncode}")


def beside_command(model: str, data: str, concurrency: int, grpc_url: str) -> list[str]:
    """The command line of a load that runs until it is interrupted."""
    return [
        *_target(model, data, grpc_url),
        f"--concurrency-range={concurrency}",
        "--measurement-mode=count_windows",
        *_ENDLESS,
    ]


def find() -> PerfAnalyzer:
    """Find perf_analyzer: in `.perf` here, in `.perf` of the checkout, or on PATH (as in NVIDIA's SDK image).

    Raises: MissingToolError naming the remedy.
    """
    for folder in (FOLDER.absolute(), Path(__file__).resolve().parents[2] / FOLDER):
        if (folder / BINARY).is_file():
            problem = probe(folder)
            if problem is not None:
                raise MissingToolError(
                    f"perf_analyzer: {folder / BINARY} does not start ({problem}). Delete {folder} and install again: "
                    "make perf"
                )
            return PerfAnalyzer(folder / BINARY, str(folder / LIBRARIES))
    installed = shutil.which("perf_analyzer")
    if installed is None:
        raise MissingToolError(
            "perf_analyzer: is not installed. Install it: make perf, or python -m periscope_perf.install"
        )
    return PerfAnalyzer(Path(installed), "")


def probe(folder: Path) -> str | None:
    """The reason why the perf_analyzer in a folder does not start; None where it does."""
    command = [str(folder / BINARY), "--version"]
    try:
        done = subprocess.run(
            command, env=environment(str(folder / LIBRARIES)), capture_output=True, text=True, check=False
        )
    except OSError as error:
        return error.strerror or str(error)
    said = (done.stderr + done.stdout).strip()
    return None if "Perf Analyzer" in said else said or f"status {done.returncode}"


def environment(libraries: str, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables to run it with: those inherited, and the folder of its libraries first on the library path."""
    variables = dict(os.environ if inherited is None else inherited)
    paths = [libraries, variables.get("LD_LIBRARY_PATH", "")]
    return {**variables, "LD_LIBRARY_PATH": ":".join(path for path in paths if path)}


def reason(output: str) -> str:
    """The complaint of perf_analyzer: its last lines that are no table and no warning."""
    lines = [re.sub(r"^Thread \[\d+\] had error: ", "", line.strip()) for line in output.splitlines()]
    kept = [line for line in dict.fromkeys(lines) if line and not line.startswith("WARNING")]
    return " ".join(kept[-2:]) or "it said nothing"


def _target(model: str, data: str, grpc_url: str) -> list[str]:
    return ["perf_analyzer", "-m", model, "-u", grpc_url, "-i", "grpc", "-b", "1", "--input-data", data]
