"""ONNX: onnxruntime computes what the network does, scaling, units and classes included."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnet import Network
from fastnet.io import onnx as export
from fastnet.io import table_onnx
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.specs.activations import ACTIVATIONS

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

NAMES = [activation.name for activation in reference.ACTIVATIONS]
X = np.random.default_rng(0).standard_normal((40, 3))


def run(path: Path, X: Any) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, {"X": X}), strict=True))


def network(outputs: int = 2, hidden: str = "tanh", dtype: str = "float32", output: str = "identity") -> Network:
    net = Network([3, 8, 5, outputs], hidden=hidden, output=output, dtype=dtype, seed=2)
    for b in net.biases:
        b[:] = np.linspace(-0.5, 0.5, len(b)) if len(b) > 1 else 0.3
    return net


def test_suffixes_of_other_formats_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "Graph", lambda *_: pytest.fail("the model has been built before"))
    said = r"it would hold ONNX, but its name says safetensors .* end it in .onnx$"
    with pytest.raises(ValueError, match=said):
        network().to_onnx(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=said):
        table_onnx.to_onnx(tmp_path / "m.safetensors", [], np.dtype("float32"), None, None, (0.0, 1.0))
    assert not list(tmp_path.iterdir())


def close(found: Any, expected: Any) -> None:
    """To 1e-5 of the largest."""
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert found.shape == expected.shape


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_onnx_exports_every_activation(name: str, dtype: str, tmp_path: Path) -> None:
    net = network(hidden=name, dtype=dtype, output=name)
    net.to_onnx(tmp_path / "m.onnx")
    found = run(tmp_path / "m.onnx", X.astype(dtype))
    assert list(found) == ["outputs"]
    assert found["outputs"].dtype == dtype
    close(found["outputs"], net.predict(X))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_operator_computes_the_activation(name: str, dtype: str, tmp_path: Path) -> None:
    """A single layer whose weight is 1, against the reference, tails included."""
    Z = np.concatenate([np.linspace(-6, 6, 101), [-700.0, -90.0, 90.0, 700.0]]).astype(dtype)
    layer = (np.ones((1, 1), dtype), np.zeros(1, dtype), name)
    export.to_onnx(tmp_path / "m.onnx", [[layer]], np.dtype(dtype), "mse")
    found = run(tmp_path / "m.onnx", Z.reshape(-1, 1))["outputs"][:, 0]
    expected = getattr(reference, name)(Z.astype(np.float64))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(found[:101] - expected[:101]).max() <= 1e-6 * np.abs(expected[:101]).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_onnx_cross_entropy_outputs_probabilities_and_labels(dtype: str, tmp_path: Path) -> None:
    net = network(outputs=4, dtype=dtype)
    net.loss = "cross_entropy"
    net.to_onnx(tmp_path / "m.onnx")
    found = run(tmp_path / "m.onnx", X.astype(dtype))
    close(found["probabilities"], net.predict_proba(X))
    assert (found["label"] == net.predict(X).argmax(axis=1)).all()


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", None])
def test_onnx_outputs(loss: str | None, tmp_path: Path) -> None:
    net = network(outputs=3)
    net.loss = loss
    net.to_onnx(tmp_path / "m.onnx")
    found = run(tmp_path / "m.onnx", X.astype("float32"))
    assert list(found) == ["outputs"]
    close(found["outputs"], net.predict(X))


def test_onnx_single_output_separates_two_classes(tmp_path: Path) -> None:
    net = network(outputs=1)
    net.loss = "binary_cross_entropy"
    net.to_onnx(tmp_path / "m.onnx")
    probability = reference.sigmoid(net.predict(X))
    found = run(tmp_path / "m.onnx", X.astype("float32"))
    assert list(found) == ["probabilities"]
    close(found["probabilities"], probability)


def test_onnx_reports_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        net.to_onnx(tmp_path / "no" / "m.onnx")
    monkeypatch.setattr(export, "_MAX_WEIGHT_BYTES", 100)
    with pytest.raises(ValueError, match="an ONNX file holds less than 2 GiB"):
        net.to_onnx(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install onnx"):
        net.to_onnx(tmp_path / "m.onnx")
    net.parameters[0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        net.to_onnx(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
