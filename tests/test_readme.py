"""The examples of README and of docs/ run as they are printed, in Python and on the command line."""

import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import ROOT

from fastnet.cli import main as cli

README = (ROOT / "README.md").read_text()
SOURCES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts]
PAGES = {
    path.relative_to(ROOT).as_posix().removeprefix("docs/"): path.read_text() for path in [ROOT / "README.md", *SOURCES]
}
BLOCKS = [
    pytest.param(name, block, id=f"{name}-{i}")
    for name, page in PAGES.items()
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S))
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tables that the examples read."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = [f"{a:.1f},{r},{3000 * a + 15000 * r + 0.5:.2f}" for a in random.uniform(40, 250, 60) for r in range(3)]
    (tmp_path / "houses.csv").write_text("\n".join(["area,rooms,price", *rows]))
    (tmp_path / "new.csv").write_text("rooms,area\n2,100\n")
    return tmp_path


@pytest.mark.compiled
@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_python_examples_run(name: str, block: str, folder: Path) -> None:
    for package in ("keras", "onnx", "pandas", "torch"):
        if f"{package} import" in block or f"import {package}" in block:
            warnings.simplefilter("ignore")  # theirs are not ours to mend; pytest puts the filters back
            pytest.importorskip(package)
    if "sklearn" in block:
        pytest.importorskip("sklearn")
        warnings.simplefilter("ignore")  # that it has not converged
    if "table_model" in block:
        assert cli.main(["train", "houses.csv", "--target", "price", "--epochs", "2", "--out", "houses.skops"]) == 0
    if ".plot(" in block:
        pytest.importorskip("matplotlib.pyplot").switch_backend("agg")
    names: dict[str, Any] = {}
    if "read_csv" in block:  # what the first block of the page has written
        exec(re.findall(r"^```python\n(.*?)^```", PAGES[name], re.M | re.S)[0], {})
    exec(block, names)
    if "model" in names and "net" in names:  # another framework's, whose weights the network has now
        X = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
        theirs = names["model"].predict(X) if "keras" in block else torch_outputs(names["model"], X)
        np.testing.assert_allclose(names["net"].predict(X), theirs, rtol=1e-5, atol=1e-6)
    if ".plot(" in block:
        pytest.importorskip("matplotlib.pyplot").close("all")


def torch_outputs(model: Any, X: Any) -> Any:
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(torch.tensor(X)).numpy()


def test_python_examples_exist() -> None:
    assert len(BLOCKS) >= 10
    assert sum("evaluate" in str(block.values[1]) for block in BLOCKS) >= 2


@pytest.mark.compiled
def test_commands_on_files_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    page = PAGES["how-to.md"]
    section = page[page.index("## Your own data") :].split("```")[1]
    commands = [shlex.split(line) for line in section.strip().splitlines()]
    assert [command[:2] for command in commands] == [["fastnet", "train"], ["fastnet", "predict"]]
    for command in commands:
        assert cli.main(command[1:]) == 0, capsys.readouterr().err
    assert "diagnosis " in capsys.readouterr().out
    assert {"houses.skops", "curve.png", "predictions.csv"} <= {path.name for path in folder.iterdir()}
    price, value = (folder / "predictions.csv").read_text().split()
    assert price == "price"
    assert 2e5 < float(value) < 5e5


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve(name: str) -> None:
    folder = ROOT if name == "README.md" else (ROOT / "docs" / name).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", PAGES[name], flags=re.M | re.S)):
        if not link.startswith("http"):
            file, _, heading = link.partition("#")
            assert not file or (folder / file).exists(), link
            if heading:
                text = (folder / file).read_text() if file else PAGES[name]
                titles = re.findall(r"^#+ (.*)$", text, re.M)
                assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link


@pytest.mark.parametrize("name", PAGES)
def test_command_lines_are_parsed(name: str) -> None:
    """Every command line that a page shows has options that its parser knows."""
    blocks = re.findall(r"^```\n(.*?)^```$", PAGES[name], re.M | re.S)
    for line in re.findall(r"^fastnet (.*)$", "".join(blocks), re.M):
        assert cli.make_parser().parse_args(shlex.split(line, comments=True)).run, line


def test_quick_start_has_two_commands() -> None:
    block = README[README.index("## Quick start") :].split("```")[1].removeprefix("bash\n")
    assert len([line for line in block.splitlines() if line and not line.startswith("#")]) == 2
