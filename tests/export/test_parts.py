"""Parts with values that no family here has yet: the transformers of CLIP and of XLM-RoBERTa with rotations.

Against transformers' own modules, on random weights. R rows, P patches, C bytes a patch, B texts, T tokens, H width,
S states of a row.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from periscope_export.families.paligemma import SIGLIP_RULES
from periscope_export.models.encoder import Encoder, EncoderConfig
from periscope_export.models.layers import Linear, Rotation
from periscope_export.models.vision import VisionTransformer, VisionTransformerConfig
from periscope_export.recipes.loading import load_recipe
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

TOLERANCE = 1e-4
CLIP_RULES = (
    (r"^", "visual."),
    (r"\.embeddings\.class_embedding$", ".class_token"),
    # As published, with its slip.
    (r"\.pre_layrnorm\.", ".first_norm."),
    *SIGLIP_RULES,
    (r"^visual\.", ""),
)
JINA_RULES = (
    (r"^embeddings\.LayerNorm\.", "emb_ln."),
    (r"^layers\.", "encoder.layers."),
    (r"\.self_attn\.o_proj\.", ".mixer.out_proj."),
    (r"\.self_attn\.", ".mixer."),
    (r"\.post_attention_layernorm\.", ".norm1."),
    (r"\.post_mlp_layernorm\.", ".norm2."),
)
CLIP = VisionTransformerConfig(
    layers=3,
    width=128,
    heads=2,
    mlp=192,
    eps=1e-5,
    activation="quick_gelu",
    qkv="separate",
    patch_bias=False,
    class_token=True,
    table=1 + 4 * 4,
    first_norm=True,
)
JINA = EncoderConfig(layers=2, width=128, heads=2, mlp=192, vocabulary=90, types=1, eps=1e-5)


@torch.no_grad()
def weights(model: nn.Module, rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Give a published module random weights, norms and biases too; return them by the parts' names."""
    torch.manual_seed(11)
    found: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        nn.init.normal_(weight, mean=float(bool(re.search(r"norm\d?\.weight", name, re.IGNORECASE))), std=0.15)
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = weight
    return found


@torch.no_grad()
def fill(module: nn.Module, stored: dict[str, Tensor]) -> set[str]:
    """Fill a part, and return the names that it has no use for."""
    for path, owner in module.named_modules():
        for attribute, parameter in owner.named_parameters(recurse=False):
            value = stored[".".join(filter(None, (path, attribute)))]
            parameter.copy_(value.flatten(1).T if isinstance(owner, Linear) and attribute == "weight" else value)
    return stored.keys() - dict(module.named_parameters()).keys()


def test_a_clip_is_a_vision_transformer() -> None:
    """States after every block: LLaVA-NeXT and Phi-3-V read those before the last."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=CLIP.width,
            intermediate_size=CLIP.mlp,
            num_hidden_layers=CLIP.layers,
            num_attention_heads=CLIP.heads,
            image_size=4 * 14,
            patch_size=14,
            attn_implementation="sdpa",
        )
    ).eval()
    stored = weights(model, CLIP_RULES)
    image = replace(load_recipe("colpali").preparation.page_policy, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 56, 56), dtype=np.uint8)
    patches_RPC = pixels.reshape(2, 3, 4, 14, 4, 14).transpose(0, 2, 4, 1, 3, 5).reshape(2, 16, -1).copy()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (image.mean, image.std))

    def states(config: VisionTransformerConfig) -> list[Tensor]:
        tower = VisionTransformer(config, image)
        # Its class token alone is normalised after the last block, which no retriever reads.
        left = {"last_norm.weight", "last_norm.bias"} | {f"first_norm.{one}" for one in ("weight", "bias")}
        assert fill(tower, stored) == left - dict(tower.named_parameters()).keys()
        return list(tower.states(tower.embed(torch.from_numpy(patches_RPC))))

    with torch.inference_mode():
        wanted = model((torch.from_numpy(pixels) / 255 - mean) / std, output_hidden_states=True).hidden_states[1:]
        for found_RSE, right_RSE in zip(states(CLIP), wanted, strict=True):
            torch.testing.assert_close(found_RSE, right_RSE, rtol=0, atol=TOLERANCE)
        for wrong in (replace(CLIP, first_norm=False), replace(CLIP, activation="gelu"), replace(CLIP, heads=4)):
            assert (states(wrong)[-1] - wanted[-1]).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("qkv", ["fused", "separate"])
def test_an_xlm_roberta_with_rotations_is_an_encoder(qkv: Literal["fused", "separate"]) -> None:
    """Stored with one weight for queries, keys and values in jina-embeddings-v3, with three in transformers' layout."""
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

    model = JinaEmbeddingsV3Model(
        JinaEmbeddingsV3Config(
            hidden_size=JINA.width,
            num_hidden_layers=JINA.layers,
            num_attention_heads=JINA.heads,
            intermediate_size=JINA.mlp,
            vocab_size=JINA.vocabulary,
            attn_implementation="sdpa",
        ),
        add_pooling_layer=False,
    ).eval()
    stored = weights(model, JINA_RULES)
    for layer in range(JINA.layers):
        for kind in ("weight", "bias"):
            at = f"encoder.layers.{layer}.mixer."
            parts = {name: stored.pop(f"{at}{name[0]}_proj.{kind}") for name in ("query", "key", "value")}
            stored |= (
                {f"{at}Wqkv.{kind}": torch.cat(list(parts.values()))}
                if qkv == "fused"
                else {f"{at}{name}.{kind}": part for name, part in parts.items()}
            )
    ids_BT = torch.randint(2, JINA.vocabulary, (2, 23))
    mask_BT = torch.ones(2, 23, dtype=torch.int32)
    mask_BT[1, 9:] = 0

    def states(theta: float) -> Tensor:
        encoder = Encoder(replace(JINA, qkv=qkv), Rotation(JINA.width // JINA.heads, theta))
        assert fill(encoder, stored) == set()
        states_BTH: Tensor = encoder(ids_BT.int(), mask_BT)
        return states_BTH

    with torch.inference_mode():
        wanted_BTH = model(ids_BT, attention_mask=mask_BT).last_hidden_state
        torch.testing.assert_close(states(20000.0)[mask_BT > 0], wanted_BTH[mask_BT > 0], rtol=0, atol=TOLERANCE)
        assert (states(10000.0) - wanted_BTH)[mask_BT > 0].abs().max() > 100 * TOLERANCE
