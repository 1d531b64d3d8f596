"""Fixtures that the tests of the preparation share: the recipe, a tokenizer, and the published implementation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import Tokenizer

from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.schema import Recipe
from periscope_runtime.prepare import Preparer
from periscope_runtime.prompt import PromptEncoder
from periscope_runtime.recipe import ImagePolicy, Limits, Preparation
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.colqwen2.reference import ColQwen2Reference
from runtime.pictures import noise


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return load_recipe("colqwen2")


@pytest.fixture(scope="session")
def preparation(recipe: Recipe) -> Preparation:
    return recipe.preparation


@pytest.fixture(scope="session")
def policy(preparation: Preparation) -> ImagePolicy:
    return preparation.page_policy


@pytest.fixture(scope="session")
def limits(preparation: Preparation) -> Limits:
    return preparation.limits


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colqwen2(tmp_path_factory.mktemp("published") / "checkpoint", adapter=None)


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> ColQwen2Reference:
    return ColQwen2Reference(checkpoint)


@pytest.fixture(scope="session")
def folder(checkpoint: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that an export writes for the preparation."""
    written = tmp_path_factory.mktemp("preparation")
    shutil.copyfile(checkpoint / "tokenizer.json", written / "tokenizer.json")
    (written / "recipe.json").write_text(json.dumps(recipe.served()), encoding="utf-8")
    return written


@pytest.fixture(scope="session")
def preparer(folder: Path) -> Preparer:
    return Preparer(folder)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """Noise, so that a swapped axis, a dropped row or a neighbour's pixel cannot go unseen."""
    return noise(45, 31)


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def prompts(preparation: Preparation, folder: Path) -> PromptEncoder:
    return PromptEncoder(preparation, folder / "tokenizer.json")
