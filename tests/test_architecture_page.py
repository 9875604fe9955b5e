"""docs/architecture.md tells the truth about the path from `Trainer.fit` to the micro-kernel."""

import ast
import re
from itertools import pairwise
from pathlib import Path

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
ROW = re.compile(r"^\| \d+ \| `(?:\w+\.)?(\w+)` \| (\S+\.py) \|", re.M)


def functions(path: Path) -> dict[str, str]:
    """Sources of a module's functions and methods by name."""
    text = path.read_text()
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))
    return {node.name: ast.get_source_segment(text, node) or "" for node in nodes}


def test_each_function_on_the_path_names_the_next() -> None:
    path = ROW.findall((ROOT / "docs" / "architecture.md").read_text())
    assert len(path) <= 12
    assert len({file for _, file in path}) <= 6
    assert [path[0][0], path[-1][0]] == ["fit", "microkernel"]
    for (name, file), (following, _) in pairwise(path):
        source = functions(ROOT / file)[name]
        assert re.search(rf"\b{following}\b", source), f"{file}: {name} does not name {following}"
