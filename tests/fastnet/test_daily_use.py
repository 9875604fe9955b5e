"""The small things of daily use: scores of a regression, drawn seeds, the progress bar, curves."""

import re
import sys
import types
from typing import Any

import numpy as np
import pytest

from fastnet import SGD, Adam, Network, Trainer
from fastnet.kernels.reference.losses import softmax


def test_evaluate_measures_regressions_in_their_units() -> None:
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(2500, 3)), 1000 + rng.normal(size=(2500, 2)) * [1, 50], rng.uniform(0, 2, 2500)
    net = Network([3, 2], dtype="float64")
    net.biases[0][...] = 1000
    scores = Trainer(net).evaluate(X, y, w)
    errors = y - net.predict(X)
    mean = np.average(y, axis=0, weights=w)
    r2 = 1 - (w @ errors**2) / (w @ (y - mean) ** 2)
    assert list(scores) == ["loss", "rmse", "r2"]
    assert scores["rmse"] == pytest.approx(np.sqrt(np.average((errors**2).mean(axis=1), weights=w)), rel=1e-12)
    assert scores["rmse"] ** 2 == pytest.approx(scores["loss"], rel=1e-12)
    assert scores["r2"] == pytest.approx(r2.mean(), rel=1e-9)
    assert np.isnan(Trainer(net).evaluate(X, np.ones((2500, 2)))["r2"]), "nothing to explain"
    assert list(Trainer(Network([3, 2]), "cross_entropy").evaluate(X, y[:, 0] > 1000)) == ["loss", "accuracy"]


def test_seed_none_draws_one_that_can_be_used_again() -> None:
    nets = [Network([3, 4, 1], seed=None) for _ in range(2)]
    assert nets[0].seed != nets[1].seed
    assert (Network([3, 4, 1], seed=nets[0].seed).parameters == nets[0].parameters).all()
    trainer = Trainer(nets[0], seed=None)
    assert isinstance(trainer.seed, int)


def test_curves_without_validation_are_those_of_training() -> None:
    history = Trainer(Network([2, 1])).fit(np.ones((4, 2)), np.ones(4), epochs=2)
    assert list(history) == ["loss"]


def test_bar_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    trainer = Trainer(Network([2, 2]), "cross_entropy")
    trainer.fit(X, y, epochs=1000, validation_split=0.5, progress=True)
    lines = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if "%|" in line]
    assert lines
    assert max(map(len, lines)) <= 79
    assert "val_loss=" in lines[-1]


def test_bar_is_shown_in_notebooks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    Trainer(Network([2, 1])).fit(np.ones((4, 2)), np.ones(4), epochs=2)
    assert "2/2" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ soft labels


SOFT_ROWS = 1100  # more than a micro-batch, in batches that end within one


def soft_problem(classes: int) -> tuple[Any, Any]:
    """Inputs and soft labels, among them rows that are one-hot."""
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.full(classes, 0.5), SOFT_ROWS)
    P[:10] = np.eye(classes)[0]
    return rng.normal(size=(SOFT_ROWS, 3)), P


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("classes", [4, 40])
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_soft_labels_move_weights_as_the_equation_says(backend: str, classes: int, shuffle: bool) -> None:
    X, P = soft_problem(classes)
    net = Network([3, classes], dtype="float64", seed=1)
    W = net.weights[0].copy()
    Z = X @ W.T
    trainer = Trainer(net, "cross_entropy", SGD(0.1), batch_size=None, shuffle=shuffle, backend=backend)
    found = trainer.evaluate(X, P)
    assert found["loss"] == pytest.approx(-np.mean(np.sum(P * np.log(softmax(Z)), axis=1)))
    assert found["accuracy"] == np.mean(Z.argmax(axis=1) == P.argmax(axis=1))
    trainer.fit(X, P, epochs=1)
    np.testing.assert_allclose(net.weights[0], W - 0.1 * (softmax(Z) - P).T @ X / SOFT_ROWS, rtol=1e-11)


def test_soft_labels_are_rows_weighted_with_probabilities() -> None:
    X, P = soft_problem(4)
    soft, hard = Network([3, 8, 4], dtype="float64"), Network([3, 8, 4], dtype="float64")
    options = {"loss": "cross_entropy", "optimizer": Adam(0.01), "shuffle": False}
    Trainer(soft, batch_size=50, **options).fit(X, P, epochs=2)
    rows, labels = np.repeat(X, 4, axis=0), np.tile(np.arange(4), SOFT_ROWS)
    Trainer(hard, batch_size=200, **options).fit(rows, labels, epochs=2, sample_weight=P.ravel())
    np.testing.assert_allclose(soft.parameters, hard.parameters, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_one_trainer_takes_labels_soft_ones_and_both(backend: str) -> None:
    """One-hot rows are labels, to the bit; rows to train on may be soft where those of validation are not."""
    X, P = soft_problem(4)
    labels = P.argmax(axis=1)
    nets = [Network([3, 8, 4]) for _ in range(2)]
    for net, y in zip(nets, (labels, np.eye(4)[labels]), strict=True):
        trainer = Trainer(net, "cross_entropy", Adam(), backend=backend)
        history = trainer.fit(X, P, epochs=2, validation_data=(X, y))
        assert history["val_loss"][-1] == trainer.evaluate(X, labels)["loss"]
        trainer.fit(X, y, epochs=1)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


def test_bits_of_soft_labels_are_those_of_any_number_of_threads() -> None:
    X, P = soft_problem(10)
    found = []
    for threads in (1, 3):
        net = Network([3, 300, 10])
        Trainer(net, "cross_entropy", Adam(), batch_size=512, threads=threads).fit(X, P, epochs=3)
        found.append(net.parameters.copy())
    np.testing.assert_array_equal(*found)


def test_remarks_do_not_ask_for_scaled_soft_labels() -> None:
    X, P = soft_problem(4)
    P = np.full_like(P, 0.25) + np.linspace(-1e-4, 1e-4, SOFT_ROWS)[:, None] * [1, -1, 1, -1]
    history = Trainer(Network([3, 4]), "cross_entropy").fit(X, P, epochs=12)
    assert "unit scale" not in history.diagnosis()


def test_soft_labels_that_are_no_probabilities_are_refused() -> None:
    trainer = Trainer(Network([2, 2]), "cross_entropy")
    with pytest.raises(ValueError, match=r"y holds \[0.9 0.2\] in row 1; expected probabilities of the 2 classes"):
        trainer.fit(np.ones((2, 2)), [[0.9, 0.1], [0.9, 0.2]])
