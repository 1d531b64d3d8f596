"""Qwen3-VL-Embedding and Qwen2-VL on vLLM's CPU build, as a pooling model. Run by its own environment.

Speaks the lines that `host.py` describes. A vector an item: the normalised state of its last token.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
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
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
# By the model type in config.json: what a text, and what an image is in the prompt.
PROMPTS = {
    "qwen2_vl": ("Query: {text}" + 10 * "<|endoftext|>", f"<|im_start|>user\n{IMAGE}Describe the image.<|im_end|>"),
    "qwen3_vl": (
        f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\n{{text}}<|im_end|>\n<|im_start|>assistant\n",
        f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\n{IMAGE}<|im_end|>\n<|im_start|>assistant\n",
    ),
}


# The code that Python runs first in each process that vLLM starts: it looks at models in one of their own.
STARTUP = """\
import sys
sys.path.append({folder!r})
import with_vllm
with_vllm.make_importable()
sys.path.remove({folder!r})
"""


def make_importable() -> None:
    """Let torchvision be imported beside the CPU build of torch, and what does not load there be done without."""
    declare_torchvision_operators()
    for name in ("torchaudio", "torchcodec"):
        sys.modules[name] = None  # type: ignore[assignment]


class Peer:
    """The operations, by their names."""

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        cores = sorted(os.sched_getaffinity(0))[: request["threads"]]
        os.environ.update(
            # By default vLLM keeps cores free for its own front, and there are few.
            VLLM_CPU_OMP_THREADS_BIND=",".join(map(str, cores)),
            VLLM_CPU_KVCACHE_SPACE="1",
            # One process less: nothing here is to be done while the engine computes.
            VLLM_ENABLE_V1_MULTIPROCESSING="0",
            VLLM_NO_USAGE_STATS="1",
            HF_HUB_OFFLINE="1",
        )
        self.startup = tempfile.TemporaryDirectory()
        file = Path(self.startup.name) / "sitecustomize.py"
        file.write_text(STARTUP.format(folder=str(Path(__file__).parent)), encoding="utf-8")
        os.environ["PYTHONPATH"] = os.pathsep.join([self.startup.name, os.environ.get("PYTHONPATH", "")])
        make_importable()
        from vllm import LLM

        dtype = {"fp32": "float32", "bf16": "bfloat16"}[request["precision"]]
        checkpoint = Path(request["checkpoint"])
        self.text, self.image = PROMPTS[json.loads((checkpoint / "config.json").read_text("utf-8"))["model_type"]]
        self.model = LLM(
            str(checkpoint),
            runner="pooling",
            convert="embed",
            dtype=dtype,
            max_model_len=4096,
            max_num_seqs=8,
            limit_mm_per_prompt={"image": 1, "video": 0},
            # It would size its memory with the largest image that the processor takes, for minutes.
            skip_mm_profiling=True,
            # An index of pages sees each page once.
            enable_prefix_caching=False,
            mm_processor_cache_gb=0,
        )
        return {"versions": {name: version(name) for name in ("torch", "transformers", "vllm-cpu")}}

    def pages(self, request: dict[str, Any]) -> list[Any]:
        from PIL import Image

        images = [Image.open(file).convert("RGB") for file in request["files"]]
        return self.embed([{"prompt": self.image, "multi_modal_data": {"image": image}} for image in images])

    def queries(self, request: dict[str, Any]) -> list[Any]:
        # One by one: what is asked of queries is how long one takes.
        return [*(self.embed([{"prompt": self.text.format(text=text)}])[0] for text in request["texts"])]

    def embed(self, prompts: list[Any]) -> list[Any]:
        import numpy as np

        found = self.model.embed(prompts, use_tqdm=False)
        return [np.asarray([one.outputs.embedding], np.float32) for one in found]


if __name__ == "__main__":
    serve(Peer())
