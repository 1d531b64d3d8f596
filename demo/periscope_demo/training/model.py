"""The retriever in training: the towers and the late head that are exported, and helpers that are thrown away.

B rows, P patches, V visual tokens, T tokens, H hidden, E vision width, K late dimensions, Z letters, Y classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_demo.training.batches import Batch
from periscope_demo.training.targets import LETTERS, NO_TERM
from periscope_export.families.qwen2_vl import VisionEncoder, read
from periscope_export.models.decoder import Decoder
from periscope_export.models.heads import DenseHead, LateHead
from periscope_export.models.layers import LayerNorm, Linear, RMSNorm
from periscope_runtime.recipe import ImagePolicy

LATE_DIMENSION = 128


class Vectors(NamedTuple):
    """The vectors of an item: late [B, T, K] (length 1, padding zero) and dense [B, H] (length 1)."""

    late_BTK: Tensor
    dense_BH: Tensor


class Pages(NamedTuple):
    """Pages in training.

    vectors: of the pages.
    letters_BPZ, terms_BVY: logits of the helpers, of patches and of visual tokens.
    """

    vectors: Vectors
    letters_BPZ: Tensor
    terms_BVY: Tensor


class TrainedRetriever(nn.Module):
    """Vision encoder, language model, late and dense head; and the training's helpers under `helpers`."""

    def __init__(self, config: Mapping[str, Any], image: ImagePolicy) -> None:
        super().__init__()
        vision, language = read(config)
        width = language.decoder.width
        self.visual = VisionEncoder(vision, image)
        self.language_model = Decoder(language.decoder, language.rotation())
        self.late_head = LateHead(width, LATE_DIMENSION)
        self.dense_head = DenseHead()
        classes = NO_TERM + 1
        self.helpers = nn.ModuleDict(
            {
                "letters": nn.Linear(vision.trunk.width, len(LETTERS)),
                "visual_terms": nn.Linear(width, classes),
                "late_terms": nn.Linear(LATE_DIMENSION, classes, bias=False),
                "dense_terms": nn.Linear(width, classes - 1),
            }
        )
        self.log_scales = nn.ParameterDict(
            {
                "maxsim": nn.Parameter(torch.tensor(math.log(3.0))),
                "dense": nn.Parameter(torch.tensor(math.log(20.0))),
            }
        )
        self._initialise()

    def pages(self, batch: Batch) -> Pages:
        """Embed pages of one format, none padded."""
        states_BPE, letters_BPE = self._patch_states(batch["patches_BPC"], batch["patch_positions_BP2"])
        tokens_BVH = self.visual.merge(states_BPE)
        ids_BT = batch["page_ids_BT"]
        vectors = self._vectors(ids_BT, batch["page_positions_B3T"], torch.ones_like(ids_BT), tokens_BVH)
        return Pages(vectors, self.helpers["letters"](letters_BPE), self.helpers["visual_terms"](tokens_BVH))

    def queries(self, batch: Batch) -> Vectors:
        """Embed queries, padded on the right."""
        ids_QT = batch["query_ids_QT"]
        nothing = torch.zeros(len(ids_QT), 0, self.language_model.embed_tokens.embedding_dim)
        return self._vectors(ids_QT, batch["query_positions_Q3T"], batch["query_mask_QT"], nothing)

    def terms(self, late_BTK: Tensor) -> Tensor:
        """Logits [B, T, Y] of the classes of tokens, by the angle between a late vector and a class's prototype."""
        weight_YK = self.helpers["late_terms"].weight
        assert isinstance(weight_YK, Tensor)
        prototypes_YK = functional.normalize(weight_YK, dim=-1)
        return 20 * late_BTK @ prototypes_YK.T

    def _vectors(self, ids_BT: Tensor, positions_B3T: Tensor, mask_BT: Tensor, tokens_BVH: Tensor) -> Vectors:
        states_BTH = self.language_model(ids_BT, positions_B3T, tokens_BVH)
        return Vectors(self.late_head(states_BTH, mask_BT), self.dense_head(states_BTH, mask_BT))

    def _patch_states(self, patches_BPC: Tensor, positions_BP2: Tensor) -> tuple[Tensor, Tensor]:
        """Run the vision blocks without a mask, as no page is padded: the last states, and those half way."""
        visual = self.visual
        x_BPE = visual.embed(patches_BPC)
        states = [x_BPE, *visual.states(x_BPE, visual.angles(positions_BP2[:1]))]
        return states[-1], states[len(visual.blocks) // 2]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, RMSNorm | LayerNorm):
                nn.init.ones_(module.weight)
            if isinstance(module, Linear):
                nn.init.normal_(module.weight, std=module.weight.shape[0] ** -0.5 * 0.7)
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5)
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                nn.init.zeros_(bias)
        # Residual branches start small.
        for name, parameter in self.named_parameters():
            if name.endswith(("attn.proj.weight", "mlp.fc2.weight", "o_proj.weight", "down_proj.weight")):
                parameter.data.mul_(0.3)
