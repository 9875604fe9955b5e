"""`fastnet train FILE` and `fastnet predict`, as a user meets them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnet
from fastnet.cli import main as cli
from fastnet.cli import train as commands
from fastnet.data import Preparation
from fastnet.kernels.specs.losses import LOSSES

QUICK = ["--hidden", "8", "--backend", "numpy", "--lr", "0.02"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tables in it."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    area, rooms = random.uniform(40, 250, 200), random.integers(1, 8, 200)
    price = 3000 * area + 15000 * rooms + 1e6 + random.normal(0, 5000, 200)
    rows = [f"{a:.1f},{r},{p:.2f}" for a, r, p in zip(area, rooms, price, strict=True)]
    (tmp_path / "houses.csv").write_text("\n".join(["area,rooms,price", *rows]))
    petal, kind = random.normal(0, 1, 200), random.integers(0, 3, 200)
    rows = [f"{k + 0.2 * p:.3f};{p:.3f};{['ant', 'bee', 'cicada'][k]}" for p, k in zip(petal, kind, strict=True)]
    (tmp_path / "insects.csv").write_text("\n".join(["wing;leg;kind", *rows]))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(arguments) == status, capsys.readouterr().err
    return capsys.readouterr().out


def rows_of(text: str) -> list[list[str]]:
    return [line.split(",") for line in text.splitlines()]


def test_regression_from_file_to_predictions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--target", "price", "--epochs", "60", "--out", "m.safetensors", "--plot", "curve.png"]
    output = run(capsys, "train", "houses.csv", *arguments, *QUICK)
    assert "data      houses.csv: 200 rows, 40 of them held out, 2 features\n" in output
    assert "task      regression of 'price': its values are numbers with fractions\n" in output
    assert re.search(r"^training  mse, Adam", output, re.M)
    found = re.search(r"^error     RMSE ([\de.+]+), R\^2 ([\d.]+) on the 40 held-out rows", output, re.M)
    assert found
    assert float(found[2]) > 0.9
    assert 1e3 < float(found[1]) < 1e5, "in the units of the file"
    assert re.search(r"^diagnosis [A-Z].*\.$", output, re.M)
    assert output.endswith("model     m.safetensors\nplot      curve.png\n")
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")

    (folder / "new.csv").write_text("rooms,area\n3,100\n3,200\n")
    low, high = (float(row[0]) for row in rows_of(run(capsys, "predict", "m.safetensors", "new.csv"))[1:])
    assert abs(low - 1_345_000) < 1e5
    assert abs(high - 1_645_000) < 1e5
    assert json.loads(run(capsys, "predict", "m.safetensors", "new.csv", "--json")) == {
        "target": "price",
        "predictions": [pytest.approx(low), pytest.approx(high)],
    }
    assert run(capsys, "predict", "m.safetensors", "new.csv", "--out", "p.csv") == ""
    assert (folder / "p.csv").read_text() == f"price\n{low}\n{high}\n"
    net = fastnet.load("m.safetensors")
    kept = net.preparation
    assert kept is not None
    assert kept.restore(net.predict(kept.inputs([[100, 3]])))[0, 0] == pytest.approx(low)


def test_classification_from_file_to_predictions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = run(capsys, "train", "insects.csv", "--target", "kind", "--epochs", "60", "--out", "m", *QUICK)
    assert "2 features, separated by semicolons\n" in output
    assert "task      classification of 'kind': its values are text: ant, bee, cicada\n" in output
    found = re.search(
        r"^accuracy  ([\d.]+)% of the 40 held-out rows; always predicting .* class, ([\d.]+)%$", output, re.M
    )
    assert found
    assert float(found[1]) > 90 > float(found[2])

    rows = rows_of(run(capsys, "predict", "m", "insects.csv"))
    assert rows[0] == ["kind", "probability_ant", "probability_bee", "probability_cicada"]
    truth = [line.split(";")[2] for line in (folder / "insects.csv").read_text().splitlines()[1:]]
    assert np.mean([row[0] == kind for row, kind in zip(rows[1:], truth, strict=True)]) > 0.9
    np.testing.assert_allclose(np.array([row[1:] for row in rows[1:]], float).sum(axis=1), 1, atol=1e-5)
    told = json.loads(run(capsys, "predict", "m", "insects.csv", "--json"))
    assert told["classes"] == ["ant", "bee", "cicada"]
    assert told["predictions"] == [row[0] for row in rows[1:]]
    assert np.array(told["probabilities"]).shape == (200, 3)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("classes", [2, 3])
def test_train_classes(loss: str, classes: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = np.random.default_rng(0).normal(size=(150, 2))
    y = np.digitize(X[:, 0], [0] if classes == 2 else [-0.5, 0.5]) + 4
    np.savez("t.npz", X=100 * X, y=y)
    told = json.loads(run(capsys, "train", "t.npz", "--loss", loss, "--epochs", "80", "--out", "m", "--json", *QUICK))
    assert told["held_out"]["accuracy"] > 0.8
    assert told["classes"] == [4, 5, 6][:classes]
    rows = rows_of(run(capsys, "predict", "m", "t.npz"))
    assert len(rows[0]) == 1 + classes
    assert np.mean([int(row[0]) for row in rows[1:]] == y) > 0.8


@pytest.mark.parametrize("loss", [name for name, spec in LOSSES.items() if not spec.counts_correct])
def test_train_numbers(loss: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", "price", "--loss", loss, "--json", "--epochs", "60", *QUICK]
    told = json.loads(run(capsys, "train", "houses.csv", *arguments))
    assert told["held_out"]["r2"] > 0.8
    assert not list(folder.glob("*.safetensors")), "written only when asked for"


def test_train_json_is_the_whole_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "train", "houses.csv", "--target", "price", "--epochs", "6", "--json", *QUICK))
    assert (told["task"], told["target"], told["epochs"], told["classes"]) == ("regression", "price", 6, None)
    assert len(told["history"]["loss"]) == len(told["history"]["val_loss"]) == 6
    assert {"rmse", "mae", "r2"} == {*told["held_out"]}
    assert told["diagnosis"]
    told = json.loads(run(capsys, "train", "--epochs", "2", "--json", *QUICK))
    assert told["file"] is None
    assert told["target"] == "digit"


def test_train_patience_keeps_the_best_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", "price", "--epochs", "500", "--patience", "3", "--json", *QUICK]
    assert json.loads(run(capsys, "train", "houses.csv", *arguments))["epochs"] < 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("houses.csv",), "houses.csv: which column is to be predicted? Name it by --target; there are: 'area',"),
        (("no.csv", "--target", "y"), "cannot read no.csv: no such file or directory"),
        (("houses.csv", "--target", "cost"), "houses.csv has no column 'cost'"),
        (("insects.csv", "--target", "wing"), "insects.csv, line 2: column 'kind' holds '"),
        (("houses.csv", "--target", "price", "--out", "no/m"), "cannot write no/m: there is no folder"),
        (("houses.csv", "--target", "price", "--out", "."), "cannot write .: it is a folder; name a file in it"),
        (("houses.csv", "--target", "price", "--out", "./houses.csv"), "houses.csv is an input of this command"),
        (("houses.csv", "--target", "price", "--plot", "houses.csv"), "houses.csv is an input of this command"),
        (("houses.csv", "--target", "price", "--plot", "a.xyz"), "--plot a.xyz: unknown image type"),
        (("houses.csv", "--target", "price", "--plot", "a.png", "--out", "a.png"), "--out and --plot name the same"),
        (("houses.csv", "--target", "price", "--loss", "cross_entropy"), "cross_entropy is a loss for classes"),
        (("houses.csv", "--target", "price", "--task", "classification", "--hidden", "9" * 13), "Unable to allocate"),
    ],
)
def test_train_rejects_bad_options_before_training(
    arguments: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert cli.main(["train", "--epochs", "1000000", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("fastnet train: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_train_divergence_writes_no_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", "price", "--out", "m", "--epochs", "3", *QUICK, "--optimizer", "sgd", "--lr", "1e30"]
    assert cli.main(["train", "houses.csv", *arguments]) == 1
    captured = capsys.readouterr()
    assert "m is not written, since training diverged" in captured.err
    assert "diagnosis Diverged in epoch 1" in captured.out
    assert not (folder / "m").exists()


def test_predict_errors_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "train", "houses.csv", "--target", "price", "--epochs", "1", "--out", "m", *QUICK)
    for arguments, message in [
        (("no", "houses.csv"), "cannot read no: no such file"),
        (("houses.csv", "houses.csv"), "houses.csv is not a safetensors file"),
        (
            ("m", "insects.csv"),
            "insects.csv lacks columns that this model takes: 'area', 'rooms'; it has instead 'wing'",
        ),
        (("m", "houses.csv", "--out", "houses.csv"), "houses.csv is an input of this command; write to another file"),
        (("m", "houses.csv", "--out", "m"), "m is an input of this command; write to another file"),
        (("m", "houses.csv", "--out", "no/p.csv"), "cannot write no/p.csv: there is no folder"),
    ]:
        assert cli.main(["predict", *arguments]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith(f"fastnet predict: {message}")
        assert captured.err.count("\n") == 1
        assert captured.out == ""


def test_predict_with_a_network_saved_by_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = fastnet.Network([2, 3], seed=1)
    net.save("m")
    np.savez("t.npz", X=np.eye(2))
    rows = rows_of(run(capsys, "predict", "m", "t.npz"))
    assert rows[0] == ["prediction_1", "prediction_2", "prediction_3"]
    np.testing.assert_allclose(np.array(rows[1:], float), net.predict(np.eye(2)), rtol=1e-7)
    net.loss = "cross_entropy"
    net.save("m")
    rows = rows_of(run(capsys, "predict", "m", "t.npz"))
    assert rows[0] == ["prediction", "probability_0", "probability_1", "probability_2"]
    assert [int(row[0]) for row in rows[1:]] == net.predict(np.eye(2)).argmax(axis=1).tolist()


def test_predict_quotes_labels_where_csv_requires_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = fastnet.Network([2, 2])
    net.loss = "cross_entropy"
    net.preparation = Preparation(np.zeros(2), np.ones(2), ("a", "b"), "kind", classes=('x, "y"', "naïve"))
    net.save("m")
    (folder / "n.csv").write_text("a,b\n1,2\n")
    first = run(capsys, "predict", "m", "n.csv").splitlines()[0]
    assert first == 'kind,"probability_x, ""y""",probability_naïve'


def test_train_missing_package_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["train", "houses.csv", "--target", "price", "--plot", "a.png"]) == 1
    expected = "fastnet train: --plot needs the package matplotlib: pip install matplotlib\n"
    assert capsys.readouterr().err == expected


def test_train_json_contains_no_nan() -> None:
    assert commands.to_json({"a": [float("nan"), 1.0, (float("inf"),)]}) == '{"a": [null, 1.0, [null]]}'


TRAIN = [sys.executable, "-m", "fastnet", "train", "houses.csv", "--target", "price", *QUICK]


@pytest.mark.skipif(os.name != "posix", reason="pipes close differently there")
def test_train_saves_the_model_despite_a_closed_pipe(folder: Path) -> None:
    with subprocess.Popen(
        [*TRAIN, "--epochs", "3", "--out", "m"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=120) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert fastnet.load("m").preparation is not None


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent differently there")
def test_train_interrupted_saves_the_last_whole_epoch(folder: Path) -> None:
    command: list[Any] = [*TRAIN, "--epochs", "1000000", "--out", "m"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs ignore
    with subprocess.Popen(command, preexec_fn=heeding, **pipes) as process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("total"):
                break
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        output, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"fastnet train: interrupted after \d+ whole epochs", said.splitlines()[-1])
    if "after 0 " in said:  # a busy machine may not have compiled by then
        assert sorted(os.listdir()) == ["houses.csv", "insects.csv"]
    else:
        assert output.endswith("model     m\n")
        assert fastnet.load("m").loss == "mse"
        assert sorted(os.listdir()) == ["houses.csv", "insects.csv", "m"]
