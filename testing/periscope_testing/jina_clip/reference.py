"""jina-clip-v1, put together from code that nobody here wrote; the published remote code does not run beside today's
transformers.

Images: torchvision's transforms in the order of the published processor, then timm's EVA02. Texts: transformers'
NomicBert, a post-norm BERT with gated MLPs. Its rotary positions are switched off by giving every token the position 0,
its projections get the biases that JinaBERT has, and ALiBi comes in as its attention mask, with the slopes that
transformers' Bloom computes. Ours is what is left: which half of `gated_layers` is the gate, that distances count on
both sides, that padding is what the tokenizer pads with, and the mean over the rest.

Legend: B rows, T tokens, A heads, H width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from periscope_testing.reference import Floats, Item, Vectors, cosines, patches
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

# transformers' name of a module of a text layer, and the stored one. Queries, keys and values are cut from one.
_TEXT_MODULES = {
    "self_attn.o_proj": "mixer.out_proj",
    "post_attention_layernorm": "norm1",
    "mlp.down_proj": "mlp.wo",
    "post_mlp_layernorm": "norm2",
}


class JinaClipReference:
    """Loads a checkpoint in the published layout and embeds with it, in float32."""

    def __init__(self, checkpoint: Path) -> None:
        self.config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        processor = json.loads((checkpoint / "preprocessor_config.json").read_text(encoding="utf-8"))
        weights = load_file(checkpoint / "model.safetensors")
        self.transform = image_transform(processor)
        self.vision = vision_tower(self.config["vision_config"], weights)
        self.text = text_tower(self.config["text_config"]["hf_model_config_kwargs"], weights)
        self.heads: int = self.config["text_config"]["hf_model_config_kwargs"]["num_attention_heads"]
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")

    def embed(self, item: Item) -> Vectors:
        """Return the dense vector."""
        return Vectors(dense=(self.texts([item.text or ""]) if item.image is None else self.images([item.image]))[0])

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Return the cosine of the query and each document."""
        return cosines(self, query, documents)

    def pixels(self, page: Image.Image) -> npt.NDArray[np.uint8]:
        """Return patches, before they are rescaled: channel, row, column."""
        resize, crop, *_ = self.transform.transforms
        return patches(
            np.asarray(crop(resize(page.convert("RGB")))).transpose(2, 0, 1), self.config["vision_config"]["patch_size"]
        )

    def ids(self, *items: Item) -> npt.NDArray[np.integer[Any]]:
        """Return token ids; an image has none."""
        (item,) = items
        return np.asarray(self.tokenizer.encode(item.text or "").ids)

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Floats:
        """Embed images in one batch: float32 [B, H]."""
        pixels = torch.stack([self.transform(image.convert("RGB")) for image in images])
        return np.asarray(nn.functional.normalize(self.vision(pixels), dim=-1))

    def texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts in one batch: float32 [B, H]."""
        ids_BT = torch.tensor([encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))])
        return self.mean(self.states(ids_BT), ids_BT != 0)

    @torch.inference_mode()
    def states(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Return the last states [B, T, H]; 0 is padding."""
        bias_BATT = alibi(self.heads, ids_BT.shape[1]).masked_fill((ids_BT == 0)[:, None, None], float("-inf"))
        output = self.text(
            input_ids=ids_BT, attention_mask=bias_BATT, position_ids=torch.zeros_like(ids_BT), return_dict=True
        )
        states_BTH: torch.Tensor = output.last_hidden_state
        return states_BTH

    @staticmethod
    def mean(states_BTH: torch.Tensor, real_BT: torch.Tensor) -> Floats:
        """Return the mean of the real states, at length 1."""
        means = [states_TH[real_T].mean(0) for states_TH, real_T in zip(states_BTH, real_BT, strict=True)]
        return np.asarray(nn.functional.normalize(torch.stack(means), dim=-1))


def image_transform(processor: dict[str, Any]) -> Any:
    """Return what the published processor builds for `resize_mode: shortest`: PIL image to float32 [3, S, S]."""
    from torchvision import transforms

    assert processor["resize_mode"] == "shortest"
    return transforms.Compose(
        [
            transforms.Resize(processor["size"], transforms.InterpolationMode[processor["interpolation"].upper()]),
            transforms.CenterCrop(processor["size"]),
            transforms.ToTensor(),
            transforms.Normalize(processor["mean"], processor["std"]),
        ]
    )


def vision_tower(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> nn.Module:
    """Timm's EVA02 in the form that it calls EVA-CLIP's, without the rescaling of positions that it does by default."""
    from timm.models.eva import Eva, checkpoint_filter_fn

    model = Eva(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        embed_dim=config["width"],
        depth=config["layers"],
        num_heads=config["width"] // config["head_width"],
        mlp_ratio=config["mlp_ratio"],
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(config["pt_hw_seq_len"],) * 2,
        global_pool="token",
        num_classes=0,
    )
    prefix = "vision_model."
    stored = {f"visual.{name.removeprefix(prefix)}": weights[name] for name in weights if name.startswith(prefix)}
    model.load_state_dict(checkpoint_filter_fn(stored, model))
    module: nn.Module = model.eval()
    return module


def text_tower(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> nn.Module:
    """Transformers' NomicBert with the biases of JinaBERT."""
    from transformers import NomicBertConfig, NomicBertModel

    sizes = {name: value for name, value in config.items() if name != "use_flash_attn"}
    model = NomicBertModel(NomicBertConfig(**sizes, hidden_act="gelu", attn_implementation="eager"))
    prefix = "text_model.transformer."
    stored = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
    renamed = {
        "embeddings.word_embeddings.weight": stored["embeddings.word_embeddings.weight"],
        "embeddings.token_type_embeddings.weight": stored["embeddings.token_type_embeddings.weight"],
        "embeddings.LayerNorm.weight": stored["emb_ln.weight"],
        "embeddings.LayerNorm.bias": stored["emb_ln.bias"],
    }
    for layer, module in enumerate(model.layers):
        here, there = f"layers.{layer}.", f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = stored[f"{there}mixer.Wqkv.{kind}"].chunk(3)
            renamed |= {f"{here}self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
            renamed |= {f"{here}{name}.{kind}": stored[f"{there}{old}.{kind}"] for name, old in _TEXT_MODULES.items()}
        gate, up = stored[f"{there}mlp.gated_layers.weight"].chunk(2)
        renamed |= {f"{here}mlp.gate_proj.weight": gate, f"{here}mlp.up_proj.weight": up}
        attention = module.self_attn
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, module.mlp.down_proj):
            linear.bias = nn.Parameter(torch.empty(linear.out_features))
    model.load_state_dict(renamed)
    module = model.eval()
    assert isinstance(module, nn.Module)
    return module


def alibi(heads: int, tokens: int) -> torch.Tensor:
    """Return float32 [1, N, T, T]: minus the slopes of transformers' Bloom times the distance."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    slopes_A = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    places_T = torch.arange(tokens)
    bias_1ATT: torch.Tensor = -slopes_A[None, :, None, None] * (places_T[:, None] - places_T[None]).abs()
    return bias_1ATT
