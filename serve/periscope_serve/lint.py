"""What can be known of a repository without a server: what would keep it from loading, and what does not agree.

Beyond what `periscope serve` checks before it starts: graphs against their configs, profiles of compiled graphs against
what preparation sends, and whose vectors the models serve.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnxruntime
from google.protobuf import json_format

from periscope_serve import profiles
from periscope_serve.backends.signature import Signature, SignatureError
from periscope_serve.backends.signature import check as check_signature
from periscope_serve.check import check
from periscope_serve.repository import Finding, Model, read

FIDELITY = "fidelity.json"
FINGERPRINT = "fingerprint"


def lint(repositories: Sequence[Path]) -> list[Finding]:
    """Every finding in the repositories, none when they are sound.

    Raises: BadRepositoryError when there is no repository at all.
    """
    findings = check(repositories)
    if findings:
        return findings  # what does not load cannot be compared
    models, _ = read(repositories)
    for model in models.values():
        findings += _graph(model)
    findings += profiles.check(models)
    findings += _fingerprints(models.values())
    return findings


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


def on_gpus_only(model: Model) -> bool:
    """Whether a model's graph is in bf16: onnxruntime has no kernels for it on CPUs, so none can be loaded to look."""
    return model.backend == "onnxruntime" and any(
        tensor.data_type == "TYPE_BF16" for tensor in (*model.inputs.values(), *model.outputs.values())
    )


def _fingerprints(models: Iterable[Model]) -> Iterator[Finding]:
    """All models of a retriever serve vectors of the same weights, which the report beside them describes."""
    found: dict[tuple[Path, str], dict[str, str]] = defaultdict(dict)
    for model in models:
        if FINGERPRINT in model.config.parameters:
            retriever = model.name.partition("_embed_")[0]
            found[model.folder.parent, retriever][model.name] = model.config.parameters[FINGERPRINT].string_value
    for (repository, retriever), fingerprints in found.items():
        report = repository / FIDELITY
        if report.is_file():
            described = json.loads(report.read_text(encoding="utf-8"))
            if described.get("retriever") == retriever:
                fingerprints[FIDELITY] = str(described.get(FINGERPRINT))
        if len(set(fingerprints.values())) > 1:
            said = ", ".join(f"{value} in {name}" for name, value in sorted(fingerprints.items()))
            yield Finding(retriever, f"its fingerprints differ: {said}", "Export the retriever again as one")
