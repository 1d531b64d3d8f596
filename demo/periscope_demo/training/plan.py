"""The plan of the training: what it makes, and the stages that lead there, from scraps with few words to whole pages."""

from __future__ import annotations

from periscope_demo.pages.generator import FORMATS, Look
from periscope_demo.training.batches import Stage

SEED = 20261123

VISION_LAYERS = 4
LANGUAGE_LAYERS = 2
MLP = 512
RANK = 8
MAX_PIXELS = 200704

_SCRAPS = ((140, 84), (112, 112))
_CLIPPINGS = ((168, 140), (196, 112))
_EASY = Look(sizes=(17, 18), families=("sans",), noise=0.0, columns=False, tab=14, shift=0)
_GRID = Look(columns=False, tab=14, shift=1)
_VARIED = Look(columns=False)

# The whole model learns in these.
BASE = (
    Stage(steps=500, pages=64, formats=_SCRAPS, look=_EASY, pool=200, contrast=False, queries_per_page=1),
    Stage(steps=800, pages=64, formats=_SCRAPS, look=_GRID, pool=120, queries_per_page=1),
    Stage(steps=1500, pages=64, formats=_SCRAPS, look=_VARIED, pool=120, queries_per_page=1),
    Stage(steps=1000, pages=32, formats=_CLIPPINGS, look=_VARIED, pool=100),
    Stage(steps=1400, pages=16, formats=FORMATS, look=Look(), pool=90),
)

# Only the adapter learns in this one.
ADAPTER = (Stage(steps=200, pages=16, formats=FORMATS, look=Look(), pool=90),)

PEAK_RATE, ADAPTER_RATE = 1.2e-3, 1e-3
WARMUP = 200
