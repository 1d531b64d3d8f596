"""ColQwen2 on colpali-engine, as its README calls it. Run by its own environment.

Speaks the lines that `host.py` describes. Legend: B rows (one), T tokens.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from periscope_perf.peers.answering import serve
    from periscope_perf.peers.torchvision_operators import declare_torchvision_operators
else:  # run by its path, where this package is not installed
    from answering import serve
    from torchvision_operators import declare_torchvision_operators


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


if __name__ == "__main__":
    serve(Peer())
