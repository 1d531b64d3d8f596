"""VLM2Vec-V2: checkpoints in its published layouts, and its released code on transformers' Qwen2-VL and PEFT.

The released code is a fork of transformers 4.51 that wants FlashAttention. What it does to prompts, pages and frames is
done here by the same calls.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from periscope_testing.adapters import random_adapter, write_adapter
from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl, write_processor
from periscope_testing.qwen2_vl_reference import Qwen2VLReference, make_shallow
from periscope_testing.reference import Item, Reference
from periscope_testing.system import System, detailed_page, with_other
from periscope_testing.tokenizers.qwen2 import make_tokenizer

MIN_PIXELS, MAX_PIXELS = 4 * 28 * 28, 1280 * 28 * 28
_TARGETS = [
    *("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "k_proj", "q_proj", "out_proj", "v_proj"),
    *("gate_proj", "up_proj"),
]
_CHANGED = re.compile(r"model\.(language_model\.)?layers\.\d+\.\w+\.([qkvo]|gate|up|down)_proj\.weight")


def make_vlm2vec_v2(folder: Path, sizes: Qwen2VLSizes | None = None, *, seed: int = 0, **options: Any) -> Path:
    """Write an adapter as PEFT writes the published training's, with its base beside it as `<folder>-base`.

    `options` are those of `make_qwen2_vl`, which writes the base, and merged weights alike.
    """
    sizes = sizes or Qwen2VLSizes()
    base = make_qwen2_vl(folder.with_name(folder.name + "-base"), sizes, seed=seed, **options)
    weights = {name: one for file in base.glob("*.safetensors") for name, one in load_file(file).items()}
    modules = random_adapter(
        weights,
        _CHANGED,
        rank=sizes.rank,
        deviation=sizes.deviation,
        generator=torch.Generator().manual_seed(seed + 1),
        dora=True,
    )
    # Four times the rank, as the released training has it by default.
    alpha = 4 * sizes.rank
    write_adapter(
        folder, str(base.resolve()), modules, rank=sizes.rank, target_modules=_TARGETS, dora=True, lora_alpha=alpha
    )
    write_processor(folder, make_tokenizer(), sizes, "Qwen2VLProcessor")
    return folder


class Vlm2VecReference(Qwen2VLReference):
    """Raw text behind a bare image or video token, and the state of the last token."""

    # Attributes that mistakes change.
    space = " "
    ending = ""
    chat = "{}"
    smallest = 28
    most_frames = 8

    def __init__(self, checkpoint: Path) -> None:
        config = checkpoint / "adapter_config.json"
        adapted = config.is_file()
        base = Path(json.loads(config.read_text())["base_model_name_or_path"]) if adapted else checkpoint
        super().__init__(base, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
        from transformers import Qwen2VLVideoProcessor

        # The released code resizes frames with Pillow, which this one no longer does.
        self.processor.video_processor = Qwen2VLVideoProcessor(do_resize=False)
        if adapted:
            self._adapt(checkpoint)

    def _adapt(self, checkpoint: Path) -> None:
        """Change the model's layers as PEFT does; it does not know the names that they had before transformers 4.52."""
        from peft import LoraConfig, get_peft_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for an attribute by its old name
            live = get_peft_model(self.model, LoraConfig.from_pretrained(checkpoint))
        stored = load_file(checkpoint / "adapter_model.safetensors")
        adapters = {
            re.sub(r"^base_model\.model\.model\.(language_model\.)?", "base_model.model.language_model.", name).replace(
                "lora_magnitude_vector", "lora_magnitude_vector.default.weight"
            ): one
            for name, one in stored.items()
        }
        adapters = {re.sub(r"(lora_[AB])\.weight$", r"\1.default.weight", name): one for name, one in adapters.items()}
        wanted = {name for name in live.state_dict() if ".lora_" in name}
        assert wanted == adapters.keys(), f"PEFT has other keys: {wanted ^ adapters.keys()}"
        live.load_state_dict(adapters, strict=False)
        live.eval()

    def prompt(self, item: Item) -> str:
        """Return the visual token, the instruction and the text, of these what there is."""
        words = " ".join(part for part in (item.instruction, item.text) if part)
        token = "<|image_pad|>" if item.image is not None else "<|video_pad|>" if item.video is not None else ""
        return self.chat.format((token and token + self.space) + words + self.ending)

    def fetched(self, page: Image.Image) -> Image.Image:
        """Return a page, no smaller than a visual token."""
        return page.resize((56, 56)) if min(page.size) < self.smallest else page

    def sampled(self, frames: Sequence[Image.Image]) -> list[torch.Tensor]:
        """Return the frames [channels, rows, columns] that are looked at, at the size of the first."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        chosen = list(frames)
        if len(chosen) >= self.most_frames:
            chosen = [chosen[index] for index in np.linspace(0, len(chosen) - 1, self.most_frames, dtype=int)]
        height, width = smart_resize(chosen[0].height, chosen[0].width, 28, MIN_PIXELS, MAX_PIXELS)
        resized = [frame.resize((width, height), Image.Resampling.BICUBIC) for frame in chosen]
        return [torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in resized]

    def video_pixels(self, frames: Sequence[Image.Image]) -> NDArray[np.uint8]:
        """Return patches of a video, before they are rescaled."""
        video = torch.stack(self.sampled(frames))
        prepare = self.processor.video_processor
        prepared = prepare(videos=[video], do_rescale=False, do_normalize=False, return_tensors="pt")
        return np.asarray(prepared["pixel_values_videos"]).astype(np.uint8)

    def ids(self, *items: Item) -> NDArray[np.integer[Any]]:
        """Return token ids; frames of a video are images."""
        ids_T = super().ids(*items)
        return np.where(ids_T == self.model.config.video_token_id, self.model.config.image_token_id, ids_T)

    def _prepared(self, item: Item) -> dict[str, torch.Tensor]:
        if item.video is None:
            return super()._prepared(item)
        video = torch.stack(self.sampled(item.video))
        return dict(self.processor(text=[self.prompt(item)], videos=[video], return_tensors="pt"))


@contextmanager
def _without_magnitudes(reference: Reference) -> Iterator[None]:
    """Add the low-rank product alone, as to plain LoRA."""
    assert isinstance(reference, Vlm2VecReference)
    layers = [module for module in reference.model.modules() if getattr(module, "lora_variant", None)]
    before = [layer.lora_variant for layer in layers]
    assert layers
    for layer in layers:
        layer.lora_variant = {}
    try:
        yield
    finally:
        for layer, variant in zip(layers, before, strict=True):
            layer.lora_variant = variant


_LONG = tuple(detailed_page(84, 56).rotate(10 * turn) for turn in range(10))
_TEXT = Item("energy", instruction="Find a page:")
_IMAGE = Item(image=detailed_page(140, 112), instruction="Which is it?")

SYSTEMS = (
    System(
        "vlm2vec",
        "vlm2vec_v2",
        "qwen2_vl",
        partial(make_vlm2vec_v2, sizes=Qwen2VLSizes(max_pixels=12845056), seed=23),
        Vlm2VecReference,
        # Merged weights.
        shallow=make_shallow,
        attention={"vision_encoder": 1, "language_model": 1},
        mistakes={
            "M-RoPE": (_IMAGE, with_other(positions="mrope")),
            "M-RoPE of a video": (Item("energy", video=_LONG), with_other(positions="mrope")),
            "plain LoRA": (_TEXT, _without_magnitudes),
            "a chat template": (_TEXT, with_other(chat="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")),
            "a token at the end": (_TEXT, with_other(ending="<|endoftext|>")),
            "a space at the end": (_IMAGE, with_other(ending=" ")),
            "no space behind the image": (_IMAGE, with_other(space="")),
            "<|vision_start|> before the image": (_IMAGE, with_other(chat="<|vision_start|>{}")),
            "a small page as it is": (Item(image=detailed_page(60, 20), instruction="Which?"), with_other(smallest=0)),
            "all frames": (Item(video=_LONG), with_other(most_frames=64)),
        },
    ),
)
