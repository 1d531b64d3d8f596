"""The step "crop": torchvision's Resize and CenterCrop on PIL images, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from periscope_runtime.errors import PreparationError
from periscope_runtime.recipe import Crop, ImagePolicy, ResizeStep
from periscope_runtime.resize import resize
from periscope_testing.torchvision_operators import declare_torchvision_operators
from runtime.pictures import noise

declare_torchvision_operators()

POLICY = ImagePolicy(16, 1, 1, "bicubic", (0.0,) * 3, (1.0,) * 3, 200, (ResizeStep(crop=Crop()),), side=224)


def published(image: Image.Image) -> Any:
    from torchvision import transforms

    steps = [transforms.Resize(224, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
    return transforms.Compose(steps)(image)


def check(size: tuple[int, int]) -> None:
    image = noise(*size)
    np.testing.assert_array_equal(np.asarray(resize(image, POLICY)), np.asarray(published(image)))


@pytest.mark.parametrize(
    "size",
    [
        *[(1, 1), (1, 2), (3, 2), (13, 15), (1, 200), (200, 1)],  # enlarged, up to the limit of aspect ratios
        *[(224, 224), (224, 225), (225, 224), (224, 447), (223, 225)],  # hardly at all, and with odd margins
        *[(640, 480), (481, 641), (595, 842), (1654, 2339), (3000, 501)],
    ],
)
def test_pixels_are_the_published_ones(size: tuple[int, int]) -> None:
    check(size)


@given(st.tuples(st.integers(1, 500), st.integers(1, 500)).filter(lambda size: max(size) <= 20 * min(size)))
@settings(deadline=None, max_examples=60)
def test_pixels_of_any_size_are_the_published_ones(size: tuple[int, int]) -> None:
    check(size)


def test_an_extreme_aspect_ratio_is_refused() -> None:
    with pytest.raises(PreparationError, match="aspect ratio of 201"):
        resize(noise(201, 1), POLICY)
