"""A scenario: what is asked of the server, how hard, and how long. One YAML file each in `scenarios/`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from periscope_perf.errors import ScenarioError

Ensemble = Literal["embed_text", "embed_image", "rerank"]
Size = Literal["default", "quick", "deployment"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Load(_Strict):
    """Requests of a scenario, which perf_analyzer sends in turn, and asks for every output of the ensemble.

    ensemble: the end of the model's name.
    queries, pages: how many different ones; `embed_text` takes queries, `embed_image` pages.
    candidates: of a request of `rerank`, which is a query with so many pages, or texts where the reranker takes no
        images.
    """

    ensemble: Ensemble
    queries: int = Field(default=0, ge=0)
    pages: int = Field(default=0, ge=0)
    candidates: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Load:
        given = {name for name in ("queries", "pages", "candidates") if getattr(self, name)}
        wanted = {"embed_text": {"queries"}, "embed_image": {"pages"}, "rerank": {"queries", "candidates"}}
        if given != wanted[self.ensemble]:
            raise ValueError(f"{self.ensemble} is given {sorted(given)}, and takes {sorted(wanted[self.ensemble])}")
        return self


class Background(_Strict):
    """A load that runs beside the measured one, by a second perf_analyzer: so many requests in flight."""

    load: Load
    concurrency: int = Field(ge=1)


class Sweep(_Strict):
    """The levels of load, one measurement each.

    concurrency: requests in flight; for `rerank` whole lists of candidates, which may take several requests each.
    request_rates: requests that arrive at random (Poisson), whether or not the earlier ones are answered; shares of the
        highest throughput that the concurrencies of this sweep reached.
    window, stability: a measurement is done when three windows in turn, each of at least so many requests and a second,
        differ by no more than so many percent, in throughput and in the latency of the scenario's percentile.
    """

    concurrency: tuple[int, ...] = Field(min_length=1)
    request_rates: tuple[float, ...] = ()
    window: int = Field(ge=1)
    stability: int = Field(ge=1)

    @model_validator(mode="after")
    def _rising(self) -> Sweep:
        for levels in (self.concurrency, self.request_rates):
            if list(levels) != sorted(set(levels)) or any(level <= 0 for level in levels):
                raise ValueError("levels are above 0, and rise")
        if any(rate >= 1 for rate in self.request_rates):
            raise ValueError("request_rates are shares of the highest throughput: below 1")
        return self


class Scenario(_Strict):
    """A scenario.

    name: that of its file.
    description: in one sentence.
    load: the requests that are measured; background: those beside them.
    percentile: of the latencies by which windows of a measurement are compared.
    trials: so many windows at most; then it is reported as unstable.
    default, quick, deployment: sweeps for a machine as developers have it, for a run that shows that everything works,
        and for a server with GPUs.
    """

    name: str
    description: str
    load: Load
    background: Background | None = None
    percentile: Literal[50, 90, 95, 99]
    trials: int = Field(ge=3)
    default: Sweep
    quick: Sweep
    deployment: Sweep

    def sweep(self, size: Size) -> Sweep:
        """The sweep of that size."""
        sweep: Sweep = getattr(self, size)
        return sweep


def names() -> list[str]:
    """Names of the scenarios, in the order in which they are run."""
    order = ("single_query", "query_throughput", "page_throughput", "mixed", "rerank_top_20")
    found = {path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml")}
    return [*(name for name in order if name in found), *sorted(found - set(order))]


def load(name: str) -> Scenario:
    """Read a scenario by its name. Raises: ScenarioError."""
    if name not in names():
        raise ScenarioError(f"scenario {name!r}: there is none of this name. There are: {', '.join(names())}")
    return parse(name, (_folder() / f"{name}.yaml").read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Scenario:
    """Check the text of a scenario file. Raises: ScenarioError naming the fields that are wrong."""
    try:
        data: Any = yaml.safe_load(text)
        scenario = Scenario.model_validate(data)
    except yaml.YAMLError as error:
        raise ScenarioError(f"scenario {name!r}: is no YAML ({error}). Correct the file") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
        raise ScenarioError(f"scenario {name!r}: {wrong}. Correct the file") from None
    if scenario.name != name:
        raise ScenarioError(f"scenario {name!r}: the file calls it {scenario.name!r}. Name both alike")
    return scenario


def _folder() -> Path:
    return Path(str(files("periscope_perf"))) / "scenarios"
