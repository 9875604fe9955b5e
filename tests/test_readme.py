"""README's Python examples run as they stand, in order, and its layout names the rooms that exist."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.compiled
def test_the_python_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert len(blocks) >= 3
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)
    assert "accuracy" in capsys.readouterr().out


def test_the_layout_names_every_room() -> None:
    layout = README[README.index("## Layout") : README.index("## Add a rung")]
    rooms = {path.name for folder in ("fastnet", "kernels") for path in (ROOT / folder).glob("*.py")}
    named = set(re.findall(r"\w+\.py", layout))
    assert named == rooms - {"__init__.py", "__main__.py"}


def test_quick_start_holds_two_commands() -> None:
    block = README[README.index("## Quick start") :].split("```")[1].removeprefix("bash\n")
    assert len([line for line in block.splitlines() if line and not line.startswith("#")]) == 2
