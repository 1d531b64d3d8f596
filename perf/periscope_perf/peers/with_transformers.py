"""ColQwen2 and Qwen3-VL-Embedding on transformers, as published: processor and model. Run by its own environment.

Speaks the lines that `host.py` describes. Legend: B rows (one), T tokens, H hidden width.
"""

from __future__ import annotations

import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
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
PIXELS = {"min_pixels": 4 * 32 * 32, "max_pixels": 1800 * 32 * 32}


class ColQwen2:
    """`ColQwen2ForRetrieval` with its processor; a late vector a token."""

    def __init__(self, checkpoint: str, dtype: Any) -> None:
        from transformers import ColQwen2ForRetrieval, ColQwen2Processor
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self.model = complete(ColQwen2ForRetrieval, checkpoint, dtype)
        self.processor = ColQwen2Processor.from_pretrained(checkpoint)
        self.processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)

    def page(self, image: Any) -> Any:
        return self.embed(dict(self.processor.process_images([image], return_tensors="pt")))

    def query(self, text: str) -> Any:
        # As the weights were trained; the processor's own form has a newline at its end.
        text = f"Query: {text}{self.processor.query_augmentation_token * 10}"
        return self.embed(dict(self.processor.tokenizer([text], return_tensors="pt")))

    def embed(self, inputs: dict[str, Any]) -> Any:
        # transformers 5 would count plain positions here where the published model, and transformers 4, count M-RoPE.
        image_tokens_BT = (inputs["input_ids"] == self.model.config.vlm_config.image_token_id).int()
        positions = self.model.vlm.get_rope_index(
            inputs["input_ids"],
            image_tokens_BT,
            inputs.get("image_grid_thw"),
            attention_mask=inputs["attention_mask"],
        )[0]
        names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
        known = {name: inputs[name] for name in names if name in inputs}
        return self.model(**known, position_ids=positions).embeddings[0].float().numpy()


class Qwen3VLEmbedding:
    """`Qwen3VLModel`, its processor and qwen-vl-utils, in the order of the released class; one vector an item."""

    def __init__(self, checkpoint: str, dtype: Any) -> None:
        from transformers import Qwen3VLModel, Qwen3VLProcessor

        self.model = complete(Qwen3VLModel, checkpoint, dtype)
        self.processor = Qwen3VLProcessor.from_pretrained(checkpoint, padding_side="right")

    def page(self, image: Any) -> Any:
        return self.embed([{"type": "image", "image": image, **PIXELS}])

    def query(self, text: str) -> Any:
        return self.embed([{"type": "text", "text": text}])

    def embed(self, content: list[dict[str, Any]]) -> Any:
        import torch
        from qwen_vl_utils import process_vision_info

        chat = [
            {"role": "system", "content": [{"type": "text", "text": INSTRUCTION}]},
            {"role": "user", "content": content},
        ]
        text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        images, _ = process_vision_info([chat], image_patch_size=16)
        inputs = self.processor(text=[text], images=images, do_resize=False, return_tensors="pt")
        state_H = self.model(**inputs).last_hidden_state[0, -1].float()
        return torch.nn.functional.normalize(state_H, dim=-1).numpy()[None]


SYSTEMS: dict[str, Any] = {"colqwen2": ColQwen2, "qwen3_vl": Qwen3VLEmbedding}


def complete(model_class: Any, checkpoint: str, dtype: Any) -> Any:
    """Load a model, or stop where a weight is missing: transformers leaves those at random with a warning."""
    model, report = model_class.from_pretrained(checkpoint, dtype=dtype, output_loading_info=True)
    if left := {name: keys for name, keys in report.items() if keys}:
        raise RuntimeError(f"transformers did not load {checkpoint} completely: {left}")
    return model.eval()


class Peer:
    """The operations, by their names."""

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        os.environ["OMP_NUM_THREADS"] = str(request["threads"])
        import torch

        torch.set_num_threads(request["threads"])
        torch.set_grad_enabled(False)
        declare_torchvision_operators()
        kind = json.loads((Path(request["checkpoint"]) / "config.json").read_text(encoding="utf-8"))["model_type"]
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[request["precision"]]
        self.system = SYSTEMS[kind](request["checkpoint"], dtype)
        return {"versions": {name: version(name) for name in ("torch", "transformers", "torchvision")}}

    def pages(self, request: dict[str, Any]) -> list[Any]:
        from PIL import Image

        return [self.system.page(Image.open(file).convert("RGB")) for file in request["files"]]

    def queries(self, request: dict[str, Any]) -> list[Any]:
        return [self.system.query(text) for text in request["texts"]]

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """From bytes to patches with the processor's PIL backend, in so many threads."""
        import torch
        from PIL import Image

        declare_torchvision_operators()
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        processor = Qwen2VLImageProcessorPil.from_pretrained(request["checkpoint"])
        files = [Path(file).read_bytes() for file in request["files"]]

        def patches(file: bytes) -> Any:
            return processor(images=[Image.open(io.BytesIO(file))], return_tensors="np")["pixel_values"]

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        with ThreadPoolExecutor(request["threads"]) as pool:
            patches(files[0])
            start = time.perf_counter()
            list(pool.map(patches, files))
            seconds = time.perf_counter() - start
        torch.set_num_threads(before)
        return {"seconds": seconds}


if __name__ == "__main__":
    serve(Peer())
