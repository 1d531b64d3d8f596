"""Triton's own counters, from its metrics page: what every model did between two readings."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields

from periscope_perf.errors import ReportError

_SAMPLE = re.compile(r"^(nv_inference_\w+)\{([^}]*)\} ([0-9.e+-]+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

# Field of `Counters` -> the counter of Triton that it is, summed over versions and reasons.
_NAMES = {
    "requests": "nv_inference_request_success",
    "failures": "nv_inference_request_failure",
    "inferences": "nv_inference_count",
    "executions": "nv_inference_exec_count",
    "queue_us": "nv_inference_queue_duration_us",
    "input_us": "nv_inference_compute_input_duration_us",
    "infer_us": "nv_inference_compute_infer_duration_us",
    "output_us": "nv_inference_compute_output_duration_us",
}

_SECONDS = 10.0


@dataclass(frozen=True)
class Counters:
    """Counters of a model since its server started.

    requests, failures: those that were answered, and those that were not.
    inferences: rows; executions: runs of batches of them.
    queue_us ... output_us: times, summed over requests, in microseconds.
    """

    requests: float = 0
    failures: float = 0
    inferences: float = 0
    executions: float = 0
    queue_us: float = 0
    input_us: float = 0
    infer_us: float = 0
    output_us: float = 0

    def __sub__(self, earlier: Counters) -> Counters:
        names = [field.name for field in fields(self)]
        return Counters(*(getattr(self, name) - getattr(earlier, name) for name in names))

    @property
    def batch(self) -> float | None:
        """Rows that a run held on average; None where there was no run."""
        return self.inferences / self.executions if self.executions else None

    def mean(self, name: str) -> float | None:
        """A time of a request on average, in microseconds: "queue_us" and so on; None where there was no request."""
        return float(getattr(self, name)) / self.requests if self.requests else None


def read(url: str) -> dict[str, Counters]:
    """Counters of every model of a server. `url`: host:port of its metrics. Raises: ReportError."""
    try:
        # A connection that stays open would keep Triton from stopping.
        request = urllib.request.Request(f"http://{url}/metrics", headers={"Connection": "close"})
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return parse(answer.read().decode())
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ReportError(f"metrics: {url} does not answer ({error}). Is the server running?") from None


def parse(text: str) -> dict[str, Counters]:
    """Read a metrics page. Raises: ReportError when a counter is missing."""
    values: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    known = {counter: name for name, counter in _NAMES.items()}
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found and found[1] in known:
            labels = dict(_LABEL.findall(found[2]))
            values[labels["model"]][known[found[1]]] += float(found[3])
    for model, counters in values.items():
        # A model that never failed in a way that is counted has no sample of it in some versions.
        missing = set(_NAMES) - set(counters) - {"failures"}
        if missing:
            raise ReportError(f"metrics: {model} lacks {', '.join(sorted(_NAMES[name] for name in missing))}")
    return {model: Counters(**counters) for model, counters in values.items()}


def since(before: Mapping[str, Counters], after: Mapping[str, Counters]) -> dict[str, Counters]:
    """The difference of two readings, by model."""
    return {model: counters - before.get(model, Counters()) for model, counters in after.items()}
