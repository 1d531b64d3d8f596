from __future__ import annotations

from typing import Any

import pytest

from periscope_serve.backends.openvino.settings import properties
from periscope_serve.backends.settings import SettingsError


def config(**parameters: str) -> dict[str, Any]:
    return {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}


def test_nothing_is_openvinos_own_choice() -> None:
    assert properties({}) == {}


def test_reads_what_the_cpp_backend_reads() -> None:
    given = config(HINT_BF16="YES", INFERENCE_NUM_THREADS="2", NUM_STREAMS="auto", PERFORMANCE_HINT="latency")
    assert properties(given) == {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": "2",
        "NUM_STREAMS": "AUTO",
        "PERFORMANCE_HINT": "LATENCY",
    }


def test_threads_of_a_process_that_may_use_fewer_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERISCOPE_CPUS", "3")
    assert properties({}) == {"INFERENCE_NUM_THREADS": "3"}
    assert properties(config(INFERENCE_NUM_THREADS="2")) == {"INFERENCE_NUM_THREADS": "2"}


def test_padding_of_batches_changes_nothing() -> None:
    assert properties(config(ENABLE_BATCH_PADDING="YES", SKIP_OV_DYNAMIC_BATCHSIZE="no", TARGET_DEVICE="CPU")) == {}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HINT_BF16", "NO", "'HINT_BF16' to be YES, got NO"),
        ("PERFORMANCE_HINT", "SPEED", "got SPEED"),
        ("TARGET_DEVICE", "GPU", "'TARGET_DEVICE' to be CPU"),
        ("INFERENCE_NUM_THREADS", "two", "'two' to integral"),
        ("NUM_STREAMS", "-1", "non-negative"),
        ("CPU_EXTENSION_PATH", "/x.so", "only Triton's C\\+\\+ openvino backend"),
        ("RESHAPE_IO_LAYERS", "yes", "only Triton's C\\+\\+ openvino backend"),
    ],
)
def test_refuses_what_it_cannot_honour(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        properties(config(**{name: value}))


def test_refuses_gpus_and_ragged_batches() -> None:
    with pytest.raises(SettingsError, match="KIND_GPU"):
        properties({}, "GPU")
    with pytest.raises(SettingsError, match="allow_ragged_batch of 'x'"):
        properties({"input": [{"name": "x", "allow_ragged_batch": True}]})
