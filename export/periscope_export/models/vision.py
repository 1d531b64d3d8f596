"""The transformer that vision towers are, batch first: SigLIP, CLIP and the towers of the Qwen-VLs are values of it.

R rows of images of all items, P patches of a row, C bytes a patch, E width, S states of a row (a class token, where
there is one, and the patches), F rotary frequencies (half a head).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.models.layers import (
    ACTIVATIONS,
    Activation,
    LayerNorm,
    Linear,
    RMSNorm,
    Rotation,
    merge_heads,
    rotate,
    split_heads,
)
from periscope_export.models.pixels import Pixels
from periscope_export.models.steps import Axis, Step, TensorSpec
from periscope_export.recipes.schema import Recipe
from periscope_runtime.recipe import ImagePolicy

NORMS: dict[str, Callable[[int, float], nn.Module]] = {"layer": LayerNorm, "rms": RMSNorm}


@dataclass(frozen=True)
class VisionTransformerConfig:
    """Sizes and kind of a vision transformer.

    `qkv`: whether queries, keys and values are one stored weight.
    `gated`: whether a second layer of the MLP is multiplied with the activated one.
    `patch_bias`: whether the embedding of patches has a bias.
    `class_token`: whether a state that is no patch stands before those of the patches.
    `table`: the number of learned positions, that of the class token first. None where there are none.
    `theta`: the base of rotated positions, rows and columns half each. None where nothing is rotated.
    `first_norm`, `last_norm`: whether states are normalised before the first block and after the last one.
    `window`: the number of patches that attend to each other, but in the blocks `full`. None where all do.
    """

    layers: int
    width: int
    heads: int
    mlp: int
    eps: float
    activation: Activation
    norm: Literal["layer", "rms"] = "layer"
    qkv: Literal["fused", "separate"] = "fused"
    gated: bool = False
    patch_bias: bool = True
    class_token: bool = False
    table: int | None = None
    theta: float | None = None
    first_norm: bool = False
    last_norm: bool = False
    window: int | None = None
    full: tuple[int, ...] = ()


class VisionBlock(nn.Module):
    """Pre-norm block: attention where the mask allows it, then an MLP."""

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        width, norm = config.width, NORMS[config.norm]
        self.heads, self.gated, self.activation = config.heads, config.gated, ACTIVATIONS[config.activation]
        self.norm1 = norm(width, config.eps)
        self.norm2 = norm(width, config.eps)
        self.stored = ("qkv",) if config.qkv == "fused" else ("q_proj", "k_proj", "v_proj")
        self.attn = nn.ModuleDict({name: Linear(width, 3 * width // len(self.stored)) for name in self.stored})
        self.attn["proj"] = Linear(width, width)
        names = ("gate_proj", "up_proj", "down_proj") if config.gated else ("fc1", "fc2")
        self.mlp = nn.ModuleDict({name: Linear(width, config.mlp) for name in names[:-1]})
        self.mlp[names[-1]] = Linear(config.mlp, width)

    def forward(self, x_RSE: Tensor, angles_RSF: Tensor | None, mask_R1SS: Tensor | None) -> Tensor:
        """Map [R, S, E] to [R, S, E]; queries and keys are rotated where there are angles."""
        normed = self.norm1(x_RSE)
        stored = [self.attn[name](normed) for name in self.stored]
        q, k, v = (split_heads(x, self.heads) for x in (stored if len(stored) > 1 else stored[0].chunk(3, dim=-1)))
        if angles_RSF is not None:
            q, k = rotate(q, angles_RSF), rotate(k, angles_RSF)
        attended = functional.scaled_dot_product_attention(q, k, v, mask_R1SS)
        x_RSE = x_RSE + self.attn["proj"](merge_heads(attended))
        normed = self.norm2(x_RSE)
        if self.gated:
            gated = self.activation(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed)
            return x_RSE + self.mlp["down_proj"](gated)
        return x_RSE + self.mlp["fc2"](self.activation(self.mlp["fc1"](normed)))


class VisionTransformer(nn.Module):
    """Bytes of patches to states. What a family makes of these states is its own: see its encoder."""

    def __init__(self, config: VisionTransformerConfig, image: ImagePolicy) -> None:
        super().__init__()
        width, norm = config.width, NORMS[config.norm]
        self.window, self.full = config.window, config.full
        self.pixels = Pixels(image)
        self.patch_embed = nn.ModuleDict({"proj": Linear(image.patch_dim, width, bias=config.patch_bias)})
        self.class_token = nn.Parameter(torch.empty(width)) if config.class_token else None
        self.positions = None if config.table is None else nn.Parameter(torch.empty(config.table, width))
        self.first_norm = norm(width, config.eps) if config.first_norm else None
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))
        self.last_norm = norm(width, config.eps) if config.last_norm else None
        self.rotation = None if config.theta is None else Rotation(width // config.heads // 2, config.theta)

    def embed(self, patches: Tensor) -> Tensor:
        """Map uint8 [..., P, C] to [..., S, E]: what the first block reads."""
        proj = self.patch_embed["proj"]
        assert isinstance(proj, Linear)
        x: Tensor = proj(self.pixels(patches).to(proj.weight.dtype))
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(*x.shape[:-2], 1, -1), x), dim=-2)
        if self.positions is not None:
            x = x + self.positions
        return x if self.first_norm is None else self.first_norm(x)

    def angles(self, patch_positions: Tensor) -> Tensor:
        """Map rows and columns int32 [R, P, 2] to float32 [R, P, F]: half of the pairs turn with each."""
        assert self.rotation is not None
        return self.rotation.angles(patch_positions).flatten(-2)

    def states(
        self, x_RSE: Tensor, angles_RSF: Tensor | None = None, segments_RS: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield [R, S, E] after each block, not normalised.

        States of different segments int [R, S] never see each other. Where there are windows, each is a part of one
        segment and of padding, which is a segment as well: padding sees padding, so that no row of a mask is empty.
        """
        whole = angles_RSF, None if segments_RS is None else same(segments_RS)
        windows: tuple[Tensor | None, Tensor | None] = whole
        if self.window is not None:
            assert angles_RSF is not None
            assert segments_RS is not None
            size = (-1, self.window)
            windows = angles_RSF.unflatten(1, size).flatten(0, 1), same(segments_RS.unflatten(1, size).flatten(0, 1))
        for index, block in enumerate(self.blocks):
            if self.window is None or index in self.full:
                x_RSE = block(x_RSE, *whole)
            else:
                # Windows are rows of their own: many small attentions, and no mask over a whole page.
                windowed_RSE = x_RSE.unflatten(1, (-1, self.window)).flatten(0, 1)
                x_RSE = block(windowed_RSE, *windows).unflatten(0, (x_RSE.shape[0], -1)).flatten(1, 2)
            yield x_RSE

    def last(self, x_RSE: Tensor, angles_RSF: Tensor | None = None, segments_RS: Tensor | None = None) -> Tensor:
        """Return [R, S, E] after the last block, normalised where there is a norm for it."""
        for state_RSE in self.states(x_RSE, angles_RSF, segments_RS):
            x_RSE = state_RSE
        return x_RSE if self.last_norm is None else self.last_norm(x_RSE)


def vision_step(
    build: Callable[[], nn.Module], patches: Axis, width: int, recipe: Recipe, grids: bool = False, unused: str = ""
) -> Step:
    """Describe the step of a vision encoder over any grid of patches, which gives visual tokens of a width.

    `patches` is the axis of patches of a row; `grids`: whether it reads the rows and columns of each patch's image.
    """
    return Step(
        name="vision_encoder",
        build=build,
        prefix="visual.",
        inputs=(
            TensorSpec("patches", "uint8", ("B", "G", patches, recipe.preparation.page_policy.patch_dim)),
            TensorSpec("patch_positions", "int32", ("B", "G", patches, 2)),
            *([TensorSpec("patch_grids", "int32", ("B", "G", patches, 2))] if grids else []),
            TensorSpec("patch_segments", "int32", ("B", "G", patches)),
            TensorSpec("visual_index", "int32", ("B", "V")),
        ),
        outputs=(TensorSpec("visual_tokens", "float", ("B", "V", width)),),
        paths=recipe.visual_paths,
        unused=unused,
    )


def same(segments_RS: Tensor) -> Tensor:
    """Return bool [R, 1, S, S]: whether two states of a row are of one segment."""
    return (segments_RS.unsqueeze(-1) == segments_RS.unsqueeze(-2)).unsqueeze(1)
