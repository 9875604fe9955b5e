"""The examples in docstrings run, and show what they say."""

import doctest
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import fastnet

MODULES = [
    importlib.import_module(f"fastnet.{path.stem}")
    for path in sorted(Path(fastnet.__file__).parent.glob("*.py"))
    if not path.stem.startswith("__") and (path.stem != "sklearn" or importlib.util.find_spec("sklearn"))
]


@pytest.mark.compiled
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_docstring_examples_run(module: ModuleType) -> None:
    assert doctest.testmod(module, verbose=False).failed == 0


def test_docstring_examples_exist() -> None:
    finder = doctest.DocTestFinder()
    assert sum(bool(found.examples) for module in MODULES for found in finder.find(module)) >= 5
