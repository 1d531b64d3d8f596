"""Messages where the embedded Triton cannot run."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from periscope_serve import environment
from periscope_serve.errors import UnfitEnvironmentError


def test_finds_every_part() -> None:
    found = environment.find()
    assert os.access(found.server, os.X_OK)
    assert os.access(found.stub, os.X_OK)
    assert (found.backend / "libtriton_python.so").is_file()
    assert (found.caches / "local" / "libtritoncache_local.so").is_file()
    assert all(folder.is_dir() for folder in found.libraries)


def test_variables_come_before_the_inherited_ones() -> None:
    found = environment.find()
    variables = found.variables({"PATH": "/bin", "LD_LIBRARY_PATH": "/lib", "HOME": "/"})
    assert variables["PATH"].split(":") == [str(Path(sys.executable).parent), "/bin"]
    assert variables["LD_LIBRARY_PATH"].split(":") == [*map(str, found.libraries), "/lib"]
    assert variables["HOME"] == "/"
    assert not variables["LD_LIBRARY_PATH"].endswith(":"), "an empty entry means the current directory"
    assert not found.variables({})["PATH"].endswith(":")


def test_numpy_2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.0")
    with pytest.raises(UnfitEnvironmentError, match=r"numpy 2\.1\.0 is installed .* pip install 'numpy<2'"):
        environment.find()


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "WHEEL", "nvidia-absent")
    with pytest.raises(UnfitEnvironmentError, match=r"nvidia-absent.* pip install '\.\[serve\]' in a checkout"):
        environment.find()


def test_a_wheel_without_its_binary_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "_wheel", lambda: (tmp_path, tmp_path))
    with pytest.raises(UnfitEnvironmentError, match=r"lacks bin/tritonserver.*--force-reinstall"):
        environment.find()


def test_another_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(UnfitEnvironmentError, match=r"runs under Python 3\.10, 3\.11, 3\.12, this is 3\.13"):
        environment.find()


def test_a_missing_libpython_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(UnfitEnvironmentError, match=r"libpython3\.\d+\.so\.1\.0 was not found.*apt-get install"):
        environment.find()


def test_a_libpython_of_the_system_needs_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: None)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.1.0")
    assert len(environment.find().libraries) == 1


def test_a_missing_bash_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnfitEnvironmentError, match="Install bash"):
        environment.find()
