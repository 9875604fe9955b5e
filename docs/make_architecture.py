"""Draws docs/architecture.svg: who imports whom, read from the import statements of the code. Needs matplotlib.

    python docs/make_architecture.py

An arrow from A to B says that a module of A imports one of B; it is dashed if it does so inside functions only. An
arrow is left out if a longer path of solid arrows leads from A to B as well.
"""

import argparse
import ast
from pathlib import Path

import matplotlib
import matplotlib.patches
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent

PLACES = {
    "cli": (3.3, 8.4),
    "sklearn": (0.0, 8.2),
    "profiling": (5.8, 7.7),
    "fastnet": (1.1, 7.1),
    "io": (3.3, 6.8),
    "api": (2.6, 5.1),
    "verify": (5.2, 5.1),
    "engine": (0.1, 4.3),
    "registry": (3.8, 4.0),
    "reference": (0.7, 2.6),
    "cuda": (6.0, 3.3),
    "cpu": (3.1, 2.2),
    "limits": (6.9, 2.0),
    "llvm": (4.2, 1.1),
    "jit": (4.2, 0.1),
    "specs": (1.3, 0.1),
}
"""The center of each box."""

LABELS = {
    "fastnet": "network, trainer,\ndataset, optimizers, ...",
    "api": "api\npublic kernels",
    "engine": "engine\ntraining steps",
    "registry": "registry\noperation x variant",
    "cuda": "cuda\nGPU kernels",
    "cpu": "cpu\ngemm, vmath, threads",
    "reference": "reference\nequations in NumPy",
    "llvm": "llvm\nIR builders",
    "jit": "jit\nflags, cache",
    "specs": "specs\nnames, equations, bounds",
    "io": "io\nfiles, ONNX",
    "limits": "limits\npeak figures",
    "verify": "verify\nthe check",
}


def group(path: Path) -> str:
    """Return the box that a module belongs to: its sub-package, or its own name, or "fastnet"."""
    top, *inner = path.relative_to(ROOT).with_suffix("").parts
    if len(inner) > 1 or top == "kernels":
        return "api" if inner[0] == "__init__" else inner[0]
    return "sklearn" if inner[0] == "sklearn" else "cli" if inner[0] == "__main__" else "fastnet"


def imported(tree: ast.AST, path: Path) -> set[Path]:
    """Return the modules of this project that part of a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            if base.is_relative_to(ROOT / "fastnet" / "kernels"):  # where kernels/ is installed
                base = ROOT / base.relative_to(ROOT / "fastnet")
            for name in node.names:
                candidates = (base / f"{name.name}.py", base.with_suffix(".py"), base / "__init__.py")
                found |= {next((file for file in candidates if file.exists()), path)}
    return found


def arrows() -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return the pairs (importer, imported) of boxes: imports of modules, and imports inside functions only."""
    at_top, inside = set(), set()
    for folder in ("fastnet", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            for part in ast.parse(path.read_text()).body:
                pairs = {(group(path), group(other)) for other in imported(part, path)}
                (at_top if isinstance(part, (ast.ImportFrom, ast.If, ast.Try)) else inside).update(pairs)
    at_top, inside = ({(a, b) for a, b in pairs if a != b} for pairs in (at_top, inside))
    return at_top, inside - at_top


def shortened(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Leave out each pair that a longer path connects as well; pairs that point both ways count in no path."""
    one_way = {(a, b) for a, b in pairs if (b, a) not in pairs}

    def reaches(a: str, b: str, without: tuple[str, str]) -> bool:
        return any(c == b or reaches(c, b, without) for start, c in one_way if start == a and (start, c) != without)

    return {pair for pair in pairs if pair not in one_way or not reaches(*pair, without=pair)}


def draw() -> Figure:
    """Draw the boxes and arrows."""
    figure = Figure(figsize=(9, 8.2), layout="constrained")
    ax = figure.add_subplot()
    ax.set_axis_off()
    ax.set_xlim(-1.2, 7.6)
    ax.set_ylim(-0.5, 8.9)
    for y, height, name in ((6.45, 2.25, "fastnet"), (-0.4, 6.1, "fastnet.kernels")):
        ax.add_patch(matplotlib.patches.Rectangle((-1.1, y), 8.6, height, color="0.95", zorder=0))
        ax.text(7.4, y + height - 0.12, name, ha="right", va="top", fontsize=11, color="0.45")
    boxes = {
        name: ax.text(
            *PLACES[name],
            LABELS.get(name, name),
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "0.3"},
            zorder=3,
        )
        for name in PLACES
    }
    at_top, inside = arrows()
    for a, b in sorted(shortened(at_top) | inside):
        ax.annotate(
            "",
            xy=PLACES[b],
            xytext=PLACES[a],
            arrowprops={
                "arrowstyle": "-|>",
                "color": "#4477aa",
                "linestyle": "--" if (a, b) in inside else "-",
                "patchA": boxes[a].get_bbox_patch(),
                "patchB": boxes[b].get_bbox_patch(),
                "shrinkA": 1,
                "shrinkB": 2,
            },
            zorder=2,
        )
    return figure


def main() -> None:
    """Draw into a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "architecture.svg", metavar="FILE")
    options = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "fastnet"  # equal code gives an equal file
    metadata = {"Date": None} if options.out.suffix == ".svg" else None
    draw().savefig(options.out, metadata=metadata, dpi=110)


if __name__ == "__main__":
    main()
