"""What tests need that run other processes."""

import os
from pathlib import Path

import pytest

HELPERS = Path(__file__).parent
ROOT = HELPERS.parents[1]

outermost = pytest.mark.skipif("FASTNET_INNER_TEST" in os.environ, reason="runs once, in the outer process")


def python_path(*folders: Path) -> str:
    """Return a PYTHONPATH of these folders and that of the helpers."""
    return os.pathsep.join(map(str, (*folders, HELPERS)))
