"""ColQwen2 on colpali-engine, as its README calls it. Run by its own environment.

Speaks the lines that `host.py` describes. Legend: B rows (one), T tokens.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from importlib.metadata import version
from typing import Any


def declare_torchvision_operators() -> None:
    """Make torchvision importable beside the CPU build of torch, which lacks the operators that it refers to."""
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_operators"] = library  # a library that is collected takes its operators with it


class Peer:
    """The operations, by their names."""

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        os.environ["OMP_NUM_THREADS"] = str(request["threads"])
        import torch

        torch.set_num_threads(request["threads"])
        torch.set_grad_enabled(False)
        declare_torchvision_operators()
        from colpali_engine.models import ColQwen2, ColQwen2Processor
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[request["precision"]]
        model, report = ColQwen2.from_pretrained(request["checkpoint"], dtype=dtype, output_loading_info=True)
        if left := {name: keys for name, keys in report.items() if keys}:
            raise RuntimeError(f"colpali-engine did not load {request['checkpoint']} completely: {left}")
        self.model = model.eval()
        self.processor = ColQwen2Processor.from_pretrained(request["checkpoint"])
        self.processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(request["checkpoint"])
        return {"versions": {name: version(name) for name in ("torch", "transformers", "colpali-engine")}}

    def pages(self, request: dict[str, Any]) -> list[Any]:
        from PIL import Image

        return [self.embed(self.processor.process_images([Image.open(file)])) for file in request["files"]]

    def queries(self, request: dict[str, Any]) -> list[Any]:
        suffix = self.processor.query_augmentation_token * 10
        return [self.embed(self.processor.process_texts([f"Query: {text}{suffix}"])) for text in request["texts"]]

    def embed(self, inputs: Any) -> Any:
        # Some versions of transformers count plain positions where the model was trained with M-RoPE.
        image_tokens_BT = (inputs["input_ids"] == self.model.config.image_token_id).int()
        positions = self.model.get_rope_index(
            inputs["input_ids"],
            image_tokens_BT,
            inputs.get("image_grid_thw"),
            attention_mask=inputs["attention_mask"],
        )[0]
        return self.model(**inputs, position_ids=positions)[0].float().numpy()


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
                np.savez(request["vectors"], *done)
                answer["vectors"] = request["vectors"]
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
