"""jina-clip: JinaBERT and EVA02."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from periscope_testing.jina_clip.checkpoint import JinaClipSizes, make_jina_clip
from periscope_testing.jina_clip.reference import JinaClipReference
from periscope_testing.system import Shape, System


def _shaped(folder: Path, shape: Shape) -> Path:
    sizes = JinaClipSizes(vision_layers=shape.depth, layers=shape.depth, deviation=shape.deviation)
    return make_jina_clip(folder, sizes, seed=shape.seed)


SYSTEMS = (
    System(
        "jina_clip_v1",
        "jina_clip_v1",
        "jina_clip",
        make_jina_clip,
        JinaClipReference,
        shaped=_shaped,
        shallow=partial(make_jina_clip, sizes=JinaClipSizes(vision_layers=1, layers=1)),
        attention={"vision_encoder": 1, "text_encoder": 1},
        excluded=dict.fromkeys(
            ("test_transparent_pages", "test_transparent_grey_pages"),
            "the published code drops transparency; here it is laid over white",
        ),
    ),
)
