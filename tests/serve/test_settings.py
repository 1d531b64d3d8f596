"""The settings of a config, down to the options of the onnxruntime session."""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest

from periscope_serve.backends.onnxruntime.settings import Settings, providers
from periscope_serve.backends.settings import SettingsError


def config(parameters: dict[str, str], level: int | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    return made if level is None else {**made, "optimization": {"graph": {"level": level}}}


def test_thread_settings_reach_the_session() -> None:
    made = config({"intra_op_thread_count": "3", "inter_op_thread_count": "2", "execution_mode": "1"})
    options = Settings.of(made).session_options()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL


def test_threads_of_a_process_that_may_use_fewer_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERISCOPE_CPUS", "5")
    options = Settings.of(config({"inter_op_thread_count": "2"})).session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (5, 2)


def test_memory_settings_reach_the_session() -> None:
    options = Settings.of(config({"enable_mem_arena": "OFF", "enable_mem_pattern": "0"})).session_options()
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    options = Settings.of(config({"enable_mem_arena": "true", "enable_mem_pattern": "on"})).session_options()
    assert options.enable_cpu_mem_arena
    assert options.enable_mem_pattern


def test_session_entries_reach_the_session() -> None:
    options = Settings.of(config({"session.set_denormal_as_zero": "1", "other": "x"})).session_options()
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"
    with pytest.raises(RuntimeError, match="does not have"):
        options.get_session_config_entry("other")


def test_arena_shrinkage_reaches_the_run() -> None:
    options = Settings.of(config({"memory.enable_memory_arena_shrinkage": "cpu:0"})).run_options()
    assert options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (None, "ORT_ENABLE_ALL"),
        (0, "ORT_ENABLE_ALL"),
        (-1, "ORT_ENABLE_BASIC"),
        (1, "ORT_ENABLE_EXTENDED"),
        (2, "ORT_DISABLE_ALL"),
        (7, "ORT_ENABLE_ALL"),
    ],
)
def test_graph_level(level: int | None, expected: str) -> None:
    options = Settings.of(config({}, level)).session_options()
    assert options.graph_optimization_level == getattr(onnxruntime.GraphOptimizationLevel, expected)


def test_an_empty_config_leaves_onnxruntime_s_defaults() -> None:
    options, default = Settings.of({}).session_options(), onnxruntime.SessionOptions()
    for name in ("intra_op_num_threads", "inter_op_num_threads", "execution_mode", "enable_cpu_mem_arena"):
        assert getattr(options, name) == getattr(default, name)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"intra_op_thread_count": "four"}, "intra_op_thread_count: failed to convert 'four' to integral number"),
        ({"inter_op_thread_count": ""}, "inter_op_thread_count: failed to convert '' to integral number"),
        ({"execution_mode": "2"}, "Expected values for execution_mode are 0 or 1 but got 2"),
        ({"enable_mem_arena": "yes"}, "enable_mem_arena: failed to convert 'yes' to boolean"),
        ({"enable_mem_pattern": "2"}, "enable_mem_pattern: failed to convert '2' to boolean"),
    ],
)
def test_refuses_wrong_values(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.of(config(parameters))


@pytest.mark.parametrize(
    "unsupported",
    [
        {"batch_input": [{"kind": "BATCH_ELEMENT_COUNT"}]},
        {"sequence_batching": {"max_sequence_idle_microseconds": 5}},
        {"model_operations": {"op_library_filename": ["ops.so"]}},
        {"input": [{"name": "x", "allow_ragged_batch": True}]},
    ],
)
def test_refuses_what_only_the_c_backend_offers(unsupported: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="only Triton's C\\+\\+ onnxruntime backend offers"):
        Settings.of(unsupported)


def test_accelerators() -> None:
    def accelerated(**accelerators: Any) -> dict[str, Any]:
        return {"optimization": {"execution_accelerators": accelerators}}

    Settings.of(accelerated(gpu_execution_accelerator=[{"name": "tensorrt"}]))
    Settings.of(accelerated(cpu_execution_accelerator=[{"name": "openvino"}]))
    with pytest.raises(SettingsError, match="unknown Execution Accelerator 'abacus' is requested"):
        Settings.of(accelerated(cpu_execution_accelerator=[{"name": "abacus"}]))


def test_providers() -> None:
    assert providers("CPU", "0", ["CUDAExecutionProvider", "CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    cuda, cpu = providers("GPU", "1", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert cuda == ("CUDAExecutionProvider", {"device_id": "1"})
    assert cpu == "CPUExecutionProvider"
    with pytest.raises(SettingsError, match="onnxruntime-gpu"):
        providers("GPU", "0", ["CPUExecutionProvider"])
