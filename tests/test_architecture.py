"""The rules of the house: who may import whom, where Numba's flags live, what the public names are."""

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest

import fastnet
import fastnet.data
from fastnet.kernels.jit import decorator as _jit

FASTNET = Path(fastnet.__file__).parent
KERNELS = Path(_jit.__file__).parent
ROOMS = sorted([*FASTNET.glob("*.py"), *KERNELS.glob("*.py")])


def imported(path: Path) -> set[str]:
    """Modules imported by a file, relative ones as fastnet.x or fastnet.kernels.x."""
    package = "fastnet.kernels" if path.parent == KERNELS else "fastnet"
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"{path.name} reaches out of its package"
            base = f"{package}.{node.module}" if node.module else package
            # "from . import a" imports modules, "from .a import b" imports a
            found |= {base} if node.module else {f"{base}.{alias.name}" for alias in node.names}
            if node.module == "kernels":
                found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def graph() -> dict[str, set[str]]:
    names = {path: f"fastnet.{'kernels.' if path.parent == KERNELS else ''}{path.stem}" for path in ROOMS}
    known = set(names.values())
    return {name: imported(path) & known for path, name in names.items()}


def test_arrows_point_one_way() -> None:
    for path in ROOMS:
        if path.parent == KERNELS:
            upward = {name for name in imported(path) if name.startswith("fastnet") and "kernels" not in name}
            assert not upward, f"kernels/{path.name} imports {upward}"
        assert not {name for name in imported(path) if name.split(".")[0] in ("tests", "bench", "kernels")}


def test_scikit_learn_is_imported_in_one_file() -> None:
    for path in ROOMS:
        if path.name != "sklearn.py":
            assert not {name for name in imported(path) if name.split(".")[0] in ("sklearn", "scipy")}, path.name


def test_numba_cuda_is_imported_where_a_card_was_asked_for() -> None:
    """One room imports it at its top, `cuda_tile` and `cuda_offline` what lies below it; nobody imports them early."""
    for path in ROOMS:
        from_cuda = {name for name in imported(path) if name.startswith("numba.cuda") or name == "cuda.core"}
        assert not from_cuda or path.name.startswith("cuda_"), path.name
        takes_it = re.search(r"from numba import .*\bcuda\b|import numba\.cuda", path.read_text())
        assert (takes_it is not None) == (path.name == "cuda.py"), path.name
        if not path.name.startswith("cuda"):
            early = re.findall(r"^(?:from|import) .*\bcuda", path.read_text(), re.MULTILINE)
            assert not early, f"{path.name}: {early}"


def test_no_circles() -> None:
    arrows, done = graph(), set()

    def visit(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, " -> ".join((*path, room))
        if room not in done:
            for other in arrows[room]:
                visit(other, (*path, room))
            done.add(room)

    assert len(arrows) > 10
    assert arrows["fastnet.kernels.loops"] == {"fastnet.kernels._jit", "fastnet.kernels.elementwise"}
    for room in arrows:
        visit(room, ())


def test_numba_flags_live_in_one_file() -> None:
    flags = re.compile(r"\b(njit|fastmath|error_model|nogil|cache=True)\b")
    for path in ROOMS:
        if path.name != "_jit.py":
            assert not flags.search(path.read_text()), f"{path.name} has flags of its own"
    assert not re.search(r"\"(nnan|ninf|fast|reassoc)\"", (KERNELS / "_jit.py").read_text())


def test_every_room_says_what_it_imports() -> None:
    for path in ROOMS:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert text, f"{path.name} has no docstring"
        if path.name not in ("__init__.py", "__main__.py"):
            assert "mports" in text, f"{path.name} does not say what it imports"


def test_public_names() -> None:
    assert set(fastnet.__all__) == {
        "SGD",
        "Adam",
        "AdamW",
        "CosineDecay",
        "History",
        "Network",
        "StepDecay",
        "Trainer",
        "WarmUp",
        "load",
    }
    assert all(hasattr(fastnet, name) for name in fastnet.__all__)
    assert all(hasattr(fastnet.kernels, name) for name in fastnet.kernels.__all__)
    assert callable(fastnet.kernels.variants)


def test_the_version_is_the_distributions() -> None:
    assert metadata.version("fastnet-jit") == fastnet.__version__


@pytest.mark.parametrize("module", [fastnet, fastnet.kernels, fastnet.data], ids=lambda m: m.__name__)
def test_public_functions_are_documented(module: object) -> None:
    for name in getattr(module, "__all__", ["digits", "split"]):
        assert (getattr(module, name).__doc__ or "").strip(), name
