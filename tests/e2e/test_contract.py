"""Names, types and shapes of everything that is served are frozen."""

from __future__ import annotations

import json

from google.protobuf import text_format
from tritonclient.grpc import InferenceServerClient, model_config_pb2

from e2e.exported import Exported
from periscope_export.recipes.loading import load_recipe
from periscope_serve.lint import lint

# Dimensions of the first checkpoint: hidden width 256, late vectors of 128.
CONTRACT = {
    "embed_text": (
        16,
        {"TEXT": ("STRING", [1]), "ROLE": ("STRING", [1])},
        {"late": ("FP32", [-1, 128]), "late_mask": ("INT32", [-1]), "token_spans": ("INT32", [-1, 2])},
    ),
    "embed_image": (
        4,
        {"IMAGE": ("STRING", [1]), "ROLE": ("STRING", [1])},
        {"late": ("FP32", [-1, 128]), "late_mask": ("INT32", [-1]), "visual_grid": ("INT32", [3])},
    ),
    "preprocess_text": (
        16,
        {"TEXT": ("STRING", [1]), "ROLE": ("STRING", [1])},
        {
            "input_ids": ("INT32", [-1]),
            "position_ids": ("INT32", [3, -1]),
            "visual_tokens": ("FP32", [-1, 256]),
            "late_mask": ("INT32", [-1]),
            "token_spans": ("INT32", [-1, 2]),
        },
    ),
    "preprocess_image": (
        4,
        {"IMAGE": ("STRING", [1]), "ROLE": ("STRING", [1])},
        {
            "patches": ("UINT8", [-1, -1, 1176]),
            "patch_positions": ("INT32", [-1, -1, 2]),
            "patch_segments": ("INT32", [-1, -1]),
            "visual_index": ("INT32", [-1]),
            "input_ids": ("INT32", [-1]),
            "position_ids": ("INT32", [3, -1]),
            "late_mask": ("INT32", [-1]),
            "visual_grid": ("INT32", [3]),
        },
    ),
    "vision_encoder": (
        4,
        {
            "patches": ("UINT8", [-1, -1, 1176]),
            "patch_positions": ("INT32", [-1, -1, 2]),
            "patch_segments": ("INT32", [-1, -1]),
            "visual_index": ("INT32", [-1]),
        },
        {"visual_tokens": ("FP32", [-1, 256])},
    ),
    "language_model": (
        16,
        {"input_ids": ("INT32", [-1]), "position_ids": ("INT32", [3, -1]), "visual_tokens": ("FP32", [-1, 256])},
        {"hidden_states": ("FP32", [-1, 256])},
    ),
    "late_head": (
        16,
        {"hidden_states": ("FP32", [-1, 256]), "late_mask": ("INT32", [-1])},
        {"late": ("FP32", [-1, 128])},
    ),
    "maxsim": (
        0,
        {
            "query_late": ("FP32", [-1, -1, 128]),
            "query_mask": ("INT32", [-1, -1]),
            "document_late": ("FP32", [-1, -1, 128]),
            "document_mask": ("INT32", [-1, -1]),
        },
        {"score": ("FP32", [-1, -1])},
    ),
}


def test_models_and_tensors(triton: InferenceServerClient, first: Exported) -> None:
    served = {}
    for name in CONTRACT:
        config = triton.get_model_config(f"{first.name}_{name}").config
        inputs, outputs = (
            {tensor.name: (model_config_pb2.DataType.Name(tensor.data_type)[5:], list(tensor.dims)) for tensor in side}
            for side in (config.input, config.output)
        )
        served[name] = (config.max_batch_size, inputs, outputs)
    assert served == CONTRACT


def test_a_dense_output_adds_a_step_and_a_mask(triton: InferenceServerClient, trained: Exported) -> None:
    """Everything else is as without it."""
    found = {}
    for name in ("embed_text", "embed_image", "preprocess_text", "preprocess_image", "dense_head"):
        config = triton.get_model_config(f"{trained.name}_{name}").config
        plain = CONTRACT[name][2] if name in CONTRACT else {}
        found[name] = [tensor.name for tensor in config.output if tensor.name not in plain]
    assert found == {
        "embed_text": ["dense"],
        "embed_image": ["dense"],
        "preprocess_text": ["pool_mask"],
        "preprocess_image": ["pool_mask"],
        "dense_head": ["dense"],
    }
    config = triton.get_model_config(f"{trained.name}_dense_head").config
    assert [(tensor.name, list(tensor.dims)) for tensor in (*config.input, *config.output)] == [
        ("hidden_states", [-1, 256]),
        ("pool_mask", [-1]),
        ("dense", [256]),
    ]


def test_what_is_exported_has_no_finding(first: Exported, trained: Exported) -> None:
    assert lint([first.repository, trained.repository]) == []


def test_roles_are_optional(triton: InferenceServerClient, first: Exported) -> None:
    for name in ("embed_text", "embed_image", "preprocess_text", "preprocess_image"):
        config = triton.get_model_config(f"{first.name}_{name}").config
        assert [tensor.name for tensor in config.input if tensor.optional] == ["ROLE"]


def test_ensembles_say_whose_vectors_they_serve_and_what_an_item_may_cost(
    triton: InferenceServerClient, first: Exported
) -> None:
    report = json.loads((first.repository / "fidelity.json").read_text())
    limits = load_recipe("colqwen2").preparation.limits
    for name in ("embed_text", "embed_image"):
        parameters = triton.get_model_config(f"{first.name}_{name}").config.parameters
        assert {key: value.string_value for key, value in parameters.items()} == {
            "fingerprint": report["fingerprint"],
            "recipe": "colqwen2",
            "precision": "fp32",
            "image_bytes": str(limits.image_bytes),
            "image_pixels": str(limits.image_pixels),
            "text_bytes": str(limits.text_bytes),
        }


def test_nothing_in_a_config_is_for_the_embedded_server_only(first: Exported) -> None:
    """NVIDIA's container must load the same files: known fields, its own backends, no device named for graphs."""
    for path in first.repository.glob("*/config.pbtxt"):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        assert config.name == path.parent.name
        assert (config.backend or config.platform) in {"onnxruntime", "python", "ensemble"}
        assert not config.runtime
        if config.backend == "onnxruntime":
            assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_AUTO]
            # Both backends hand "session." entries to ONNX Runtime; the C++ one passes over names it does not know.
            assert all(name.startswith("session.") or name == "nice" for name in config.parameters)
