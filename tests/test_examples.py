"""The scripts in examples/ run as a reader runs them, and print what they promise."""

import runpy
import warnings

import pytest
from processes import ROOT

PROMISES = {
    "article": "All three agree to 9 digits.",
    "digits": "is taken for a",
    "own_kernel": "agree with NumPy and with central differences",
    "sklearn_drop_in": "fastnet      accuracy 0.9",
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(PROMISES)


@pytest.mark.compiled
@pytest.mark.parametrize("name", PROMISES)
def test_examples_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "sklearn_drop_in":
        pytest.importorskip("sklearn")
    with warnings.catch_warnings():  # a script's filters are its own
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert PROMISES[name] in capsys.readouterr().out
