"""A recipe: everything that says what a published retriever is, as data.

One YAML file a system (`loading.py`), checked by the models below. What wins over it: `overrides.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from periscope_export.recipes.one_adapter import of_one_adapter
from periscope_runtime.paths import ItemPath
from periscope_runtime.recipe import Preparation


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PublishedCheckpoint(_Strict):
    """A checkpoint on the hub that this recipe describes."""

    id: str
    revision: str | None = None


class PublishedScore(_Strict):
    """A score to expect: what was published of a checkpoint on a benchmark, None where it is not said which one.

    `source` is a publication or a collection of results.
    """

    benchmark: str
    metric: str
    value: float
    checkpoint: str | None = None
    source: str | None = None


Activation = Literal["identity", "tanh", "relu", "gelu"]


class LateOutput(_Strict):
    """One vector a token: the states, projected where there is a projection, L2 normalisation, padding zeroed.

    `projection` lists the module names under which checkpoints store it; None where vectors are whole states.
    """

    projection: list[str] | None = Field(default=None, min_length=1)


class DenseLayer(_Strict):
    """A linear layer between pooled states and the dense vector, with an activation behind it.

    `path` is the folder of the checkpoint that has its weights, `inputs` and `outputs` are widths.
    """

    path: str
    inputs: int = Field(ge=1)
    outputs: int = Field(ge=1)
    bias: bool = True
    activation: Activation = "identity"


class DenseOutput(_Strict):
    """One vector an item: the last states that `preparation.pooling` names, through `layers`, L2 normalisation.

    `dimensions`: how few dimensions a request may ask for, of a model that was trained so that its first ones stand
    alone (Matryoshka, arXiv 2205.13147); they are normalised again. None where it was not. Checkpoints say which layers
    there are (`sentence_transformers_files.py`).
    """

    dimensions: int | None = Field(default=None, ge=1)
    layers: list[DenseLayer] = []

    def misfits(self) -> list[str]:
        """Return a line for each layer that cannot follow the one before, and for dimensions that there are not."""
        problems = [
            f"outputs.dense.layers: {after.path} takes {after.inputs} dimensions, {before.path} gives {before.outputs}"
            for before, after in zip(self.layers, self.layers[1:], strict=False)
            if after.inputs != before.outputs
        ]
        if self.dimensions is not None and self.layers and self.dimensions > self.layers[-1].outputs:
            problems.append(f"outputs.dense.dimensions is {self.dimensions}, the layers give {self.layers[-1].outputs}")
        return problems


class ScoreLayer(_Strict):
    """A linear layer of a score head, with an activation behind it.

    `names` lists the module names under which checkpoints store it.
    """

    names: list[str] = Field(min_length=1)
    bias: bool = True
    activation: Activation = "identity"


class RerankOutput(_Strict):
    """The probability that a document answers a query: the sigmoid of one number that is made of the pooled state.

    Either how far the state prefers the token `positive` as the next over `negative`, by their rows of the language
    head, or what `layers` of the checkpoint's own make of it. `offset` is a constant that is added to the number.
    """

    positive: str | None = None
    negative: str | None = None
    layers: list[ScoreLayer] = []
    offset: float = Field(default=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_form(self) -> RerankOutput:
        """Refuse both forms at once, and half of one."""
        given = [one for one in (self.positive, self.negative) if one is not None]
        if len(given) != (0 if self.layers else 2):
            raise ValueError("a score is made of two tokens, positive and negative, or of layers")
        return self

    @property
    def tokens(self) -> tuple[str, str] | None:
        """The two tokens of the first form, None in the second."""
        return None if self.positive is None or self.negative is None else (self.positive, self.negative)


class Outputs(_Strict):
    """Outputs of the retriever, at least one of these."""

    late: LateOutput | None = None
    dense: DenseOutput | None = None
    rerank: RerankOutput | None = None

    @property
    def smallest_dense(self) -> int | None:
        """The fewest dimensions that a request may ask for; None where there are only whole vectors, or none."""
        return None if self.dense is None else self.dense.dimensions


class Batch(_Strict):
    """The largest number of rows that the server joins into one run; of pairs, also the most that a request holds."""

    text: int = Field(default=1, ge=1)
    page: int = Field(default=1, ge=1)
    video: int = Field(default=1, ge=1)
    pair: int = Field(default=1, ge=1)

    def rows(self, path: ItemPath) -> int:
        """Return it for items of a path, 1 for what is no path of items."""
        return int(getattr(self, path.item, 1))


class CheckpointValue(_Strict):
    """The sources in the checkpoint that override a recipe field, first hit wins (`stored_values.py`).

    `template`: a text made of one, with `behind` after one that is not empty.
    `ask_above`: the largest number that is taken without the user's word.
    `at_most`: sources of other upper limits, with what one of each is in units of the field; the lowest of all counts.
    """

    sources: list[str] = Field(alias="from", min_length=1)
    template: str = "{value}"
    behind: str = ""
    ask_above: int | None = None
    at_most: dict[str, int] = {}

    def made(self, value: Any) -> Any:
        """Return what a stored value makes of the recipe field."""
        if not isinstance(value, str):
            return value
        return self.template.replace("{value}", value + self.behind if value else value)


def _without_nulls(entries: Any) -> Any:
    """Return a mapping without what a recipe takes away of the one that it extends."""
    return {name: one for name, one in entries.items() if one is not None} if isinstance(entries, dict) else entries


def _without_null_tasks(preparation: Any) -> Any:
    """Return the fields of a preparation, of whose tasks a recipe may take some or all away likewise."""
    if not isinstance(preparation, dict) or "tasks" not in preparation:
        return preparation
    return {**preparation, "tasks": _without_nulls(preparation["tasks"] or {})}


class TaskAdapters(_Strict):
    """Adapters that tasks name (`preparation.tasks`), published all in one file beside their base.

    `task`: the only one that is exported, merged into the weights: an adapter by its name in the keys of the file, or
    by that of a task with one. None for all of them, stacked and chosen by row.
    `folder`: the place of the file beside full weights, None where it is always a directory of its own.
    `merged`: whether the checkpoint is one of full weights that has this one in them already.
    """

    task: str | None = None
    folder: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$")
    merged: bool = False

    @model_validator(mode="after")
    def _named(self) -> TaskAdapters:
        """Refuse weights that have one in them, nobody says which."""
        if self.merged and self.task is None:
            raise ValueError("merged needs task: which one the weights have in them")
        return self


class Quantisation(_Strict):
    """The quantisation of a step. Both are regular expressions that find weights by their names in the graph.

    `keep`: what stays in the graph's precision. `per_token`: whose activations are scaled token by token, not all alike
    (`per_token.py`).
    """

    keep: list[str] = []
    per_token: list[str] = []


class Tolerance(_Strict):
    """The distance that graphs of a precision may have from the fp32 towers on the samples; `gate.py` decides by it.

    `vectors`: the largest absolute difference of a vector, None where any. `cosine`: the lowest of a vector, which one
    unlucky token decides; `mean_cosine`: that of all vectors. `scores`: the largest difference of a score by token of
    the query, of which MaxSim is a sum (a cosine of dense vectors and a reranker's score count as one); pages whose
    scores lie further apart have to keep their order.
    """

    vectors: float | None = Field(default=None, gt=0)
    cosine: float = Field(default=-1, ge=-1, le=1)
    mean_cosine: float = Field(default=-1, ge=-1, le=1)
    scores: float = Field(gt=0)


class Reference(_Strict):
    """The published implementation that the tests compare with, in which form, and how close that was.

    `max_abs_error` is the largest difference of a served vector from it when last measured (tests/contract).
    """

    package: str
    version: str
    note: str
    max_abs_error: float


class Recipe(_Strict):
    """A retriever as data. The field `preparation` is what the runtime reads; it is defined there.

    `checkpoints`: those on the hub that it describes.
    `bases`: what adapters of this system are trained on, which are no retrievers: hub ids, with a revision or without.
    `licence`: that of the checkpoints, None where it is not known here.
    `form`: in words, which form of the published system counts, and how to reach others.
    `backbone`: the family of its towers.
    `attention`: whether a token of the language model sees those before it or all.
    `final_norm`: whether the language model's last states are normalised; checkpoints have the weight all the same.
    `deepstack`: whether DeepStack adds to its first layers; checkpoints have the weights all the same.
    `adapters`: those that its tasks name; with `task` it has the tasks of one alone.
    `mean_rows`: those of `preparation.added_tokens` whose embedding is the mean of all before it; others have the row
        that the checkpoint's table has at their id.
    `unused_weights`: names of weights that checkpoints may have beside those of the model.
    `outputs`: vectors and scores that it gives.
    `batch`: most rows of a run.
    `quantisation`: for int8 and fp8, the steps whose weights are quantised.
    `tolerance`: by precision.
    `reference`: what it is compared with.
    `published`: scores to expect.
    `checkpoint_values`: by the fields that they override.
    `checkpoint_requires`: by sources in the checkpoint, what they must hold exactly, where they are present.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str
    checkpoints: list[PublishedCheckpoint]
    bases: list[str] = []
    licence: str | None = None
    form: str | None = None
    backbone: str
    attention: Literal["causal", "bidirectional"]
    final_norm: bool = True
    deepstack: bool = True
    adapters: TaskAdapters | None = None
    mean_rows: list[str] = []
    unused_weights: list[str] = []
    preparation: Annotated[Preparation, BeforeValidator(_without_null_tasks)]
    outputs: Outputs
    batch: Batch
    checkpoint_values: Annotated[dict[str, CheckpointValue], BeforeValidator(_without_nulls)] = {}
    checkpoint_requires: Annotated[
        dict[str, bool | int | float | str | list[float]], BeforeValidator(_without_nulls)
    ] = {}
    quantisation: dict[Literal["int8", "fp8"], dict[str, Quantisation]] = {}
    tolerance: dict[str, Tolerance]
    reference: Reference
    published: list[PublishedScore] = []

    @model_validator(mode="after")
    def _of_one_adapter(self) -> Recipe:
        """Leave out the tasks of adapters that are not exported."""
        if self.adapters is None or self.adapters.task is None:
            return self
        return self.model_copy(update={"preparation": of_one_adapter(self.preparation, self.adapters.task)})

    @model_validator(mode="after")
    def _complete(self) -> Recipe:
        """Hold outputs and preparation together."""
        outputs, problems = self.outputs, []
        if (self.adapters is None) == bool(self.preparation.adapters):
            problems.append("the section adapters and preparation.tasks with adapters need each other")
        if strange := [token for token in self.mean_rows if token not in self.preparation.added_tokens]:
            problems.append(f"mean_rows names {', '.join(strange)}, which preparation.added_tokens does not add")
        if (outputs.rerank is None) != (self.preparation.pair is None):
            problems.append("outputs.rerank and preparation.pair need each other")
        if bool(self.preparation.prompts) != (outputs.late is not None or outputs.dense is not None):
            problems.append("preparation.prompts and outputs.late or outputs.dense need each other")
        if outputs.dense is not None:
            problems += outputs.dense.misfits()
        data = self.served()
        problems += [
            f"checkpoint_values: there is no field {field!r} to override"
            for field in self.checkpoint_values
            if not _holds(data, field.split("."))
        ]
        listed = {checkpoint.id for checkpoint in self.checkpoints}
        if unlisted := sorted({one.checkpoint for one in self.published if one.checkpoint} - listed):
            problems.append(f"published has scores of {', '.join(unlisted)}, which checkpoints does not list")
        if lacking := sorted({"int8", "fp8"} & self.tolerance.keys() - self.quantisation.keys()):
            problems.append(f"a tolerance for {', '.join(lacking)} needs its section of quantisation")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def paths(self) -> tuple[ItemPath, ...]:
        """The paths that items of this retriever take through the graphs."""
        return self.preparation.paths

    @property
    def visual_paths(self) -> tuple[ItemPath, ...]:
        """The paths whose items may hold images."""
        return self.preparation.visual_paths

    def served(self) -> dict[str, Any]:
        """Return the JSON form that goes into a model repository."""
        return self.model_dump(mode="json", by_alias=True)


def _holds(data: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True
