"""jina-embeddings-v4: checkpoints in its published layout, and the published model with PEFT's adapters.

The released class is on the hub alone. What it does around Qwen2.5-VL is put together here; PEFT has the adapters of
all tasks and activates one, where the released layers choose by row.

Legend: B rows, T tokens, K dimensions of a late vector, H of a state, P patches, C bytes of a patch.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from periscope_testing.adapters import random_adapter, write_adapter
from periscope_testing.colqwen2_5 import config_of
from periscope_testing.files import write_json, write_tensors
from periscope_testing.qwen2_5_vl import window_by_window
from periscope_testing.qwen2_vl import (
    Layout,
    Qwen2VLSizes,
    class_config,
    random_weights,
    renamed,
    write_processor,
)
from periscope_testing.reference import Floats, Item, Reference, Vectors, maxsim
from periscope_testing.system import System, detailed_page, with_other
from periscope_testing.tokenizers.qwen2 import make_tokenizer

TASKS = ("retrieval", "text-matching", "code")
_PROJECTOR = "multi_vector_projector"
_MODULES = r"(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj)"
# As published: a regular expression that matches the vision tower too, which is excluded.
_TARGETS = rf"(.*(model).*{_MODULES}.*$|.*(single_vector_projector|multi_vector_projector).*$)"
# Names from before 4.52, which transformers maps for its own classes alone.
_KEYS = {r"^visual\.": "model.visual.", r"^model\.(?!visual\.|language_model\.)": "model.language_model."}
_CHANGED = re.compile(rf"model\.language_model\.layers\.\d+\.\w+\.{_MODULES}\.weight|{_PROJECTOR}\.weight")


def make_jina_embeddings_v4(
    folder: Path,
    sizes: Qwen2VLSizes | None = None,
    *,
    seed: int = 0,
    layout: Layout = "new",
    projector: Literal["root", "adapters"] = "root",
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write a checkpoint and return its folder: whole weights, and the adapters of all tasks in `adapters/`.

    `projector` says which of both has the weights that late vectors are made with, before the adapters change them.
    `tokenizer` is one of `make_tokenizer`, by default that of no words.
    """
    sizes, tokenizer = sizes or Qwen2VLSizes(), tokenizer or make_tokenizer()
    flat, generator = config_of(sizes, tokenizer), torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in _model_class()(class_config(flat)).state_dict().items()}
    if sizes.tied:
        del shapes["lm_head.weight"]
    weights = random_weights(shapes, sizes, generator)
    folder.mkdir(parents=True, exist_ok=True)
    modules: dict[str, dict[str, Tensor]] = {}
    for task in TASKS:
        random = random_adapter(weights, _CHANGED, rank=sizes.rank, deviation=sizes.deviation, generator=generator)
        for name, parts in random.items():
            named = {part.replace(".weight", f".{task}.weight"): one.to(sizes.dtype) for part, one in parts.items()}
            modules.setdefault(name, {}).update(named)
    if projector == "adapters":
        moved = {part: weights.pop(f"{_PROJECTOR}.{part}") for part in ("weight", "bias")}
        modules[f"{_PROJECTOR}.weight"] |= moved
    write_tensors(folder, {renamed(name, layout): tensor for name, tensor in weights.items()})
    write_json(folder / "config.json", published_config(flat))
    write_processor(folder, tokenizer, sizes, "JinaEmbeddingsV4Processor")
    write_adapter(
        folder / "adapters",
        "jinaai/jina-embeddings-v4",
        modules,
        rank=sizes.rank,
        target_modules=_TARGETS,
        renamed=partial(renamed, layout=layout),
        exclude_modules=".*visual.*",
    )
    return folder


def published_config(flat: dict[str, Any]) -> dict[str, Any]:
    """`config.json` as the released class writes it: no model type, and the language model's sizes twice."""
    text = {name: one for name, one in class_config(flat).text_config.to_dict().items() if one is not None}
    config = {name: one for name, one in flat.items() if name != "model_type"}
    return {
        **config,
        "architectures": ["JinaEmbeddingsV4Model"],
        "rope_scaling": {**flat["rope_scaling"], "type": "default", "rope_type": "default"},
        "text_config": {**text, "rope_theta": flat["rope_theta"], "rope_scaling": flat["rope_scaling"]},
        "multi_vector_projector_dim": 128,
        "single_vector_pool_strategy": "mean",
        "task_names": list(TASKS),
        "matryoshka_dims": [128, 256, 512, 1024, 2048],
        "truncate_dim": None,
    }


def _model_class() -> Any:
    """Return the published class with the projection that the released one adds."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    class JinaEmbeddingsV4(Qwen2_5_VLForConditionalGeneration):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.multi_vector_projector = nn.Linear(config.text_config.hidden_size, 128)
            self.post_init()

    return JinaEmbeddingsV4


class JinaEmbeddingsV4Reference:
    """The published model with its adapters; `task` is that of items that name none."""

    # Attributes that mistakes change.
    passages_match = False
    whole_prompt = False
    image_prompt = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|>\n"

    def __init__(self, checkpoint: Path, task: str = TASKS[0]) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import Qwen2_5_VLProcessor
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.task = task
        model, report = _model_class().from_pretrained(
            checkpoint, dtype=torch.float32, key_mapping=_KEYS, output_loading_info=True
        )
        left = {name: keys for name, keys in report.items() if keys}
        assert not left, f"transformers did not load {checkpoint.name} completely: {left}"
        config = LoraConfig.from_pretrained(checkpoint / "adapters")
        config.base_model_name_or_path = str(checkpoint)  # PEFT warns where it is loaded from another place
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for an attribute by its old name
            self.live = get_peft_model(model, config, adapter_name=TASKS[0])
        for other in TASKS[1:]:
            self.live.add_adapter(other, config)
        stored = load_file(checkpoint / "adapters" / "adapter_model.safetensors")
        adapters = {
            re.sub(r"(?<=base_model\.model\.)(model\.)(?=layers)", r"\1language_model.", name): tensor
            for name, tensor in stored.items()
        }
        wanted = {name for name in self.live.state_dict() if ".lora_" in name}
        assert wanted == adapters.keys(), f"PEFT has other keys: {wanted ^ adapters.keys()}"
        self.live.load_state_dict(adapters, strict=False)
        self.model = model.eval()
        self.processor = Qwen2_5_VLProcessor.from_pretrained(checkpoint)
        self.processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)

    def embed(self, item: Item) -> Vectors:
        """Return late and dense vectors, from one pass with the adapter of the item's task."""
        return self._vectors(self._prepared(item), item)

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Return MaxSim of the query and each document."""
        return maxsim(self, query, documents)

    def pixels(self, page: Image.Image) -> NDArray[np.uint8]:
        """Return patches, before they are rescaled, window by window."""
        prepared = self.processor.image_processor(page, do_rescale=False, do_normalize=False, return_tensors="pt")
        patches_PC = np.asarray(prepared["pixel_values"]).astype(np.uint8)
        return window_by_window(self.model.model.visual, patches_PC, prepared["image_grid_thw"])

    def ids(self, *items: Item) -> NDArray[np.integer[Any]]:
        """Return token ids."""
        (item,) = items
        return np.asarray(self._prepared(item)["input_ids"][0])

    def _prepared(self, item: Item) -> dict[str, Tensor]:
        if item.image is not None:
            return dict(self.processor(text=[self.image_prompt], images=[item.image], return_tensors="pt"))
        matching = (item.task or self.task) == "text-matching" and not self.passages_match
        prefix = "Passage" if item.role == "document" and not matching else "Query"
        return dict(self.processor(text=[f"{prefix}: {item.text}"], return_tensors="pt"))

    @torch.inference_mode()
    def _vectors(self, inputs: dict[str, Tensor], item: Item) -> Vectors:
        self.live.set_adapter(item.task or self.task)
        config, ids_T = self.model.config, inputs["input_ids"][0]
        is_image_BT = (inputs["input_ids"] == config.image_token_id).int()
        positions, _ = self.model.model.get_rope_index(
            inputs["input_ids"], is_image_BT, inputs.get("image_grid_thw"), attention_mask=inputs["attention_mask"]
        )
        inputs = {name: one for name, one in inputs.items() if name != "mm_token_type_ids"}
        states_TH = self.model.model(**inputs, position_ids=positions).last_hidden_state[0]
        late_TK = nn.functional.normalize(self.model.multi_vector_projector(states_TH), dim=-1)
        pooled_TH = states_TH
        if config.vision_start_token_id in ids_T and not self.whole_prompt:
            begin, end = (
                int((ids_T == token).nonzero()) for token in (config.vision_start_token_id, config.vision_end_token_id)
            )
            pooled_TH = states_TH[begin : end + 1]
        dense_H = nn.functional.normalize(pooled_TH.mean(0), dim=-1)[: item.dimensions]
        return Vectors(np.asarray(late_TK), np.asarray(nn.functional.normalize(dense_H, dim=-1)))


@contextmanager
def _without_adapters(reference: Reference) -> Iterator[None]:
    """Leave the root weights as they are."""
    assert isinstance(reference, JinaEmbeddingsV4Reference)
    with reference.live.disable_adapter():
        yield


@contextmanager
def _projected_without(reference: Reference) -> Iterator[None]:
    """Leave the projection alone as it is."""
    assert isinstance(reference, JinaEmbeddingsV4Reference)
    layer = reference.model.multi_vector_projector
    layer.enable_adapters(False)
    try:
        yield
    finally:
        layer.enable_adapters(True)


# 11 x 9 visual tokens.
_PAGE = Item(image=detailed_page(308, 252), role="document")
_make = partial(make_jina_embeddings_v4, seed=51)

SYSTEMS = (
    System(
        "jina_v4",
        "jina_embeddings_v4",
        "qwen2_5_vl",
        _make,
        JinaEmbeddingsV4Reference,
        shallow=partial(make_jina_embeddings_v4, sizes=Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64)),
        attention={"vision_encoder": 1, "language_model": 1},
        mistakes={
            "no adapter": (_PAGE, _without_adapters),
            "no adapter at the projection": (_PAGE, _projected_without),
            "another task's adapter": (_PAGE, with_other(task="code")),
            "words in the dense vector of a page": (_PAGE, with_other(whole_prompt=True)),
            "passages that match": (
                Item("energy", role="document", task="text-matching"),
                with_other(passages_match=True),
            ),
        },
    ),
    # The same weights, with one adapter merged.
    System(
        "jina_v4_code",
        "jina_embeddings_v4",
        "qwen2_5_vl",
        _make,
        partial(JinaEmbeddingsV4Reference, task="code"),
        settings={"adapters.task": "code"},
    ),
)
