"""Triton's counters between two readings."""

from __future__ import annotations

import pytest

from periscope_perf import metrics
from periscope_perf.errors import ReportError
from periscope_perf.metrics import Counters

# Of a Triton 2.51.0, one model shortened to what is read and something that is not.
PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="tiny_vision_encoder",version="1"} 4
nv_inference_request_failure{model="tiny_vision_encoder",reason="OTHER",version="1"} 1
nv_inference_request_failure{model="tiny_vision_encoder",reason="REJECTED",version="1"} 2
nv_inference_count{model="tiny_vision_encoder",version="1"} 4
nv_inference_exec_count{model="tiny_vision_encoder",version="1"} 2
nv_inference_request_duration_us{model="tiny_vision_encoder",version="1"} 251275
nv_inference_queue_duration_us{model="tiny_vision_encoder",version="1"} 94808
nv_inference_compute_input_duration_us{model="tiny_vision_encoder",version="1"} 454
nv_inference_compute_infer_duration_us{model="tiny_vision_encoder",version="1"} 150712
nv_inference_compute_output_duration_us{model="tiny_vision_encoder",version="1"} 5282
nv_inference_pending_request_count{model="tiny_vision_encoder",version="1"} 0
nv_cpu_utilization 0.2
"""


def test_a_page() -> None:
    assert metrics.parse(PAGE) == {"tiny_vision_encoder": Counters(4, 3, 4, 2, 94808, 454, 150712, 5282)}


def test_what_happened_between_two_readings() -> None:
    after = {"a": Counters(6, 0, 12, 3, 60, 6, 600, 12), "new": Counters(1, 0, 1, 1, 5, 5, 5, 5)}
    done = metrics.since({"a": Counters(4, 0, 4, 1, 20, 2, 200, 4)}, after)
    assert done["a"] == Counters(2, 0, 8, 2, 40, 4, 400, 8)
    assert (done["a"].batch, done["a"].mean("queue_us"), done["a"].mean("infer_us")) == (4, 20, 200)
    assert done["new"] == after["new"]


def test_a_model_that_did_nothing_has_no_means() -> None:
    assert Counters().batch is None
    assert Counters().mean("queue_us") is None


def test_versions_are_added() -> None:
    two = PAGE + PAGE.replace('version="1"', 'version="2"')
    assert metrics.parse(two)["tiny_vision_encoder"].inferences == 8


def test_a_page_that_lacks_a_counter() -> None:
    text = "\n".join(line for line in PAGE.splitlines() if "exec_count" not in line)
    with pytest.raises(ReportError, match="tiny_vision_encoder lacks nv_inference_exec_count"):
        metrics.parse(text)


def test_no_server() -> None:
    with pytest.raises(ReportError, match=r"127\.0\.0\.1:9 does not answer"):
        metrics.read("127.0.0.1:9")
