"""The small things of daily use: scores of a regression, drawn seeds, the progress bar, curves."""

import re
import sys
import types

import numpy as np
import pytest

from fastnet import SGD, Network, Trainer
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


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_rows_weighted_with_probabilities_are_soft_labels(backend: str) -> None:
    rng = np.random.default_rng(0)
    X, P = rng.normal(size=(50, 3)), rng.dirichlet(np.ones(4), 50)
    P[:10] = np.eye(4)[0]  # weights of 0 too
    net = Network([3, 4], dtype="float64", seed=1)
    W = net.weights[0].copy()
    Z = X @ W.T
    data = np.repeat(X, 4, axis=0), np.tile(np.arange(4), 50)
    trainer = Trainer(net, "cross_entropy", SGD(0.1), batch_size=None, shuffle=False, backend=backend)
    assert trainer.evaluate(*data, P.ravel())["loss"] == pytest.approx(-np.mean(np.sum(P * np.log(softmax(Z)), axis=1)))
    trainer.fit(*data, epochs=1, sample_weight=P.ravel())
    np.testing.assert_allclose(net.weights[0], W - 0.1 * (softmax(Z) - P).T @ X / 50, rtol=1e-12)


def test_message_about_soft_labels_says_what_to_do() -> None:
    trainer = Trainer(Network([2, 2]), "cross_entropy")
    with pytest.raises(ValueError, match="once for every class, with the probabilities as sample_weight"):
        trainer.fit(np.ones((2, 2)), [[0.9, 0.1], [0.2, 0.8]])
