"""`fastnet export`: the ONNX file computes what `fastnet predict` does."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from commands import QUICK, run

import fastnet
from fastnet import table_model
from fastnet.cli import main as cli


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
