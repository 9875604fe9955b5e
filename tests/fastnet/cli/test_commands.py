"""`fastnet train FILE` and `fastnet predict`, as a user meets them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from commands import PEOPLE, QUICK, TRAIN, run

import fastnet
from fastnet import CosineDecay, recipe, scores, table, table_model
from fastnet.cli import main as cli
from fastnet.cli import predict as commands
from fastnet.kernels.specs.losses import LOSSES


def rows_of(text: str) -> list[list[str]]:
    return [line.split(",") for line in text.splitlines()]


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


def test_predict_parses_each_column_once(
    people: pandas.DataFrame, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "train", "people.parquet", *PEOPLE, "--out", "m")
    parsed, dates_of, numbers = [], table.dates_of, table.numbers
    monkeypatch.setattr(table, "dates_of", lambda *column: parsed.append(column[0].name) or dates_of(*column))
    monkeypatch.setattr(table, "numbers", lambda column: parsed.append(column.name) or numbers(column))
    run(capsys, "predict", "m", "people.parquet")
    assert sorted(parsed) == ["age", "since"]


def outputs_of_onnx(path: str, frame: pandas.DataFrame) -> dict[str, Any]:
    """What onnxruntime says of a frame of features: an input for each column of numbers or text."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    columns = {name: frame[name].to_numpy() for name in frame.columns}
    given = {name: values if values.dtype == "float64" else values.astype(object) for name, values in columns.items()}
    found = session.run(None, {name: values.reshape(-1, 1) for name, values in given.items()})
    return dict(zip([output.name for output in session.get_outputs()], found, strict=True))


@pytest.mark.parametrize("ensemble", ["1", "3"])
@pytest.mark.parametrize("target", ["rich", "age"])
def test_export_computes_what_predict_does(
    target: str, ensemble: str, people: pandas.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    options = ["--target", target, "--epochs", "20", "--ensemble", ensemble, "--out", "m", *QUICK]
    run(capsys, "train", "people.parquet", *options)
    assert run(capsys, "export", "m", "m.onnx") == "onnx      m.onnx\n"
    strange = people.drop(columns=target)
    strange.loc[5:20, "town"], strange.loc[30:40, "since"] = "Nice", None
    strange.to_parquet("strange.parquet")
    told = json.loads(run(capsys, "predict", "m", "strange.parquet", "--json"))
    found = outputs_of_onnx("m.onnx", table_model.load("m").columns.features(strange))
    if target == "rich":
        assert found["predictions"].tolist() == told["predictions"]
        np.testing.assert_allclose(found["probabilities"], told["probabilities"], atol=1e-6)
        assert len({*told["predictions"]}) == 2
    else:
        np.testing.assert_allclose(found["predictions"], told["predictions"], rtol=1e-5)


def test_export_of_networks_and_errors(
    people: pandas.DataFrame, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    fastnet.Network([2, 3, 1]).save("net.safetensors")
    run(capsys, "export", "net.safetensors", "net.onnx")
    assert [given.name for given in onnx.load("net.onnx").graph.input] == ["X"]
    people.rename(columns={"age": "predictions"}).to_parquet("people.parquet")
    run(capsys, "train", "people.parquet", "--target", "rich", "--epochs", "1", "--out", "m", *QUICK)
    assert cli.main(["export", "m", "m"]) == 1
    assert "m is an input of this command; write to another file" in capsys.readouterr().err
    assert cli.main(["export", "m", "m.onnx"]) == 1
    assert "a column is called 'predictions', as another part of the ONNX model is" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(["export", "m", "m.onnx"]) == 1
    assert capsys.readouterr().err == "fastnet export: ONNX export needs the package onnx: pip install onnx\n"
    assert not Path("m.onnx").exists()


def made_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[int], str, str]:
    told = json.loads(run(capsys, "train", *arguments, "--epochs", "1", "--backend", "numpy", "--json"))
    return told["layer_sizes"], told["optimizer"], told["loss"]


def test_tables_are_learnt_by_the_recipe_of_the_estimators(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes, optimizer, _ = made_of(capsys, "houses.csv", "--target", "price")
    assert sizes == [2, 256, 256, 256, 1]
    assert re.match(r"Adam\(learning_rate=CosineDecay\(learning_rate=0\.004, epochs=1.*beta2=0\.95", optimizer)
    sizes, optimizer, loss = made_of(capsys, "insects.csv", "--target", "kind")
    assert (sizes, loss) == ([2, 256, 256, 256, 3], "cross_entropy")
    assert "0.0025" in optimizer
    assert made_of(capsys)[0] == [64, 128, 10], "the digits keep their own"
    assert "learning_rate=0.001, beta1=0.9, beta2=0.999" in made_of(capsys)[1]
    arguments = ["insects.csv", "--target", "kind", "--epochs", "1", "--backend", "numpy", "--out", "m"]
    output = run(capsys, "train", *arguments)
    assert "batch size 120, seed 0, labels smoothed by 0.1\n" in output
    assert "refit     at the end, on all 160 rows, for about as much training as the best took, while" in output
    assert re.search(r"dense 1 +2 +256  relu ", output)
    assert table_model.load("m").members[0][1].activations[0] == "relu"


def test_each_part_of_the_recipe_can_be_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--hidden", "8", "--activation", "tanh", "--schedule", "step", "--batch-size", "50"]
    arguments = ["train", "insects.csv", "--target", "kind", "--epochs", "3", "--backend", "numpy", *options]
    output = run(capsys, *arguments, "--optimizer", "sgd", "--label-smoothing", "0")
    assert re.search(
        r"^training  cross_entropy, SGD\(.*StepDecay\(learning_rate=0.1,.*, batch size 50, seed 0$", output, re.M
    )
    assert re.search(r"dense 1 +2 +8  tanh ", output)
    assert "for as many epochs as the best took\n" in output
    output = run(capsys, *arguments, "--lr", "0.5", "--loss", "mse")
    assert re.search(r"^training  mse, Adam\(.*StepDecay\(learning_rate=0.5,.*, batch size 50, seed 0$", output, re.M)
    for table_of, loss in (
        (["insects.csv", "--target", "kind"], ["--loss", "mse"]),
        (["houses.csv", "--target", "price"], []),
    ):
        assert cli.main(["train", *table_of, *loss, "--label-smoothing", "0.1"]) == 1
        said = "fastnet train: --label-smoothing is for the loss cross_entropy, but it is mse; leave it out\n"
        assert capsys.readouterr().err == said


def test_smoothed_labels_make_probabilities_less_sure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sure = []
    for share in ("0", "0.3"):
        arguments = ["insects.csv", "--target", "kind", "--label-smoothing", share, "--epochs", "60", "--out", "m"]
        output = run(capsys, "train", *arguments, *QUICK)
        assert "Converged" in output or "Still" in output or "Overfitting" in output, "beside a baseline of soft labels"
        found = json.loads(run(capsys, "predict", "m", "insects.csv", "--json"))["probabilities"]
        sure.append(np.max(found, axis=1).mean())
    assert sure[0] > sure[1] + 0.05


def test_a_rate_that_falls_sooner_sums_up_to_the_same() -> None:
    for epochs in (1, 5, 30, 63, 64):
        times = np.arange(64 * 100) / 100
        learnt = CosineDecay(1.0, 64).rates(times)[: epochs * 100].sum() / 100
        found = recipe.annealed(epochs, 64)
        assert abs(CosineDecay(1.0, found).rates(times)[: found * 100].sum() / 100 - learnt) < 0.27
    assert recipe.annealed(1, 64) == 2
    assert recipe.annealed(64, 64) == 64
    assert recipe.even_batch(300) == 300
    assert recipe.even_batch(1000) == 250


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


@pytest.mark.parametrize("target", ["price", "rooms"])
def test_train_leaves_boosting_out(target: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = run(capsys, "train", "houses.csv", "--target", target, "--epochs", "2", "--no-boosting", *QUICK)
    assert "HistGradientBoosting" not in output
    assert re.search(r"^(mean of the target|most frequent class) ", output, re.M)


def test_train_patience_keeps_the_best_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", "price", "--epochs", "500", "--patience", "3", "--json", *QUICK]
    assert json.loads(run(capsys, "train", "houses.csv", *arguments))["epochs"] < 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("houses.csv",), "houses.csv: which column is to be predicted? Name it by --target; there are: 'area',"),
        (("no.csv", "--target", "y"), "cannot read no.csv: no such file or directory"),
        (("houses.csv", "--target", "cost"), "houses.csv has no column 'cost'"),
        (("houses.csv", "--target", "Price"), "has no column 'Price' (did you mean 'price'?); there are: 'area'"),
        (("houses.csv", "--target", "price", "--drop", "a,rom"), "has no columns 'a', 'rom' (did you mean 'rooms'?)"),
        (
            ("houses.csv", "--target", "price", "--drop", "area,rooms"),
            "has no column to predict 'price' from; left out: area (as requested), rooms (as requested)",
        ),
        (
            ("houses.csv", "--target", "price", "--class-weight", "balanced"),
            "--class-weight is for classes, but 'price' is predicted as a number; leave it out, or give ",
        ),
        (
            ("houses.csv", "--target", "price", "--out", "m.ONNX"),
            "cannot write m.ONNX: it would hold skops, but its name says ONNX (to_onnx, and fastnet "
            "export MODEL FILE.onnx, write that); end it in .skops\n",
        ),
        (
            ("houses.csv", "--target", "price", "--out", "m.safetensors"),
            "cannot write m.safetensors: it would hold skops, but its name says safetensors (Network.save",
        ),
        (
            ("houses.csv", "--target", "price", "--checkpoint", "run.skops"),
            "cannot write run.skops: it would hold safetensors, but its name says skops (TableModel.save ",
        ),
        (
            ("houses.csv", "--target", "price", "--task", "classification"),
            "200 different values in 200 rows; if these are numbers, leave out --task classification\n",
        ),
        (
            ("one.csv", "--target", "y"),
            "one.csv has no column to predict 'y' from; left out: none, it has no other column\n",
        ),
        (("huge.csv", "--target", "y"), "target 'y' holds numbers of about 3e+306, whose squares"),
        (("houses.csv", "--target", "price", "--out", "no/m"), "cannot write no/m: there is no folder"),
        (("houses.csv", "--target", "price", "--out", "."), "cannot write .: it is a folder; name a file in it"),
        (("houses.csv", "--target", "price", "--out", "./houses.csv"), "houses.csv is an input of this command"),
        (("houses.csv", "--target", "price", "--plot", "houses.csv"), "houses.csv is an input of this command"),
        (("houses.csv", "--target", "price", "--plot", "a.xyz"), "--plot a.xyz: unknown image type"),
        (
            ("houses.csv", "--target", "price", "--plot", "a.png", "--out", "a.png"),
            "--out, --plot and --checkpoint name the same",
        ),
        (("houses.csv", "--target", "price", "--loss", "cross_entropy"), "cross_entropy is a loss for classes"),
        (("insects.csv", "--target", "kind", "--hidden", "9" * 13), "GiB of parameters; expected at most"),
    ],
)
def test_train_rejects_bad_options_before_training(
    arguments: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    (folder / "one.csv").write_text("y\n" + "1\n2\n" * 10)
    (folder / "huge.csv").write_text("x,y\n" + "".join(f"{i % 7},{i}.5e305\n" for i in range(30)))
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
    fastnet.Network([2, 1]).save("net")
    np.savez("t.npz", X=np.eye(2))
    (folder / "gap.csv").write_text("a,b\n1,2\n2,\n")
    (folder / "people.csv").write_text("a,b\nx,2\n2,y\n")
    for arguments, message in [
        (("no", "houses.csv"), "cannot read no: no such file"),
        (("houses.csv", "houses.csv"), "houses.csv is neither a model nor a checkpoint; expected a file"),
        (
            ("m", "insects.csv"),
            "insects.csv cannot be predicted: the table has no columns 'area', 'rooms'; there are: 'wing'",
        ),
        (
            ("houses.csv", "m", "--id", "area", "--out", "a b.csv"),
            "m is a model: the arguments are swapped; write fastnet predict m houses.csv --id area --out 'a b.csv'\n",
        ),
        (
            ("houses.csv", "net", "--json"),
            "net is a model: the arguments are swapped; write fastnet predict net h",
        ),
        (("net", "m"), "m is a model; expected a table to predict: fastnet predict MODEL FILE\n"),
        (("net", "gap.csv"), "gap.csv: column 'b' holds gaps or text; a network takes numbers only\n"),
        (("net", "insects.csv"), "insects.csv: column 'kind' holds gaps or text; a network"),
        (("net", "people.csv"), "people.csv: columns 'a', 'b' hold gaps or text; a network"),
        (("t.npz", "houses.csv"), "t.npz is not a model of a table: it is an archive of another kind"),
        (("m", "houses.csv", "--out", "houses.csv"), "houses.csv is an input of this command; write to another file"),
        (("m", "houses.csv", "--out", "m"), "m is an input of this command; write to another file"),
        (("m", "houses.csv", "--out", "no/p.csv"), "cannot write no/p.csv: there is no folder"),
        (("m", "houses.csv", "--out", "p.json"), "--out p.json would hold CSV; give --json too, or end it in .csv"),
        (
            ("m", "houses.csv", "--json", "--out", "p.csv"),
            "cannot write p.csv: it would hold JSON, but its name says CSV",
        ),
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


def test_predict_quotes_labels_where_csv_requires_it() -> None:
    result = {
        "target": "kind",
        "classes": ['x, "y"', "naïve"],
        "predictions": ["naïve"],
        "probabilities": [[0.25, 0.75]],
    }
    said = commands.as_csv(result)
    assert said == 'kind,"probability_x, ""y""",probability_naïve\nnaïve,0.25,0.75\n'


def test_ids_of_any_kind_and_gaps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parquet files hold dates, decimals and nullable numbers, which are no numbers or text of Python's."""
    fastnet.Network([1, 1]).save("m")
    days = pandas.Series(pandas.to_datetime(["2024-01-31", None])).dt.date
    for ids, texts in ((days, ["2024-01-31", None]), (pandas.array([7, None], "Int64"), [7, None])):
        pandas.DataFrame({"x": [1.0, 2.0], "who": ids}).to_parquet("t.parquet")
        told = json.loads(run(capsys, "predict", "m", "t.parquet", "--id", "who", "--json"))
        assert told["ids"] == texts
        rows = rows_of(run(capsys, "predict", "m", "t.parquet", "--id", "who"))
        assert [row[0] for row in rows] == ["who", str(texts[0]), ""]


def test_an_id_of_the_name_of_a_prediction_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fastnet.Network([1, 1]).save("m")
    Path("t.csv").write_text("x,prediction\n1,7\n2,8\n")
    assert cli.main(["predict", "m", "t.csv", "--id", "prediction", "--out", "p.csv"]) == 1
    said = "--id 'prediction' is the name of a column of predictions, too; rename it, or add --json"
    assert capsys.readouterr().err == f"fastnet predict: {said}\n"
    assert not Path("p.csv").exists()


def test_train_missing_package_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["train", "houses.csv", "--target", "price", "--plot", "a.png"]) == 1
    expected = "fastnet train: --plot needs the package matplotlib: pip install matplotlib\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("package", ["pandas", "skops"])
def test_missing_extra_is_one_line(
    package: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fastnet.table", "fastnet.table_model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(fastnet, name.removeprefix("fastnet."), raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["train", "houses.csv", "--target", "price", "--epochs", "1", "--out", "m", *QUICK]) == 1
    said = capsys.readouterr().err
    assert "pip install pandas scikit-learn skops" in said
    assert said.count("\n") == 1


def test_train_json_contains_no_nan() -> None:
    assert commands.to_json({"a": [float("nan"), 1.0, (float("inf"),)]}) == '{"a": [null, 1.0, [null]]}'


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
