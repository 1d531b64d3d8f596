"""Requirements of the embedded Triton on this Python environment: the wheel's files, numpy 1, a libpython."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from periscope_serve.errors import UnfitEnvironmentError

WHEEL = "nvidia-pytriton"
INSTALL = "pip install '.[serve]' in a checkout of Periscope"
VERSIONS = ((3, 10), (3, 11), (3, 12))
"""The Pythons that have both a stub in the wheel and a numpy the stub can read."""


@dataclass(frozen=True)
class Environment:
    """The places of the embedded Triton's parts."""

    server: Path
    backend: Path
    stub: Path
    caches: Path
    libraries: tuple[Path, ...]
    python: Path

    def variables(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment variables to start Triton with.

        The stub ignores PYTHONPATH and PYTHONHOME: it finds its packages through the first python3 on PATH.
        """
        libraries = [*map(str, self.libraries), *filter(None, [inherited.get("LD_LIBRARY_PATH")])]
        path = [str(self.python), *filter(None, [inherited.get("PATH")])]
        return {**inherited, "LD_LIBRARY_PATH": os.pathsep.join(libraries), "PATH": os.pathsep.join(path)}


def find() -> Environment:
    """Find every part, or say which is missing and how to get it."""
    version = sys.version_info[:2]
    if version not in VERSIONS:
        raise UnfitEnvironmentError(
            f"the embedded Triton runs under Python {', '.join(f'{a}.{b}' for a, b in VERSIONS)}, this is "
            f"{version[0]}.{version[1]}. Make an environment with one of those and install into it: {INSTALL}"
        )
    check_numpy()
    root, libraries = _wheel()
    stub = root / "python_backend_stubs" / f"{version[0]}.{version[1]}" / "triton_python_backend_stub"
    for part in (root / "bin" / "tritonserver", stub):
        if not part.is_file():
            raise UnfitEnvironmentError(
                f"the installed {WHEEL} lacks {part.relative_to(root)}. Install it again: "
                f"pip install --force-reinstall --no-deps {WHEEL}"
            )
    # Triton starts each stub through bash.
    if shutil.which("bash") is None:
        raise UnfitEnvironmentError(
            "Triton starts its Python processes through bash, which is not on PATH. Install bash"
        )
    return Environment(
        server=root / "bin" / "tritonserver",
        backend=root / "backends" / "python",
        stub=stub,
        caches=root / "caches",
        libraries=(libraries, *_libpython(version)),
        python=Path(sys.executable).parent,
    )


def check_numpy() -> None:
    """Refuse numpy 2: the stub was built against numpy 1, and with numpy 2 every tensor leaves it empty, silently."""
    try:
        numpy = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        raise UnfitEnvironmentError(f"numpy is not installed. Install the serve extra: {INSTALL}") from None
    if int(numpy.split(".")[0]) >= 2:
        raise UnfitEnvironmentError(
            f"numpy {numpy} is installed and the embedded Triton needs numpy below 2 (with 2 every tensor would leave "
            f"the server empty). Run: pip install 'numpy<2', or install the serve extra into its own environment: "
            f"{INSTALL}"
        )


def _wheel() -> tuple[Path, Path]:
    try:
        wheel = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        raise UnfitEnvironmentError(
            f"the package {WHEEL}, which carries the tritonserver binary, is not installed. Install the serve extra: "
            f"{INSTALL}"
        ) from None
    root = Path(str(wheel.locate_file("pytriton/tritonserver")))
    return root, Path(str(wheel.locate_file(f"{WHEEL.replace('-', '_')}.libs")))


def _libpython(version: tuple[int, int]) -> list[Path]:
    """The folder of the shared libpython, or nothing where the loader finds one by itself."""
    name = f"python{version[0]}.{version[1]}"
    library = f"lib{name}.so.1.0"
    for folder in (sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib"):
        if folder and Path(folder, library).exists():
            return [Path(folder)]
    if ctypes.util.find_library(name) == library:
        return []
    raise UnfitEnvironmentError(
        f"{library} was not found, and Triton's Python processes load it. Install it (Debian, Ubuntu: apt-get install "
        f"lib{name}) or use a Python that was built with --enable-shared"
    )
