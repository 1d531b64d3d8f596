"""The `adapter_config.json` of a LoRA or DoRA adapter, and a refusal of settings that would change the numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from periscope_export.errors import ExportError

# The options below say how the adapter was trained, or where it attaches (read from its keys instead). The merged
# weights do not depend on them. Everything else that is set must be an option this module applies: an option that is
# not known here may change the numbers, and silently wrong vectors are worse than a stop.
_WITHOUT_EFFECT = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
    *("megatron_config", "megatron_core", "qalora_group_size", "runtime_config"),
}
_APPLIED = {
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out"),
    *("bias", "lora_bias", "init_lora_weights", "ensure_weight_tying"),
}
# These start from a changed base weight, so that the stored A and B are relative to a base that is not the published
# one. PEFT's `path_initial_model_for_weight_conversion` turns them into plain LoRA, and then sets this option to true.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class LoraSettings:
    """The options that the merge applies, with PEFT's defaults where the file leaves one out."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Check `config`. Raises `ExportError` listing every option that cannot be applied."""
        refused = list(_refused(config))
        if refused:
            raise ExportError(
                f"adapter: adapter_config.json asks for what cannot be merged: {'; '.join(refused)}. "
                "Merge it with the library that trained it and give the merged checkpoint."
            )
        self.use_dora = bool(config.get("use_dora"))
        self.transposed = bool(config.get("fan_in_fan_out"))
        # PEFT stores what it does to both weights where it ties them.
        self.ties = bool(config.get("ensure_weight_tying"))
        self._modules_to_save: list[str] = list(config.get("modules_to_save") or ())
        self._use_rslora = bool(config.get("use_rslora"))
        self._rank, self._ranks = int(config.get("r", 8)), dict(config.get("rank_pattern") or {})
        self._alpha, self._alphas = float(config.get("lora_alpha", 8)), dict(config.get("alpha_pattern") or {})

    def rank(self, module: str) -> int:
        """Rank of the adapter at a module, named as the adapter's file names it."""
        return int(self._ranks.get(_pattern_for(self._ranks, module), self._rank))

    def saves(self, module: str) -> bool:
        """Whether `modules_to_save` names a module, or one that it lies in, by the end of its name as PEFT does."""
        return any(f"{saved}." in f"{module}." for saved in self._modules_to_save)

    def scaling(self, module: str) -> float:
        """Factor on B @ A at a module: alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA."""
        alpha = float(self._alphas.get(_pattern_for(self._alphas, module), self._alpha))
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self._use_rslora else rank)


def _pattern_for(patterns: Iterable[str], module: str) -> str:
    """The first pattern that matches the end of a module name from a dot on, else the name itself.

    The rule of PEFT 0.20 (`peft.utils.other.get_pattern_key`).
    """
    return next((p for p in patterns if re.match(rf"(.*\.)?({p})$", module)), module)


def _refused(config: dict[str, Any]) -> Iterable[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type {config.get('peft_type')!r} (only LORA)"
        return
    initial = str(config.get("init_lora_weights", True)).lower()
    if initial.startswith(_CHANGES_BASE):
        yield f"init_lora_weights {initial!r} (it changes the base weights)"
    for option in sorted(config.keys() - _WITHOUT_EFFECT - _APPLIED):
        if config[option]:
            yield f"{option} = {config[option]!r}"
    for option, kind in (("r", int), ("lora_alpha", (int, float))):
        if not isinstance(config.get(option, 8), kind):
            yield f"{option} is {config[option]!r}, no number"
    for option in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(option) or {}
        if not isinstance(patterns, dict) or not all(isinstance(one, (int, float)) for one in patterns.values()):
            yield f"{option} is {patterns!r}, no numbers by the names of modules"
            continue
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                yield f"{option} {pattern!r} is not a regular expression ({error})"
