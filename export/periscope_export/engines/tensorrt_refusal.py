"""The reason of a builder that refuses a network, with the places in our code that its layers come from.

What builders say of attention names no layer: "was not supported by a dedicated kernel". So each place that makes
attention layers is tried alone, with the others allowed to fall apart into plain operators.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from periscope_export.graphs.graph import places

_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def refusal(api: Any, builder: Any, network: Any, config: Any, graph: Path, said: str) -> str:
    """Return what a builder said, with the place in this package of every layer that it names or refuses."""
    known = places(graph)
    named = {node: place for node, place in known.items() if "/" in node and node in said}
    if not named:
        named = {node: known.get(node, "") for node in _refused_attention(api, builder, network, config, known)}
    if not named:
        return said + "."
    listed = ", ".join(f"{node} ({place})" if place else node for node, place in sorted(named.items()))
    return f"{said.rstrip('.')}. Refused: {listed}. Change what these lines compute, or the precision."


def attention_layers(api: Any, network: Any) -> dict[str, Any]:
    """Return the attention layers of a network by the node that they come from."""
    found = {}
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type == api.LayerType.ATTENTION_OUTPUT:
            # The binding hands out the base class, and the attention hangs on the derived one.
            layer.__class__ = api.IAttentionOutputLayer
            node = _LAYER.search(layer.metadata)
            found[node[1] if node else layer.name] = layer.attention
    return found


def _refused_attention(api: Any, builder: Any, network: Any, config: Any, known: dict[str, str]) -> list[str]:
    """Return the attention layers without a fused kernel: all that one line makes, if the first of them is refused."""
    layers = attention_layers(api, network)
    by_place = defaultdict(list)
    for node in layers:
        by_place[known.get(node, node)].append(node)

    def builds(whole: str | None) -> bool:
        for node, attention in layers.items():
            attention.decomposable = node != whole
        return builder.build_serialized_network(network, config) is not None

    if not layers or not builds(whole=None):
        return []  # something else is refused
    return [node for nodes in by_place.values() if not builds(whole=nodes[0]) for node in nodes]
