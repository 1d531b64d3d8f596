"""The onnxruntime settings of a Triton model config, read as the C++ backend reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from periscope_runtime.cpus import limit
from periscope_serve.backends.settings import SettingsError, boolean, integer, parameters, refuse_unsupported

if TYPE_CHECKING:
    import onnxruntime

_LEVELS = {-1: "ORT_ENABLE_BASIC", 0: "ORT_ENABLE_ALL", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
_ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"


@dataclass(frozen=True)
class Settings:
    """Settings of a model config for its onnxruntime session; None and 0 leave onnxruntime's default.

    Threads: that default counts the machine's CPUs, so where this process may use fewer it gets their number.
    """

    level: int = 0
    parallel: bool = False
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    mem_arena: bool | None = None
    mem_pattern: bool | None = None
    session_entries: dict[str, str] = field(default_factory=dict)
    run_entries: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: dict[str, Any]) -> Settings:
        """Read the settings; a value that makes no sense raises `SettingsError`."""
        refuse_unsupported(config, "onnxruntime")
        _refuse_unknown_accelerators(config)
        given = parameters(config)
        mode = integer(given, "execution_mode")
        if mode not in (0, 1):
            raise SettingsError(
                f"Invalid configuration value provided. Expected values for execution_mode are 0 or 1 but got {mode}."
            )
        return cls(
            level=int(config.get("optimization", {}).get("graph", {}).get("level", 0)),
            parallel=mode == 1,
            intra_op_threads=integer(given, "intra_op_thread_count"),
            inter_op_threads=integer(given, "inter_op_thread_count"),
            mem_arena=boolean(given, "enable_mem_arena"),
            mem_pattern=boolean(given, "enable_mem_pattern"),
            session_entries={name: value for name, value in given.items() if name.startswith("session.")},
            run_entries={name: value for name, value in given.items() if name == _ARENA_SHRINKAGE},
        )

    def session_options(self) -> onnxruntime.SessionOptions:
        """The options to open the session with."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # A level that nobody defined keeps every optimisation, as in the C++ backend.
        level = _LEVELS.get(self.level, "ORT_ENABLE_ALL")
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        if self.parallel:
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        cpus = limit() or 0
        options.intra_op_num_threads = self.intra_op_threads if self.intra_op_threads > 0 else cpus
        options.inter_op_num_threads = self.inter_op_threads if self.inter_op_threads > 0 else cpus
        if self.mem_arena is not None:
            options.enable_cpu_mem_arena = self.mem_arena
        if self.mem_pattern is not None:
            options.enable_mem_pattern = self.mem_pattern
        for name, value in self.session_entries.items():
            options.add_session_config_entry(name, value)
        return options

    def run_options(self) -> onnxruntime.RunOptions:
        """The options to run with."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        for name, value in self.run_entries.items():
            options.add_run_config_entry(name, value)
        return options


def providers(kind: str, device_id: str, available: list[str]) -> list[Any]:
    """The execution providers for an instance of `kind`, as Triton names it ("CPU", "GPU")."""
    if kind != "GPU":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise SettingsError(
            "the instance group asks for KIND_GPU and this onnxruntime has no CUDA provider. Install "
            "onnxruntime-gpu in place of onnxruntime, or remove `kind: KIND_GPU` from the config"
        )
    return [("CUDAExecutionProvider", {"device_id": device_id}), "CPUExecutionProvider"]


def _refuse_unknown_accelerators(config: dict[str, Any]) -> None:
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    for accelerator in accelerators.get("cpu_execution_accelerator", []):
        # OpenVINO changes the speed and not the result: a config that asks for it runs here without it.
        if accelerator.get("name") != "openvino":
            raise SettingsError(f"unknown Execution Accelerator '{accelerator.get('name')}' is requested")
