"""Engines: what runs the graphs, written, built and measured."""

from periscope_export.engines.engine import Engine
from periscope_export.engines.onnxruntime import OnnxRuntime
from periscope_export.engines.onnxruntime_cuda import OnnxRuntimeCuda
from periscope_export.engines.openvino import OpenVINO
from periscope_export.engines.tensorrt import OnnxRuntimeTensorRT, TensorRT

_ALL: tuple[Engine, ...] = (
    *(OnnxRuntime(), OnnxRuntimeCuda(), OpenVINO(), OnnxRuntimeTensorRT()),
    *(TensorRT("tensorrt"), TensorRT("tensorrt-rtx")),
)

ENGINES: dict[str, Engine] = {engine.name: engine for engine in _ALL}
"""All of them by name, in the order in which the command line lists them."""
