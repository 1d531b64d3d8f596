"""Operations of a page, counted by torch, against the same sum by hand."""

from __future__ import annotations

from pathlib import Path

from periscope_perf.checkpoints import QWEN2_VL, colqwen2
from periscope_perf.flops import page_flops
from periscope_perf.pages import page_files


def test_a_page_of_a_small_colqwen2(tmp_path: Path) -> None:
    checkpoints = colqwen2(tmp_path, "small")
    sizes = QWEN2_VL["small"]
    patches, tokens = 8 * 12, 2 * 12
    page = page_files(1, (12 * 14, 8 * 14))[0]
    vision, width, kv = sizes.vision_width, sizes.width, 128 * sizes.kv_heads
    # q, k, v, the output, two layers of the MLP; scores and sums of attention.
    block = 2 * patches * (4 * vision**2 + 2 * 4 * vision**2) + 4 * patches**2 * vision
    merger = 2 * tokens * (16 * vision**2 + 4 * vision * width)
    vision_flops = 2 * patches * 1176 * vision + sizes.vision_layers * block + merger
    prompt = _tokens_beside_the_image(checkpoints.folder("published"))
    length = tokens + prompt
    layer = 2 * length * (2 * width**2 + 2 * width * kv + 3 * width * sizes.mlp) + 4 * length**2 * width
    language_flops = sizes.language_layers * layer + 2 * length * width * 128
    assert page_flops(checkpoints.folder("published"), "colqwen2", page) == vision_flops + language_flops


def _tokens_beside_the_image(checkpoint: Path) -> int:
    from tokenizers import Tokenizer

    prompt = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|><|endoftext|>"
    return len(Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(prompt).ids) - 1
