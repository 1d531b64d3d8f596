"""Qwen3-VL-Embedding and Qwen3-VL-Reranker as released: qwen-vl-utils, and transformers' processor and model, in fp32.

The order of the calls is that of the released classes (QwenLM/Qwen3-VL-Embedding, src/models), which themselves do not
run on transformers 5. Rows go one by one, so nothing is padded. Legend: T tokens, H hidden width.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from periscope_testing.reference import Floats, Item, Vectors, cosines
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

MIN_PIXELS, MAX_PIXELS = 4 * 32 * 32, 1800 * 32 * 32
MAX_FRAMES = 64
TOTAL_PIXELS = 10 * 768 * 32 * 32

DEFAULT_INSTRUCTION = "Represent the user's input."
DEFAULT_RERANK_INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
RERANK_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)

Frames = Sequence[Image.Image]
Message = dict[str, Any]


def contents(text: str | None = None, image: Image.Image | None = None, video: Frames | None = None) -> list[Message]:
    """The content that an item adds to a turn: video, image, text, or the word NULL."""
    parts: list[Message] = []
    if video is not None:
        frames = list(video)
        if len(frames) > MAX_FRAMES:
            frames = [frames[index] for index in np.linspace(0, len(frames) - 1, MAX_FRAMES, dtype=int)]
        parts.append({"type": "video", "video": frames, "total_pixels": TOTAL_PIXELS})
    if image is not None:
        parts.append({"type": "image", "image": image, "min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS})
    if text is not None:
        parts.append({"type": "text", "text": text})
    return parts or [{"type": "text", "text": "NULL"}]


def as_bytes(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """Return normalised pixels as the bytes that they were."""
    return np.asarray(((pixels + 1) * 127.5).round().to(torch.uint8))


class _Published:
    def __init__(self, checkpoint: Path, model_class: str, padding_side: str) -> None:
        import transformers
        from transformers.utils import logging

        logging.disable_progress_bar()
        model, report = getattr(transformers, model_class).from_pretrained(
            checkpoint, dtype=torch.float32, output_loading_info=True
        )
        left = {name: keys for name, keys in report.items() if keys}
        assert not left, f"transformers did not load {checkpoint.name} completely: {left}"
        self.model = model.eval()
        self.processor = transformers.Qwen3VLProcessor.from_pretrained(checkpoint, padding_side=padding_side)

    def prepare(self, conversation: list[Message]) -> dict[str, torch.Tensor]:
        """Return what the published processor makes of a conversation."""
        from qwen_vl_utils import process_vision_info

        text = self.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        # transformers 4.57, which the code was released for, replaces the video token together with the template's
        # <|vision_start|> and <|vision_end|>; 5 leaves them around what it puts there (vllm-project/vllm issue 46817).
        text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
        images, videos, options = process_vision_info(
            [conversation], image_patch_size=16, return_video_kwargs=True, return_video_metadata=True
        )
        frames, metadata = map(list, zip(*videos, strict=True)) if videos else (None, None)
        inputs = self.processor(
            text=text,
            images=images,
            videos=frames,
            video_metadata=metadata,
            do_resize=False,
            return_tensors="pt",
            **options,
        )
        return dict(inputs)

    def as_images(self, ids_T: torch.Tensor) -> NDArray[np.integer[Any]]:
        """Return ids with the image token in the place of the video token."""
        config = self.model.config
        return np.asarray(torch.where(ids_T == config.video_token_id, config.image_token_id, ids_T))

    @torch.inference_mode()
    def last_state(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run a model on one row and return the state [H] of its last token."""
        inputs = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        states: torch.Tensor = model(**inputs).last_hidden_state
        return states[0, -1]


class EmbeddingReference(_Published):
    """The released embedder."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint, "Qwen3VLModel", "right")

    def conversation(self, instruction: str | None = None, **item: Any) -> list[Message]:
        """Return the chat that is embedded."""
        if instruction:
            instruction = instruction.strip()
            if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
                instruction += "."
        system = [{"type": "text", "text": instruction or DEFAULT_INSTRUCTION}]
        return [{"role": "system", "content": system}, {"role": "user", "content": contents(**item)}]

    def embed(self, item: Item) -> Vectors:
        """Return the dense vector."""
        state_H = self.last_state(self.model, self._prepared(item))
        return Vectors(dense=np.asarray(torch.nn.functional.normalize(state_H[: item.dimensions], dim=-1)))

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Return the cosine of the query and each document."""
        return cosines(self, query, documents)

    def pixels(self, page: Image.Image) -> NDArray[np.uint8]:
        """Return patches, before they are rescaled."""
        return as_bytes(self._prepared(Item(image=page))["pixel_values"])

    def ids(self, *items: Item) -> NDArray[np.integer[Any]]:
        """Return token ids; frames of a video are images."""
        (item,) = items
        return self.as_images(self._prepared(item)["input_ids"][0])

    def _prepared(self, item: Item) -> dict[str, torch.Tensor]:
        return self.prepare(self.conversation(item.instruction, **item.contents()))


class RerankerReference(_Published):
    """The released reranker."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint, "Qwen3VLForConditionalGeneration", "left")
        vocabulary = self.processor.tokenizer.get_vocab()
        rows = self.model.lm_head.weight.detach()
        self.difference_H = rows[vocabulary["yes"]] - rows[vocabulary["no"]]

    def conversation(self, query: Message, document: Message, instruction: str | None = None) -> list[Message]:
        """Return the chat that is judged; `query` and `document` hold `text`, `image` and `video`."""
        user = [
            {"type": "text", "text": "<Instruct>: " + (instruction or DEFAULT_RERANK_INSTRUCTION)},
            {"type": "text", "text": "<Query>:"},
            *contents(**query),
            {"type": "text", "text": "\n<Document>:"},
            *contents(**document),
        ]
        system = [{"type": "text", "text": RERANK_SYSTEM}]
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]

    def embed(self, item: Item) -> Vectors:
        """Raise `NotImplementedError`: a reranker has no vectors."""
        raise NotImplementedError

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Score documents one by one; the instruction is the query's."""
        pairs = [self._prepared(query, document) for document in documents]
        logits = torch.stack([self.last_state(self.model.model, pair) @ self.difference_H for pair in pairs])
        return np.asarray(torch.sigmoid(logits))

    def pixels(self, page: Image.Image) -> NDArray[np.uint8]:
        """Return patches of a document, before they are rescaled."""
        return as_bytes(self._prepared(Item("x"), Item(image=page))["pixel_values"])

    def ids(self, *items: Item) -> NDArray[np.integer[Any]]:
        """Return the token ids of a query and a document; frames of a video are images."""
        query, document = items
        return self.as_images(self._prepared(query, document)["input_ids"][0])

    def _prepared(self, query: Item, document: Item) -> dict[str, torch.Tensor]:
        return self.prepare(self.conversation(query.contents(), document.contents(), query.instruction))
