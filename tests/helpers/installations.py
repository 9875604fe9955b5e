"""Copies of the package, and fresh interpreters that run it with a compile cache of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fastnet
from fastnet.kernels.jit import decorator

PACKAGE = Path(fastnet.__file__).parent
KERNELS = Path(decorator.__file__).parents[1]

# relu and its caller dense_forward are defined in different files.
RELU_OF_MINUS_ONE = """
import sys, numpy as np
from fastnet.kernels import dense_forward, relu
A, Z = dense_forward(-np.ones((1, 1)), np.ones((1, 1)), np.zeros(1), relu, variant="loops")
print(A[0, 0])
"""


def install(site: Path) -> Path:
    """Copy the package, as a wheel would be unpacked."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, site / "fastnet", ignore=skip, dirs_exist_ok=True)
    shutil.copytree(KERNELS, site / "fastnet" / "kernels", ignore=skip, dirs_exist_ok=True)
    return site


def environment(site: Path, cache: Path | str) -> dict[str, str]:
    """Return the environment of a process that imports the copy at ``site``, without this one's settings for Numba."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTHON", "XDG_"))}
    return {**kept, "PYTHONPATH": str(site), "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}


def run(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run in a fresh interpreter, which must succeed."""
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd="/", timeout=300)
    assert result.returncode == 0, result.stderr
    return result


def compiled_files(cache: Path) -> set[Path]:
    """Return the files of a cache that hold machine code."""
    return set(cache.rglob("*.nbc"))
