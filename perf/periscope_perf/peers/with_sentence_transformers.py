"""ColQwen2 and Qwen3-VL-Embedding on sentence-transformers 6. Run by its own environment.

Speaks the lines that `host.py` describes. ColQwen2 is a `MultiVectorEncoder` on transformers' class, with all that this
class does: its own query form, and plain positions in transformers 5.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

INSTRUCTION = "Represent the user's input."
# The limits of the released class of Qwen3-VL-Embedding.
PIXELS = {"shortest_edge": 4 * 32 * 32, "longest_edge": 1800 * 32 * 32}


def declare_torchvision_operators() -> None:
    """Make torchvision importable beside the CPU build of torch, which lacks the operators that it refers to."""
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_operators"] = library  # a library that is collected takes its operators with it


class ColQwen2:
    """A late vector a token."""

    def __init__(self, checkpoint: str, dtype: Any) -> None:
        from sentence_transformers import MultiVectorEncoder

        self.model = MultiVectorEncoder(checkpoint, device="cpu", model_kwargs={"dtype": dtype})

    def pages(self, images: list[Any]) -> list[Any]:
        return [*self.model.encode_document(images, batch_size=1, show_progress_bar=False)]

    def queries(self, texts: list[str]) -> list[Any]:
        return [*self.model.encode_query(texts, batch_size=1, show_progress_bar=False)]


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
        return [*self.model.encode(items, prompt=INSTRUCTION, batch_size=1, show_progress_bar=False)]


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


def main() -> None:
    """Answer line by line. What libraries print goes to stderr."""
    import numpy as np

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            start = time.perf_counter()
            done = getattr(peer, request["op"])(request)
            answer: dict[str, Any] = {"seconds": time.perf_counter() - start}
            if isinstance(done, dict):
                answer.update(done)
            else:
                # [T, K] an item, also where there is one vector.
                arrays = [np.atleast_2d(np.asarray(one, np.float32)) for one in done]
                np.savez(request["vectors"], *arrays)
                answer["vectors"] = request["vectors"]
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
