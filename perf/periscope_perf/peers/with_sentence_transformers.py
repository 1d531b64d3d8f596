"""ColQwen2 and Qwen3-VL-Embedding on sentence-transformers 6. Run by its own environment.

Speaks the lines that `host.py` describes. ColQwen2 is a `MultiVectorEncoder` on transformers' class, with all that this
class does: its own query form, and plain positions in transformers 5.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from periscope_perf.peers.answering import serve
    from periscope_perf.peers.torchvision_operators import declare_torchvision_operators
else:  # run by its path, where this package is not installed
    from answering import serve
    from torchvision_operators import declare_torchvision_operators

INSTRUCTION = "Represent the user's input."
# The limits of the released class of Qwen3-VL-Embedding.
PIXELS = {"shortest_edge": 4 * 32 * 32, "longest_edge": 1800 * 32 * 32}


def exact(vectors: Any) -> list[Any]:
    """Return vectors as float32 arrays: it makes arrays or tensors, and numpy reads no bfloat16 ones."""
    import torch

    return [torch.as_tensor(one).float().cpu().numpy() for one in vectors]


class ColQwen2:
    """A late vector a token."""

    def __init__(self, checkpoint: str, dtype: Any) -> None:
        from sentence_transformers import MultiVectorEncoder

        self.model = MultiVectorEncoder(checkpoint, device="cpu", model_kwargs={"dtype": dtype})

    def pages(self, images: list[Any]) -> list[Any]:
        return exact(self.model.encode_document(images, batch_size=1, show_progress_bar=False))

    def queries(self, texts: list[str]) -> list[Any]:
        return exact(self.model.encode_query(texts, batch_size=1, show_progress_bar=False))


class Qwen3VLEmbedding:
    """The model, its last token, normalised."""

    def __init__(self, checkpoint: str, dtype: Any) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Normalize, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        tower = Transformer(
            checkpoint,
            model_kwargs={"dtype": dtype},
            processor_kwargs={"size": PIXELS},
            processing_kwargs={"chat_template": {"add_generation_prompt": True}},
        )
        width = tower.get_embedding_dimension()
        self.model = SentenceTransformer(modules=[tower, Pooling(width, "lasttoken"), Normalize()], device="cpu")

    def pages(self, images: list[Any]) -> list[Any]:
        return self.encode(images)

    def queries(self, texts: list[str]) -> list[Any]:
        return self.encode(texts)

    def encode(self, items: list[Any]) -> list[Any]:
        return exact(self.model.encode(items, prompt=INSTRUCTION, batch_size=1, show_progress_bar=False))


SYSTEMS: dict[str, Any] = {"colqwen2": ColQwen2, "qwen3_vl": Qwen3VLEmbedding}


class Peer:
    """The operations, by their names."""

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        os.environ["OMP_NUM_THREADS"] = str(request["threads"])
        import torch

        torch.set_num_threads(request["threads"])
        declare_torchvision_operators()
        kind = json.loads((Path(request["checkpoint"]) / "config.json").read_text(encoding="utf-8"))["model_type"]
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[request["precision"]]
        self.system = SYSTEMS[kind](request["checkpoint"], dtype)
        return {"versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")}}

    def pages(self, request: dict[str, Any]) -> list[Any]:
        from PIL import Image

        return self.system.pages([Image.open(file).convert("RGB") for file in request["files"]])

    def queries(self, request: dict[str, Any]) -> list[Any]:
        return self.system.queries(request["texts"])


if __name__ == "__main__":
    serve(Peer())
