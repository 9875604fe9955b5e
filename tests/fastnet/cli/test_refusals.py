"""What `fastnet train FILE` and `fastnet predict` refuse: one line says why, and no file is written."""

import sys
from pathlib import Path

import numpy as np
import pytest
from commands import QUICK, run

import fastnet
from fastnet.cli import main as cli


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


def test_an_id_of_the_name_of_a_prediction_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fastnet.Network([1, 1]).save("m")
    Path("t.csv").write_text("x,prediction\n1,7\n2,8\n")
    assert cli.main(["predict", "m", "t.csv", "--id", "prediction", "--out", "p.csv"]) == 1
    said = "--id 'prediction' is the name of a column of predictions, too; rename it, or add --json"
    assert capsys.readouterr().err == f"fastnet predict: {said}\n"
    assert not Path("p.csv").exists()


def test_rows_between_quotes_are_warned_of_in_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a,b", *[f"{i},{i % 2}" for i in range(40)]]
    lines[5], lines[9] = '5,"1', '9,1"'
    (folder / "t.csv").write_text("\n".join(lines))
    fastnet.Network([1, 2]).save("m")
    for arguments, status in ((("train", "t.csv", "--target", "b", "--drop", "a"), 1), (("predict", "m", "t.csv"), 1)):
        assert cli.main(arguments) == status
        warning, error = capsys.readouterr().err.splitlines()
        assert warning.startswith(f"fastnet {arguments[0]}: t.csv: lines 6 to 10 are read as one row")
        assert error.startswith(f"fastnet {arguments[0]}: t.csv")
