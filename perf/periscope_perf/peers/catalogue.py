"""The peers: script, environment, precision, and the systems that each can run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

# Beside the Makefile; `make peers` fills it.
VENVS = Path(".perf") / "venvs"


@dataclass(frozen=True)
class PeerSpec:
    """One peer.

    name: in results; it ends in its precision.
    script: the file that runs it; environment: the folder that has its interpreter.
    checkpoint: the layout that it reads (see `checkpoints.Checkpoints`).
    systems: those whose model it can run.
    comparable: those of them whose vectors it also makes as published.
    """

    name: str
    script: str
    environment: str
    checkpoint: str
    precision: str
    systems: tuple[str, ...]
    comparable: tuple[str, ...]

    def python(self, venvs: Path = VENVS) -> Path:
        """The interpreter of its environment."""
        return venvs / self.environment / "bin" / "python"

    @property
    def path(self) -> Path:
        """Its script."""
        return HERE / self.script


_BOTH = ("colqwen2", "qwen3_vl_embedding")
_COLQWEN2 = ("colqwen2",)
_QWEN3 = ("qwen3_vl_embedding",)


def _of(
    name: str, script: str, environment: str, checkpoint: str, systems: tuple[str, ...], comparable: tuple[str, ...]
) -> list[PeerSpec]:
    return [
        PeerSpec(f"{name}-{precision}", script, environment, checkpoint, precision, systems, comparable)
        for precision in ("fp32", "bf16")
    ]


PEERS: dict[str, PeerSpec] = {
    peer.name: peer
    for peer in (
        *_of("transformers", "with_transformers.py", "transformers", "transformers", _BOTH, _BOTH),
        *_of("colpali-engine", "with_colpali_engine.py", "colpali_engine", "published", _COLQWEN2, _COLQWEN2),
        *_of(
            "sentence-transformers",
            "with_sentence_transformers.py",
            "sentence_transformers",
            "transformers",
            _BOTH,
            # transformers 5 gives ColQwen2 plain positions there, so its vectors are not the published ones.
            _QWEN3,
        ),
        # On Qwen2-VL it pools the last token, where ColQwen2 projects every one: the same work, other vectors.
        *_of("vllm", "with_vllm.py", "vllm", "vllm", _BOTH, _QWEN3),
    )
}
