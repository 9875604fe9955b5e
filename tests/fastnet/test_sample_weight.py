"""Weights of rows: what they do to the gradient, the losses and the batches."""

import numpy as np
import pytest
from backends import random_data

from fastnet import SGD, Network, Trainer


@pytest.mark.parametrize("weight", [1.0, 0.25, 7.0])
def test_equal_sample_weights_change_nothing(weight: float) -> None:
    X, y = random_data(50, (3, 8, 2), "float64")
    plain, weighted = (Trainer(Network((3, 8, 2), dtype="float64"), optimizer=SGD(0.05), batch_size=9) for _ in "ab")
    plain.fit(X, y, 3)
    weighted.fit(X, y, 3, sample_weight=np.full(50, weight))
    np.testing.assert_allclose(weighted.network.parameters, plain.network.parameters, rtol=1e-12)
    np.testing.assert_allclose(weighted.history["loss"], plain.history["loss"], rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_sample_weight_two_equals_two_rows(backend: str) -> None:
    X, y = random_data(10, (3, 4, 2), "float64")
    twice = np.r_[np.arange(10), [3]]
    runs = []
    for chosen, weights in ((np.arange(10), np.where(np.arange(10) == 3, 2.0, 1.0)), (twice, None)):
        ours = Trainer(Network((3, 4, 2), dtype="float64"), optimizer=SGD(0.1), batch_size=None, backend=backend)
        ours.fit(X[chosen], y[chosen], 4, sample_weight=weights)
        runs.append(
            (ours.network.parameters, ours.history["loss"], ours.evaluate(X[chosen], y[chosen], weights)["loss"])
        )
    for one, other in zip(*runs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_batch_of_zero_weight_changes_nothing() -> None:
    X, y = random_data(8, (3, 2), "float64")
    ours = Trainer(Network((3, 2), dtype="float64"), batch_size=4, shuffle=False)
    before = ours.network.parameters.copy()
    ours.fit(X[:4], y[:4], 1, sample_weight=[0, 0, 0, 1])
    moved = ours.network.parameters.copy()
    assert not (moved == before).all()
    ours.fit(X, y, 1, sample_weight=[0, 0, 0, 0, 0, 0, 0, 1])
    assert np.isfinite(ours.network.parameters).all()
