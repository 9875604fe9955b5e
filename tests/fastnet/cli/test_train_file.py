"""`fastnet train FILE`: what it says, learns and writes, for tables of every kind."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas
import pytest
from commands import PEOPLE, QUICK, TRAIN, rows_of, run

from fastnet import scores, table, table_model
from fastnet.cli import main as cli
from fastnet.cli import predict
from fastnet.kernels.specs.losses import LOSSES


def test_regression_from_file_to_predictions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--target", "price", "--epochs", "60", "--out", "m.skops", "--plot", "curve.png"]
    output = run(capsys, "train", "houses.csv", *arguments, *QUICK)
    assert "data      houses.csv: 200 rows, 3 columns\nnumber    area, rooms\n" in output
    assert "task      regression of 'price': numbers with fractions\n" in output
    assert "rows      120 to train on, 40 choose the best epoch, 40 held out\n" in output
    assert re.search(r"^training  mse, Adam", output, re.M)
    found = re.search(r"^this model +([\de.+]+) +[\de.+]+ +([\d.]+)$", output, re.M)
    assert found
    assert float(found[2]) > 0.9
    assert 1e3 < float(found[1]) < 1e5, "in the units of the file"
    assert re.search(r"^mean of the target .*\nHistGradientBoosting ", output, re.M)
    assert re.search(r"^beside    HistGradientBoosting, fitted on the same rows in \d+\.\d\d s, is ", output, re.M)
    assert re.search(r"^best      epoch \d+ of 60: val_loss [\d.]+; refitted on all rows for \d+$", output, re.M)
    assert re.search(r"^diagnosis [A-Z].*\.$", output, re.M)
    assert output.endswith("model     m.skops\nplot      curve.png\n")
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")

    (folder / "new.csv").write_text("rooms,area\n3,100\n3,200\n")
    low, high = (float(row[0]) for row in rows_of(run(capsys, "predict", "m.skops", "new.csv"))[1:])
    assert abs(low - 1_345_000) < 1e5
    assert abs(high - 1_645_000) < 1e5
    assert json.loads(run(capsys, "predict", "m.skops", "new.csv", "--json")) == {
        "target": "price",
        "predictions": [pytest.approx(low), pytest.approx(high)],
    }
    assert run(capsys, "predict", "m.skops", "new.csv", "--out", "p.csv") == ""
    assert (folder / "p.csv").read_text() == f"price\n{low}\n{high}\n"
    frame = pandas.DataFrame({"other": "x", "rooms": [3], "area": [100.0]})
    assert table_model.load("m.skops").predict(frame) == pytest.approx([low])
    polars = pytest.importorskip("polars")
    assert table_model.load("m.skops").predict(polars.from_pandas(frame)) == pytest.approx([low])


def test_classification_from_file_to_predictions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = run(capsys, "train", "insects.csv", "--target", "kind", "--epochs", "60", "--out", "m", *QUICK)
    assert "task      classification of 'kind': text, 3 different: ant (" in output
    found = re.search(r"^this model +([\d.]+) .*\nmost frequent class +([\d.]+) ", output, re.M)
    assert found
    assert float(found[1]) > 0.9 > float(found[2])
    assert re.search(r"^true . predicted  ant  bee  cicada\nant +\d+ +\d+ +\d+$", output, re.M)

    assert cli.main(["predict", "m", "insects.csv"]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"fastnet predict: accuracy (1|0\.9.*),.* on 200 rows with a known 'kind'\n", captured.err)
    rows = rows_of(captured.out)
    assert rows[0] == ["kind", "probability_ant", "probability_bee", "probability_cicada"]
    truth = [line.split(";")[2] for line in (folder / "insects.csv").read_text().splitlines()[1:]]
    assert np.mean([row[0] == kind for row, kind in zip(rows[1:], truth, strict=True)]) > 0.9
    np.testing.assert_allclose(np.array([row[1:] for row in rows[1:]], float).sum(axis=1), 1, atol=1e-5)
    told = json.loads(run(capsys, "predict", "m", "insects.csv", "--json"))
    assert told["classes"] == ["ant", "bee", "cicada"]
    assert told["predictions"] == [row[0] for row in rows[1:]]
    assert np.array(told["probabilities"]).shape == (200, 3)
    assert told["scores"]["accuracy"] > 0.9


def test_table_with_text_and_gaps(people: pandas.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    output = run(capsys, "train", "people.csv.gz", *PEOPLE, "--class-weight", "balanced", "--out", "m")
    for line in (
        r"number    age \(\d+ gaps\)",
        r"boolean   member",
        r"category  town \(4 values, 1 in fewer than 2 rows taken together; \d+ gaps\), zone \(3 values\)",
        r"date      since \(%d.%m.%Y\)",
        r"left out  Unnamed: 0 \(an id: every row has another\), person \(as requested\), noise \(as requested\), .*",
        r"gaps      1 row left out: 'rich' is not known there",
        r"task      classification of 'rich': text, 2 different: no \(\d+%\), yes \(\d+%\)",
    ):
        assert re.search(f"^{line}$", output, re.M), line
    assert "planet (constant)" in output
    assert re.search(r"^beside    HistGradientBoosting, .* by balanced accuracy$", output, re.M)
    assert cli.main(["predict", "m", "people.parquet"]) == 0
    captured = capsys.readouterr()
    assert "on 299 rows with a known 'rich'" in captured.err
    rows = rows_of(captured.out)
    assert rows[0] == ["person", "rich", "probability_no", "probability_yes"]
    assert [row[0] for row in rows[1:]] == people["person"].tolist()
    assert float(re.findall(r"accuracy ([\d.]+)", captured.err)[0]) > 0.8
    people.drop(columns=["rich", "person"]).assign(town="Nice", more=1).to_feather("new.feather")
    assert cli.main(["predict", "m", "new.feather"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "fastnet predict: ignored, since the model was not trained on them: 'more'",
        "fastnet predict: 300 rows with a new value of 'town', such as 'Nice'",
    ]


def test_cells_that_cannot_be_read_are_counted(people: pandas.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    people = people.drop(columns="noise").assign(income=np.arange(300.0) ** 2).astype(object)
    people.loc[[1, 4], "age"], people.loc[5, "since"], people.loc[6, "income"] = ["abc", "n/a?"], "soon", np.inf
    people.to_csv("people.csv", index=False)
    unread = [
        "no number could be read in 2 cells of 'age', such as 'abc': taken for gaps",
        "no date could be read in 1 cell of 'since', such as 'soon': taken for gaps",
        "no number could be read in 1 cell of 'income', such as 'inf': taken for gaps",
    ]
    arguments = ["people.csv", "--target", "rich", "--epochs", "1", *QUICK]
    output = run(capsys, "train", *arguments, "--out", "m").splitlines()
    assert [line[10:] for line in output if line.startswith("unread ")] == unread
    told = json.loads(run(capsys, "train", *arguments, "--json"))
    assert told["unread"]["age"] == {"expected": "number", "cells": 2, "example": "abc"}
    assert [*told["unread"]] == ["age", "since", "income"]
    people.assign(rich=["maybe", "no idea", "maybe", *people["rich"][3:]]).to_csv("new.csv", index=False)
    assert cli.main(["predict", "m", "new.csv"]) == 0
    said = capsys.readouterr().err.splitlines()
    unknown = "3 rows not scored, since the model has no such class of 'rich': 'maybe' in 2 rows, 'no idea' in 1 row"
    assert [line for line in said[:-1] if "new value" not in line] == [
        f"fastnet predict: {line}" for line in (*unread, unknown)
    ]
    assert said[-1].endswith("on 296 rows with a known 'rich'")
    people.loc[10, "income"] = "x"
    people.to_csv("people.csv", index=False)
    output = run(capsys, "train", "people.csv", "--target", "income", "--epochs", "1", *QUICK)
    assert "unread    no number could be read in 2 cells of 'income', such as 'inf': taken for gaps\n" in output
    assert "gaps      2 rows left out: 'income' is not known there\n" in output
    run(capsys, "train", "people.csv", "--target", "income", "--epochs", "1", "--out", "m", *QUICK)
    assert cli.main(["predict", "m", "people.csv"]) == 0
    said = capsys.readouterr().err
    assert "fastnet predict: no number could be read in 2 cells of 'income', such as 'inf': not scored\n" in said
    many = table.unread_lines({str(i): told["unread"]["age"] for i in range(10)})
    assert len(many) == 9
    assert many[-1] == "the same in 2 more columns"


def test_result_is_trained_on_the_rows_that_chose_the_epoch_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "train", "houses.csv", "--target", "price", "--out", "m", "--epochs", "3", *QUICK)
    transformer, _ = table_model.load("m").members[0]
    area = pandas.read_csv("houses.csv")["area"].to_numpy()
    kept, _ = scores.split(np.zeros(200), 0.2, 0)
    scaler = transformer.named_transformers_["numbers"][0]
    assert scaler.n_samples_seen_ == 160
    assert scaler.mean_[0] == pytest.approx(area[kept].mean())


def test_network_before_training_is_kept_where_no_epoch_is_better(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["insects.csv", "--target", "kind", "--epochs", "1", "--drop", "leg,", *QUICK, "--lr", "50"]
    output = run(capsys, "train", *arguments)
    assert re.search(
        r"^best      none of 1: the network as it was before training is kept, val_loss [\d.]+$", output, re.M
    )
    assert "left out  leg (as requested)\n" in output
    output = run(capsys, "train", *arguments, "--ensemble", "2")
    assert re.search(r"^2 +1 +1 +none +[\d.]+$", output, re.M)


def test_model_no_better_than_the_trivial_one_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    np.savez("t.npz", X=random.normal(size=(300, 3)), y=(random.random(300) < 0.07).astype(int))
    output = run(capsys, "train", "t.npz", "--epochs", "20", *QUICK)
    assert "note      classes are imbalanced: '1' is " in output
    assert "warning   this model is no better than the most frequent class" in output


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("classes", [2, 3])
def test_train_classes(loss: str, classes: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = np.random.default_rng(0).normal(size=(150, 2))
    y = np.digitize(X[:, 0], [0] if classes == 2 else [-0.5, 0.5]) + 4
    np.savez("t.npz", X=100 * X, y=y)
    options = ["--loss", loss, "--epochs", "80", "--schedule", "constant", "--out", "m", "--json", *QUICK]
    told = json.loads(run(capsys, "train", "t.npz", *options))
    assert told["held_out"]["scores"]["this model"]["accuracy"] > 0.8
    assert told["classes"] == [4, 5, 6][:classes]
    rows = rows_of(run(capsys, "predict", "m", "t.npz"))
    assert len(rows[0]) == 1 + classes
    assert np.mean([int(row[0]) for row in rows[1:]] == y) > 0.8


@pytest.mark.parametrize("loss", [name for name, spec in LOSSES.items() if not spec.counts_correct])
def test_train_numbers(loss: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", "price", "--loss", loss, "--json", "--epochs", "60", *QUICK]
    told = json.loads(run(capsys, "train", "houses.csv", *arguments))
    assert told["held_out"]["scores"]["this model"]["r2"] > 0.8
    assert not list(folder.glob("m*")), "written only when asked for"


def test_train_json_is_the_whole_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "train", "houses.csv", "--target", "price", "--epochs", "6", "--json", *QUICK))
    assert (told["task"], told["target"], told["epochs"], told["classes"]) == ("regression", "price", 6, None)
    assert len(told["history"]["loss"]) == len(told["history"]["val_loss"]) == 6
    assert {"rmse", "mae", "r2"} == {*told["held_out"]["scores"]["this model"]}
    assert {*told["held_out"]["verdict"]} == {"mean of the target", "HistGradientBoosting"}
    assert told["baselines_seconds"] > 0
    assert told["columns"] == {"area": "number", "rooms": "number"}
    assert told["diagnosis"]
    told = json.loads(run(capsys, "train", "--epochs", "2", "--json", *QUICK))
    assert told["file"] is None
    assert told["target"] == "digit"


def test_train_json_contains_no_nan() -> None:
    assert predict.to_json({"a": [float("nan"), 1.0, (float("inf"),)]}) == '{"a": [null, 1.0, [null]]}'


@pytest.mark.parametrize("target", ["price", "rooms"])
def test_train_leaves_boosting_out(target: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = run(capsys, "train", "houses.csv", "--target", target, "--epochs", "2", "--no-boosting", *QUICK)
    assert "HistGradientBoosting" not in output
    assert re.search(r"^(mean of the target|most frequent class) ", output, re.M)


def test_train_patience_keeps_the_best_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", "price", "--epochs", "500", "--patience", "3", "--json", *QUICK]
    assert json.loads(run(capsys, "train", "houses.csv", *arguments))["epochs"] < 500


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
    assert table_model.load("m").target == "price"
