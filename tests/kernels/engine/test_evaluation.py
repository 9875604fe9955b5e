"""Evaluation outside of training finds, to the bit, what `CpuEngine` finds in a fit."""

from typing import Any

import numpy as np
import pytest

from fastnet import Network, Trainer, trainer
from fastnet.dataset import Dataset
from fastnet.fit_session import COMPANIONS, LATER, evaluate_all
from fastnet.kernels.engine import evaluation, forward, inference
from fastnet.kernels.engine.engine import CpuEngine
from fastnet.kernels.specs.losses import LOSSES
from fastnet.regression import RegressionScores

pytestmark = pytest.mark.compiled

ROWS = (1, 7, 1000, 1025, 5000)


def _data(loss: str, rows: int, outputs: int, dtype: str = "float32") -> tuple[Any, Any]:
    rng = np.random.default_rng(rows)
    X = rng.standard_normal((rows, 6)).astype(dtype)
    if LOSSES[loss].takes_labels:
        return X, rng.integers(0, outputs, rows)
    return X, rng.uniform(0, 1, (rows, outputs))


def _by_engine(ours: Trainer, *data: Any) -> dict[str, float]:
    """As evaluation was before: by the engine that trains."""
    network, rows = ours.network, len(data[0])
    engine = CpuEngine(network.parameters, network.layer_sizes, network.activation_codes, ours.loss, min(rows, 1024))
    return evaluate_all(engine, Dataset(network, ours.loss, *data))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_bits_of_the_engine(loss: str, dtype: str) -> None:
    for outputs in (10, 2 if LOSSES[loss].takes_labels else 1):
        network = Network([6, 9, outputs], "tanh", dtype=dtype)
        one, two = (Trainer(network, loss, threads=threads, l2=0.1) for threads in (1, 2))
        for rows in ROWS:
            X, y = _data(loss, rows, outputs, dtype)
            for weights in (None, np.random.default_rng(1).uniform(0, 2, rows)):
                expected = _by_engine(one, X, y, weights)
                for ours in (one, two):
                    found = ours.evaluate(X, y, weights)
                    assert {name: found[name] for name in expected} == expected, (rows, weights is None)


def test_bits_of_soft_labels_of_wide_layers_and_of_other_layouts() -> None:
    ours = Trainer(Network([6, 300, 70]), "cross_entropy")
    X, _ = _data("cross_entropy", 1100, 70)
    soft = np.random.default_rng(0).dirichlet(np.ones(70), 1100)
    expected = _by_engine(ours, X, soft)
    kept = X.copy()
    kept.flags.writeable = False
    for given in (X, kept, np.asfortranarray(X), X.astype(np.float64)):
        assert ours.evaluate(given, soft) == expected


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_parts_of_the_rows_change_nothing(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Trainer(Network([6, 9, 3]), loss)
    X, y = _data(loss, 5000, 3)
    weights = np.random.default_rng(1).uniform(0, 2, 5000)
    whole = ours.evaluate(X, y, weights)
    monkeypatch.setattr(evaluation, "PART_BYTES", 1)
    parts = ours.evaluate(X, y, weights)
    assert parts["loss"] == whole["loss"]
    assert parts == pytest.approx(whole, rel=1e-12)


def test_validation_of_a_fit_agrees() -> None:
    X, y = _data("cross_entropy", 2100, 10)
    weights = np.random.default_rng(1).uniform(0, 2, 2100)
    for callbacks in ([], [lambda row: False]):  # several epochs in a call, and one
        ours = Trainer(Network([6, 9, 10]), "cross_entropy")
        history = ours.fit(X, y, 3, validation_data=(X, y, weights), callbacks=callbacks)
        found = ours.evaluate(X, y, weights)
        assert (history["val_loss"][-1], history["val_accuracy"][-1]) == (found["loss"], found["accuracy"])


def test_no_engine_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Trainer(Network([6, 9, 3]))
    monkeypatch.setattr(trainer.Trainer, "_build", None)
    assert list(ours.evaluate(*_data("mse", 3, 3))) == ["loss", "rmse", "r2"]


def test_a_fit_does_not_compile_what_evaluates() -> None:
    assert all(kernel.module != evaluation.__name__ for kernel in (*COMPANIONS, *LATER))


def test_an_engine_keeps_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network([6, 9, 3])
    made: list[Any] = []
    plan = CpuEngine.evaluation_plan
    monkeypatch.setattr(CpuEngine, "evaluation_plan", lambda self: made.append(plan(self)) or made[-1])
    engine = CpuEngine(network.parameters, network.layer_sizes, network.activation_codes, "mse", 64)
    expected = []
    for rows in (100, 30, 100):
        X, y = _data("mse", rows, 3)
        data = Dataset(network, "mse", X, y)
        expected.append(evaluate_all(engine, data))
        engine.loss_and_gradient(X[:7], data._y[:7])  # whose counters are others
    assert len(made) == 1
    assert expected[0] == expected[2] == evaluate_all(engine, Dataset(network, "mse", *_data("mse", 100, 3)))


def test_what_was_changed_after_the_checks_is_refused() -> None:
    network = Network([6, 3])
    layers = network.dtype, network.layer_sizes, network.activations, "mse"
    X, y = (array.astype(np.float32) for array in _data("mse", 3, 3))
    X[1, 2] = np.nan
    with pytest.raises(ValueError, match="changed while it was evaluated"):
        evaluation.Evaluator(network.parameters, *layers).evaluate([(X, y, None, 0)], 3)
    with pytest.raises(ValueError, match=r"shape \(20,\); expected .* \(21,\)"):
        evaluation.Evaluator(network.parameters[:20], *layers)
    with pytest.raises(ValueError, match=r"array of int32, .* expected a C-contiguous array of float32"):
        evaluation.Evaluator(network.parameters.view(np.int32), *layers)


def test_read_only_parameters_are_evaluated_by_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """And in place, in many rows too, for which they are packed."""
    ours = Trainer(Network([6, 300, 3]), threads=1)
    few, many = _data("mse", 40, 3), _data("mse", 20_000, 3)
    expected = [ours.evaluate(*data) for data in (few, many)]
    compiled = len(inference.run.signatures), len(inference.pack.signatures)
    ours.network.parameters.flags.writeable = False
    packed: list[Any] = []
    pack = forward.Forward.pack
    monkeypatch.setattr(forward.Forward, "pack", lambda self, *given: packed.append(given[0]) or pack(self, *given))
    assert [ours.evaluate(*data) for data in (few, many)] == expected
    assert packed, "enough rows for packing"
    assert all(each is ours.network.parameters for each in packed)
    assert (len(inference.run.signatures), len(inference.pack.signatures)) == compiled


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_of_other_layouts_are_packed_or_refused(dtype: Any) -> None:
    """The compiled code takes an address and a number of elements on trust."""
    passes = forward.forward_of((6, 9, 3), ("relu", "identity"), np.dtype(dtype))
    parameters = np.random.default_rng(0).standard_normal(93).astype(dtype)
    for given in (parameters, parameters.reshape(31, 3), np.repeat(parameters, 2)[::2], parameters.reshape(3, 31, 1)):
        values = passes.pack(given)
        assert values is not None
        assert (passes.packed().unpack(values) == parameters).all()
    other = np.float64 if dtype == np.float32 else np.float32
    for wrong in (parameters[:92], parameters.astype(other), parameters.view(f"i{parameters.itemsize}"), dtype(1)):
        assert passes.pack(np.asarray(wrong)) is None


def test_means_without_weights_are_those_of_equal_weights() -> None:
    A, y = np.random.default_rng(0).standard_normal((2, 1000, 3)).astype(np.float32)
    plain, weighted = RegressionScores(), RegressionScores()
    plain.add(A, y, None, 0)
    weighted.add(A, y, np.ones(1000), 0)
    assert plain.results() == weighted.results()
