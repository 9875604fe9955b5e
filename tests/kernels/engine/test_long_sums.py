"""Sums over many rows, held against float64: the error of a single float32 chain grows with its length."""

from typing import Any

import numpy as np
import pytest

from fastnet.kernels.engine.engine import CpuEngine
from fastnet.kernels.engine.numpy_engine import NumpyEngine
from fastnet.kernels.specs.batches import GROUP_ROWS, MICRO_BATCH_ROWS

TOLERANCE = 1e-6
"""Of the largest element."""


def error(found: Any, expected: Any) -> float:
    return float(np.abs(np.asarray(found, "f8") - expected).max() / np.abs(expected).max())


def check_linear_network(engine: Any, rows: int) -> None:
    """The gradient of a line through `rows` positive numbers, whose every term has the same sign."""
    X = np.random.default_rng(0).random((rows, 1), dtype="f4") + np.float32(0.5)
    y, parameters = np.zeros((rows, 1), "f4"), np.array([1, 0.25], "f4")
    objective, gradient = engine(parameters, (1, 1), (0,), "mse", rows).loss_and_gradient(X, y)
    outputs = X[:, 0] + 0.25
    expected = [2 * np.mean(outputs * X[:, 0], dtype="f8"), 2 * np.mean(outputs, dtype="f8")]
    assert error(gradient, np.array(expected)) < TOLERANCE, gradient
    assert error(objective, np.mean(np.square(outputs), dtype="f8")) < TOLERANCE


@pytest.mark.compiled
@pytest.mark.parametrize("rows", [1 << 24, GROUP_ROWS + 1, 5 * GROUP_ROWS - MICRO_BATCH_ROWS - 7])
def test_gradient_of_16_million_rows(rows: int) -> None:
    check_linear_network(CpuEngine, rows)


@pytest.mark.exhaustive
def test_gradient_of_16_million_rows_in_numpy() -> None:
    check_linear_network(NumpyEngine, 1 << 24)


@pytest.mark.compiled
@pytest.mark.parametrize("rows", [GROUP_ROWS, 3 * GROUP_ROWS + 100])
def test_groups_of_micro_batches_add_up(rows: int) -> None:
    """Whether the last group is whole or not."""
    X, y = np.ones((rows, 3), "f8"), np.zeros((rows, 2), "f8")
    parameters = np.concatenate([np.ones(6), np.zeros(2)])
    _, gradient = CpuEngine(parameters, (3, 2), (0,), "mse", rows).loss_and_gradient(X, y)
    np.testing.assert_allclose(gradient, 6, rtol=1e-13)


@pytest.mark.compiled
@pytest.mark.exhaustive
def test_weighted_sums_of_16_million_rows() -> None:
    """Loss and sum of the sample weights."""
    rows = 1 << 24
    X = np.random.default_rng(0).random((rows, 1), dtype="f4")
    weights = np.full(rows, 0.1)
    engine = CpuEngine(np.array([1, 0.25], "f4"), (1, 1), (0,), "mse", rows)
    engine.train(X, np.zeros((rows, 1), "f4"), weights)
    assert error(engine.plan.totals["weight"], 0.1 * rows) < 1e-9
    assert error(engine.results()["loss"], np.mean(np.square(X + np.float32(0.25)), dtype="f8")) < TOLERANCE
