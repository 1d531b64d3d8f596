"""Recipes of the user's own: files that extend packaged ones or each other, and what is said of wrong ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from periscope_client.console import main
from periscope_export import exporter
from periscope_export.commands.recipes import as_yaml
from periscope_export.errors import ExportError
from periscope_export.exporter import Request
from periscope_export.recipes.loading import load_recipe, recipe_names
from periscope_export.recipes.overrides import parse_settings, resolve


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_says_what_differs(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.yaml", "extends: colqwen2\nname: mine\nbatch: {page: 2}\n")
    mine, theirs = load_recipe(file), load_recipe("colqwen2")
    assert (mine.name, mine.batch.page) == ("mine", 2)
    assert mine.served() == {**theirs.served(), "name": "mine", "batch": {**theirs.served()["batch"], "page": 2}}


def test_a_file_extends_a_file_beside_it_wherever_it_is_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "mine" / "under.yml", "extends: colqwen2\nbatch: {page: 2, text: 3}\n")
    written(tmp_path / "mine" / "over.yaml", "extends: under.yml\nbatch: {page: 1}\n")
    for folder, recipe in (
        (tmp_path, "mine/over.yaml"),
        (tmp_path / "mine", "over.yaml"),
        (tmp_path / "mine", "./over.yaml"),
    ):
        monkeypatch.chdir(folder)
        assert (load_recipe(recipe).batch.page, load_recipe(recipe).batch.text) == (1, 3)


def test_of_several_that_are_extended_the_last_wins(tmp_path: Path) -> None:
    written(tmp_path / "one.yaml", "batch: {page: 2, text: 3}\n")
    written(tmp_path / "two.yaml", "batch: {page: 1}\n")
    file = written(tmp_path / "mine.yaml", "extends: [colqwen2, one.yaml, two.yaml]\n")
    assert (load_recipe(file).batch.page, load_recipe(file).batch.text) == (1, 3)


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_printed_is_a_file_of_the_same_recipe(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", name, "--set", "batch.text=3"]) == 0
    printed = capsys.readouterr().out
    file = written(tmp_path / "printed.yaml", printed)
    recipe = load_recipe(name)
    assert load_recipe(file) == recipe.model_copy(update={"batch": recipe.batch.model_copy(update={"text": 3})})
    assert main(["recipes", file]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(("taken_away", "limit"), [("", 602112), ("preparation.image.max_pixels: null", 401408)])
def test_a_file_says_where_the_checkpoint_does_not_win(taken_away: str, limit: int, tmp_path: Path) -> None:
    """The example of docs/recipes.md, with its last line and without, on a checkpoint with the published limit."""
    text = "extends: colqwen2\nname: my_pages\npreparation:\n  image: {max_pixels: 401408}\ncheckpoint_values:"
    file = written(tmp_path / "mine.yaml", f"{text} {{{taken_away}}}\n")
    stored = {"preprocessor_config.json": {"max_pixels": 602112}}
    recipe, changes = resolve(load_recipe(file), stored.get)
    assert recipe.preparation.image is not None
    assert recipe.preparation.image.max_pixels == limit
    assert len(changes) == (not taken_away)


@pytest.mark.parametrize("setting", ["preparation.image.max_pixels=401408", "preparation.image={max_pixels: 401408}"])
def test_a_file_of_what_is_set_exports_as_setting_it(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "colqwen2", "--set", setting]) == 0
    stored = {"preprocessor_config.json": {"max_pixels": 602112, "min_pixels": 6272}}.get
    printed, _ = resolve(load_recipe(written(tmp_path / "printed.yaml", capsys.readouterr().out)), stored)
    given, _ = resolve(load_recipe("colqwen2"), stored, parse_settings([setting]))
    assert printed.preparation == given.preparation
    assert given.preparation.image is not None
    assert (given.preparation.image.min_pixels, given.preparation.image.max_pixels) == (6272, 401408)
    # So does the recipe.json of such an export.
    again, _ = resolve(load_recipe(written(tmp_path / "recipe.json", given.model_dump_json(by_alias=True))), stored)
    assert again == given


def test_a_recipe_of_a_repository_is_a_file_too(tmp_path: Path) -> None:
    """`recipe.json` holds what was exported."""
    recipe = load_recipe("qwen3_vl_reranker")
    assert load_recipe(written(tmp_path / "recipe.json", recipe.model_dump_json(by_alias=True))) == recipe


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no fields. docs/recipes.md lists those of a recipe"),
        ("- colqwen2\n", "holds no fields"),
        ("1: 2\n", "holds no fields"),
        ("batch: {text: 1\n", "is no YAML of a recipe: line 2: expected ',' or '}'"),
        ("extends: colqwen2\nbatch: {text: 1}\nname: mine\nbatch: {page: 1}\n", "line 4: 'batch' is there twice"),
        ("extends: colqwen2\npreparation:\n  image: {side: 1, side: 2}\n", "line 3: 'side' is there twice"),
        ("extends: 7\n", "extends is 7. Name a recipe there, or a list of them"),
        ("extends: [[colqwen2]]\n", "Name a recipe there, or a list of them"),
        ("extends: colqwen\n", "there is no recipe 'colqwen' (extended by '{file}'). Did you mean 'colqwen2'?"),
        ("extends: other.yaml\n", "other.yaml (extended by '{file}') cannot be read: No such file"),
        ("extends: mine.yaml\n", "{file} extends {file}. Let one of them stand alone"),
        ("extends: colqwen2\nbatch: {pages: 2}\n", "there is no field 'batch.pages', the nearest is 'batch.page'"),
        ("extends: colqwen2\nimage_pixels: 5\n", "the nearest is 'preparation.limits.image_pixels'"),
        ("extends: colqwen2\nbatch: {page: many}\nname: 3\n", "{file}: name: Input should be a valid string; batch.p"),
        ("name: mine\n", "{file}: description: Field required; checkpoints: Field required; backbone: Field required"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong(text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "mine.yaml", text)
    assert main(["export", "nobody/nothing", "--recipe", file, "--output", str(tmp_path / "models")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("periscope export: recipe")
    assert reason.replace("{file}", file) in line
    assert file in line


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        assert main(["recipes", str(file)]) == 1
        assert f"periscope recipes: recipe: {file} cannot be read: {reason}" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ExportError, match="is no text in UTF-8"):
        load_recipe(str(tmp_path / "mine.yaml"))


def test_circles_of_files_are_named(tmp_path: Path) -> None:
    one = written(tmp_path / "one.yaml", "extends: two.yaml\n")
    two = written(tmp_path / "two.yaml", "extends: ./sub/../one.yaml\n")
    with pytest.raises(ExportError, match=re.escape(f"{one} extends {two} extends {one}. Let one")):
        load_recipe(one)


def test_an_export_of_a_file_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, seen = written(tmp_path / "mine.yaml", "extends: colqwen2\nname: my_pages\n"), list[str]()
    monkeypatch.setattr(exporter, "check_request", lambda request, name: seen.append(name))
    with pytest.raises(ExportError, match="nothing"):
        exporter.export(Request(str(tmp_path / "nothing"), file, tmp_path / "out"), say=seen.append)
    assert seen == ["my_pages"]


def test_settings_without_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--set", "batch.text=3"]) == 1
    assert "--set is of one recipe. Name it" in capsys.readouterr().err
    assert main(["recipes", "colqwen2", "--set", "batch.texts=3"]) == 1
    assert "no field 'batch.texts', the nearest is 'batch.text'" in capsys.readouterr().err


def test_line_breaks_of_prompts_are_seen() -> None:
    assert 'text: "<bos>Question: {text}{augmentation}\\n"' in as_yaml(load_recipe("colpali"))
