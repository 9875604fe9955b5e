"""Ensemble: means and spread, one file, ONNX, and what is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnet
from fastnet import Ensemble, Network, Trainer
from fastnet.cli.main import main
from fastnet.io import storage

X = np.random.default_rng(0).standard_normal((20, 3))


def make(loss: str | None = None, dtype: str = "float32", outputs: int = 2, count: int = 3) -> Ensemble:
    networks = [Network([3, 4 + i, outputs], hidden="tanh", dtype=dtype, seed=i) for i in range(count)]
    for network in networks:
        network.loss = loss
    return Ensemble(networks)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predicts_the_mean_of_outputs(dtype: str) -> None:
    ensemble = make(dtype=dtype)
    outputs = np.stack([network.predict(X) for network in ensemble.networks]).astype("float64")
    for found, expected in ((ensemble.predict(X), outputs.mean(axis=0)), (ensemble.spread(X), outputs.std(axis=0))):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_predicts_the_mean_of_probabilities(loss: str) -> None:
    ensemble = make(loss)
    outputs = np.stack([network.predict_proba(X) for network in ensemble.networks]).astype("float64")
    np.testing.assert_allclose(ensemble.predict_proba(X), outputs.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(ensemble.spread(X), outputs.std(axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "outputs"), [("cross_entropy", 3), ("binary_cross_entropy", 3), ("binary_cross_entropy", 1)]
)
def test_predicts_the_labels_of_the_mean(loss: str, outputs: int) -> None:
    ensemble = make(loss, outputs=outputs)
    probabilities = ensemble.predict_proba(X)
    expected = probabilities.argmax(axis=1) if loss == "cross_entropy" else (probabilities > 0.5).astype(int)
    found = ensemble.predict_labels(X)
    assert found.shape == ((len(X),) if loss == "cross_entropy" or outputs == 1 else (len(X), outputs))
    assert (found == expected.reshape(found.shape)).all()
    assert len(np.unique(found)) > 1
    assert (Ensemble(ensemble.networks[:1]).predict_labels(X) == ensemble.networks[0].predict_labels(X)).all()
    with pytest.raises(RuntimeError, match="probabilities"):
        make().predict_labels(X)


def test_one_network_is_an_ensemble_without_spread() -> None:
    ensemble = make(count=1)
    assert ensemble.predict(X).tobytes() == ensemble.networks[0].predict(X).tobytes()
    assert not ensemble.spread(X).any()


def test_networks_are_a_tuple_and_not_copied() -> None:
    ensemble = make()
    with pytest.raises(AttributeError):
        ensemble.networks = ()  # type: ignore[misc]
    before = ensemble.predict(X)
    Trainer(ensemble.networks[1]).fit(X, np.ones((20, 2)), 1)
    assert not (ensemble.predict(X) == before).any()
    copy = pickle.loads(pickle.dumps(ensemble))
    assert copy.predict(X).tobytes() == ensemble.predict(X).tobytes()
    assert repr(ensemble).startswith("Ensemble([Network([3, 4, 2], ")


@pytest.mark.parametrize(
    ("error", "message", "networks"),
    [
        (TypeError, r"networks is Network\(.*; expected a list", Network([3, 2])),
        (TypeError, r"networks\[1\] is a str", [Network([3, 2]), "b"]),
        (ValueError, "networks is empty", []),
        (
            ValueError,
            r"networks\[1\] has 3 inputs, 1 output and dtype float32; expected 3 inputs, 2 outputs",
            [Network([3, 2]), Network([3, 1])],
        ),
        (ValueError, "has 4 inputs", [Network([3, 2]), Network([4, 2])]),
        (ValueError, "dtype float64; expected", [Network([3, 2]), Network([3, 2], dtype="float64")]),
    ],
)
def test_networks_are_checked(error: type[Exception], message: str, networks: Any) -> None:
    with pytest.raises(error, match=message):
        Ensemble(networks)


def test_losses_must_fit_together() -> None:
    with pytest.raises(RuntimeError, match="has not been trained"):
        make().predict_proba(X)
    mixed = make("cross_entropy")
    mixed.networks[2].loss = "mse"
    for ask in (mixed.predict_proba, mixed.spread):
        with pytest.raises(RuntimeError, match=r"networks\[0\] has the loss 'cross_entropy', networks\[2\] 'mse'"):
            ask(X)
    mixed.networks[0].loss = mixed.networks[1].loss = "huber"
    assert (mixed.predict(X) != 0).any()
    assert (mixed.spread(X) > 0).all()
    with pytest.raises(ValueError, match="X has 2 columns; this network takes 3"):
        mixed.predict(X[:, :2])


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("loss", [None, "cross_entropy"])
def test_saved_and_loaded(loss: str | None, tmp_path: Path) -> None:
    ensemble = make(loss, "float64")
    ensemble.save(tmp_path / "e")
    again = fastnet.load(tmp_path / "e")
    assert isinstance(again, Ensemble)
    for a, b in zip(again.networks, ensemble.networks, strict=True):
        assert repr(a) == repr(b)
        assert a.loss == b.loss
        assert a.parameters.tobytes() == b.parameters.tobytes()
    again.save(tmp_path / "f")
    assert (tmp_path / "e").read_bytes() == (tmp_path / "f").read_bytes()
    assert isinstance(fastnet.load(str(tmp_path / "e")), Ensemble)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    make().save(tmp_path / "e")
    whole = (tmp_path / "e").read_bytes()
    (tmp_path / "d").write_bytes(whole[:-3] + b"\x01\x02\x03")
    with pytest.raises(ValueError, match="is damaged"):
        fastnet.load(tmp_path / "d")
    arrays, metadata = storage.read(tmp_path / "e", "ensemble")
    members = json.loads(metadata["members"])
    for change, message in (
        ({"members": "[[]]"}, "'members' are not as fastnet writes them"),
        ({"members": "3"}, "'members' are not as fastnet writes them"),
        ({"members": "{"}, "'members' is not as fastnet writes it"),
        ({"members": "[]"}, "networks is empty"),
        ({"members": json.dumps([*members, members[0]])}, "lacks 'layers.0.weight'"),
        ({"members": json.dumps([members[1]])}, "layers.0.weight has shape"),
        ({"members": json.dumps([{**members[0], "dtype": 3}])}, "'members' are not as fastnet"),
    ):
        storage.write(tmp_path / "w", arrays, {**metadata, **change})
        with pytest.raises(ValueError, match=message) as caught:
            fastnet.load(tmp_path / "w")
        assert str(tmp_path / "w") in str(caught.value)
    with pytest.raises(ValueError, match=r"holds an ensemble; expected a checkpoint; use fastnet\.load\(path\)"):
        Trainer.resume(tmp_path / "e")


def test_networks_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    ensemble = make()
    ensemble.networks[1].parameters[0] = np.inf
    for write in (ensemble.save, ensemble.to_onnx):
        with pytest.raises(ValueError, match=r"networks\[1\]\.parameters"):
            write(tmp_path / "e")
    assert not list(tmp_path.iterdir())


def test_command_line_predicts_by_an_ensemble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    ensemble = make("cross_entropy")
    ensemble.save(tmp_path / "e")
    inputs = np.arange(float(ensemble.networks[0].layer_sizes[0])) / 4
    names = ",".join(f"column{i}" for i in range(len(inputs)))
    (tmp_path / "table.csv").write_text(f"{names}\n{','.join(map(str, inputs))}\n")
    assert main(["predict", str(tmp_path / "e"), str(tmp_path / "table.csv")]) == 0
    header, row = capsys.readouterr().out.split()
    expected = ensemble.predict_proba([inputs])[0]
    assert header == "prediction," + ",".join(f"probability_{i}" for i in range(len(expected)))
    np.testing.assert_allclose([float(number) for number in row.split(",")[1:]], expected, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy"])
def test_onnx_computes_the_same(loss: str, dtype: str, count: int, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    ensemble = make(loss, dtype, count=count)
    ensemble.to_onnx(tmp_path / "e.onnx")
    session = runtime.InferenceSession(tmp_path / "e.onnx", providers=["CPUExecutionProvider"])
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"X": X.astype(dtype)}), strict=True))
    expected = ensemble.predict(X) if loss == "mse" else ensemble.predict_proba(X)
    np.testing.assert_allclose(found.popitem()[1], expected, rtol=1e-5, atol=1e-6)  # sums near 0 cancel
    if loss == "cross_entropy":
        np.testing.assert_array_equal(found["label"], expected.argmax(axis=1))


def test_means_are_added_up_in_float64() -> None:
    networks = [Network([1, 1], seed=i) for i in range(3)]
    for network, value in zip(networks, (2.0**25, 1.0, -(2.0**25)), strict=True):
        network.parameters[:] = 0, value
    assert Ensemble(networks).predict([[1.0]]) == np.float32(1 / 3)


def test_a_probability_of_one_half_is_no_yes() -> None:
    network = Network([1, 1])
    network.parameters[:], network.loss = 0, "binary_cross_entropy"
    assert Ensemble([network]).predict_proba([[1.0]]) == 0.5
    assert Ensemble([network]).predict_labels([[1.0]]) == network.predict_labels([[1.0]]) == 0
