"""Divergence: Trainer.fit notices it wherever it shows, warns once, and leaves the best finite parameters."""

import math

import numpy as np
import pytest
from backends import X, Y, trainer

from fastnet import SGD, Adam, Network, Trainer
from fastnet.fit_session import FitSession
from fastnet.trainer import DivergenceWarning


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_divergence_warns_once_and_keeps_the_best_finite_parameters(backend: str) -> None:
    ours = trainer(optimizer=SGD(1e6), backend=backend)
    start = ours.network.parameters.copy()
    before = ours.evaluate(X, Y)["loss"]
    with pytest.warns(DivergenceWarning, match="training diverged in epoch .*lower learning rate") as caught:
        history = ours.fit(X, Y, epochs=500)
    assert len(caught) == 1
    assert history.epochs < 500
    assert not math.isfinite(history["loss"][-1]) or history.epochs == 1
    assert np.isfinite(ours.network.parameters).all()
    assert ours.evaluate(X, Y)["loss"] <= before
    if history.best_epoch is None:
        assert (ours.network.parameters == start).all()


def test_an_error_after_divergence_leaves_finite_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Ctrl-C while the epoch that diverged is validated."""
    right, diverging = FitSession._validated, trainer(optimizer=SGD(1e200))

    def interrupted(session: FitSession) -> dict[str, float]:
        if diverging._state.step[0] > 0:
            assert not np.isfinite(diverging.network.parameters).all()
            raise KeyboardInterrupt
        return right(session)

    monkeypatch.setattr(FitSession, "_validated", interrupted)
    before = diverging.network.parameters.copy()
    with pytest.raises(KeyboardInterrupt):
        diverging.fit(X, Y, epochs=1, validation_data=(X, Y))
    np.testing.assert_array_equal(diverging.network.parameters, before)


def test_divergence_in_full_batch_keeps_the_best_parameters() -> None:
    ours = trainer(optimizer=SGD(5.0), batch_size=None)
    with pytest.warns(DivergenceWarning):
        history = ours.fit(X, Y, epochs=500)
    assert ours.evaluate(X, Y)["loss"] == pytest.approx(np.nanmin(history["loss"]), rel=1e-12)


def test_divergence_of_the_validation_loss() -> None:
    ours = trainer(optimizer=SGD(1e-3))
    with pytest.warns(DivergenceWarning, match="epoch 1"):
        ours.fit(X, Y, epochs=5, validation_data=(np.full((2, 3), 1e200), Y[:2]))
    assert ours.history.epochs == 1


def test_divergence_in_the_last_step_is_noticed() -> None:
    ours = trainer((1, 1), optimizer=SGD(1e300), batch_size=None)
    with pytest.warns(RuntimeWarning, match="diverged in epoch 1"):
        history = ours.fit([[1e10]], [-1e10], epochs=1)
    assert math.isfinite(history["loss"][0])
    assert np.isfinite(ours.network.parameters).all()


@pytest.mark.compiled
def test_infinite_gradient_norm_is_divergence() -> None:
    for backend in ("numpy", "cpu"):
        ours = Trainer(Network((1, 1), dtype="float64"), optimizer=SGD(0.1), clip_norm=1, backend=backend)
        with pytest.warns(DivergenceWarning):
            ours.fit([[1e200]], [-1e200], 2)


def test_infinite_optimizer_state_is_divergence() -> None:
    ours = Trainer(Network((1, 1)), optimizer=Adam(), batch_size=None)
    with pytest.warns(DivergenceWarning):
        ours.fit(np.full((4, 1), 1e3), np.full((4, 1), 1e18), 3)
    assert np.isfinite(ours._state.vectors).all()
