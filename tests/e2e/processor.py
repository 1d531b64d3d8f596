"""Abilities of this machine's processor in OpenVINO: where it lacks something, tests expect something else."""

from __future__ import annotations

from periscope_export.graphs.openvino import core, exact_int8

EXACT_INT8 = exact_int8()

# Otherwise OpenVINO computes in float32.
HAS_BF16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
