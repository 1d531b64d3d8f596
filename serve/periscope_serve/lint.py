"""Checks of a repository without a server: whatever would keep it from loading, and whatever does not agree.

Beyond what `periscope serve` checks before it starts: files against what was exported, recipes and tokenizers, graphs
against their configs, weights that are no numbers, profiles of compiled graphs against what preparation sends, and
whose vectors the models serve.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnxruntime
from google.protobuf import json_format

from periscope_runtime.stored_weights import not_finite
from periscope_serve import integrity, preparation, profiles
from periscope_serve.backends.signature import Signature, SignatureError
from periscope_serve.backends.signature import check as check_signature
from periscope_serve.check import check
from periscope_serve.repository import ENSEMBLE, Finding, Model, read

FINGERPRINT = "fingerprint"

# The endings by which clients call models of a retriever.
_CALLED = re.compile(r"(?P<retriever>.+)_(?:embed_text|embed_image|embed_video|rerank|maxsim)")


def lint(repositories: Sequence[Path]) -> list[Finding]:
    """Every finding in the repositories, none when they are sound.

    Raises: BadRepositoryError when there is no repository at all.
    """
    findings = check(repositories)
    if findings:
        return findings  # what does not load cannot be compared
    models, _ = read(repositories)
    for repository in repositories:
        findings += integrity.check_digests(repository)
    prepared = [finding for model in models.values() for finding in preparation.check(model)]
    findings += prepared
    for model in models.values():
        findings += _graph(model)
        findings += _weights(model)
    if not prepared:  # they ask preparation how long its tensors are
        findings += profiles.check(models)
    findings += _fingerprints(models, {repository: _report(repository) for repository in repositories})
    return findings


def _report(repository: Path) -> Mapping[str, Any]:
    try:
        return integrity.read_report(repository)
    except integrity.BadReportError:
        return {}  # among the findings already


def unchecked(repositories: Sequence[Path]) -> list[str]:
    """Models whose graphs nothing on this machine can load, so that they are not compared with their configs."""
    return [name for name, model in read(repositories)[0].items() if on_gpus_only(model)]


def _graph(model: Model) -> Iterator[Finding]:
    """The config names the graph's tensors, types and shapes."""
    named = model.config.input and model.config.output
    if not model.model_file.endswith(".onnx") or not named or on_gpus_only(model):
        return
    config = json_format.MessageToDict(model.config, preserving_proto_field_name=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # only looked at, not run
    options.log_severity_level = 4
    for version in model.served:
        path = model.version_folder(version) / model.model_file
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            check_signature({**config, "name": model.name}, Signature.of(session))
        except SignatureError as error:
            yield Finding(model.name, str(error).rstrip("."), "Export the model again, or correct its config")
        except Exception as error:  # onnxruntime raises a class of its own for each cause
            reason = " ".join(str(error).split())
            yield Finding(model.name, f"onnxruntime cannot load its graph ({reason})", "Export the model again")


def _weights(model: Model) -> Iterator[Finding]:
    """Every weight is a number: what overflowed spoils the vectors of the items that read it, and of them alone."""
    if not model.model_file.endswith((".onnx", ".xml")):
        return
    for version in model.served:
        try:
            spoilt = not_finite(model.version_folder(version) / model.model_file)
        except (OSError, ValueError, IndexError, KeyError, ElementTree.ParseError) as error:
            yield Finding(model.name, f"its weights cannot be read ({error})", "Export the model again")
            continue
        if spoilt:
            yield Finding(
                model.name,
                f"weights of it hold infinity or nan, as those do that overflowed: {', '.join(spoilt)}",
                "Export the checkpoint in bf16 or fp32",
            )


def on_gpus_only(model: Model) -> bool:
    """Whether a model's graph is in bf16: onnxruntime has no kernels for it on CPUs, so none can be loaded to look."""
    return model.backend == "onnxruntime" and any(
        tensor.data_type == "TYPE_BF16" for tensor in (*model.inputs.values(), *model.outputs.values())
    )


def _fingerprints(models: Mapping[str, Model], reports: Mapping[Path, Mapping[str, Any]]) -> Iterator[Finding]:
    """All models of a retriever serve vectors of the same weights, which the report beside them describes."""
    found: dict[tuple[Path, str], dict[str, str]] = defaultdict(dict)
    for model in models.values():
        called = _CALLED.fullmatch(model.name)
        if called is None and model.backend != ENSEMBLE:
            continue
        members = found[model.folder.parent, called["retriever"] if called else model.name]
        for name in (model.name, *(step.model_name for step in model.config.ensemble_scheduling.step)):
            if FINGERPRINT in models[name].config.parameters:
                members[name] = models[name].config.parameters[FINGERPRINT].string_value
    for (repository, retriever), fingerprints in found.items():
        report = reports.get(repository, {})
        if report.get("retriever") == retriever:
            fingerprints[integrity.REPORT] = str(report.get(FINGERPRINT))
        if len(set(fingerprints.values())) > 1:
            said = ", ".join(f"{value} in {name}" for name, value in sorted(fingerprints.items()))
            yield Finding(retriever, f"its fingerprints differ: {said}", "Export the retriever again as one")
