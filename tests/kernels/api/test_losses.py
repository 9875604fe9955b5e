"""The public losses: targets and labels that they take, and those that they refuse."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnet.kernels import (
    accuracy,
    binary_cross_entropy,
    binary_cross_entropy_derivative,
    cross_entropy,
    cross_entropy_derivative,
    huber,
    huber_derivative,
    mae,
    mae_derivative,
    mse,
    mse_derivative,
    softmax,
    variants,
)


def test_mse_takes_vectors_and_matrices_without_broadcasting() -> None:
    assert mse([1, 2], [1, 4]) == 2.0
    assert isinstance(mse([1, 2], [1, 4]), float)
    assert mse_derivative([1, 2], [1, 4]).tolist() == [0.0, 2.0]
    assert mse_derivative(np.zeros((2, 2, 2)), np.ones((2, 2, 2))).shape == (2, 2, 2)
    for function in (mse, mse_derivative):
        with pytest.raises(ValueError, match=r"y_true has shape \(3,\) but y_pred has \(3, 1\)"):
            function(np.ones(3), np.ones((3, 1)))
        with pytest.raises(ValueError, match="y_true is empty"):
            function(np.ones((0, 2)), np.ones((0, 2)))
        with pytest.raises(ValueError, match="single numbers"):
            function(1.0, 2.0)


@pytest.mark.parametrize("variant", variants("mae"))
def test_other_losses_of_numbers(variant: str) -> None:
    targets, outputs = [0.0, 1, 3, -1], [0.5, 3, 3, -2]
    assert mae(targets, outputs, variant=variant) == 3.5 / 4
    assert mae_derivative(targets, outputs, variant=variant).tolist() == [0.25, 0.25, 0, -0.25]
    assert huber(targets, outputs, variant=variant) == 2.125 / 4
    assert huber_derivative(targets, outputs, variant=variant).tolist() == [0.125, 0.25, 0, -0.25]
    yes_no = [[1, 0], [1, 0.5]]
    value = binary_cross_entropy(yes_no, [[0, 0], [1e4, -1e4]], variant=variant)
    assert value == pytest.approx((2 * np.log(2) + 5e3) / 2)
    gradient = binary_cross_entropy_derivative(yes_no, [[0, 0], [1e4, -1e4]], variant=variant)
    assert gradient.tolist() == [[-0.25, 0.25], [0, -0.25]]
    assert binary_cross_entropy_derivative([1, 0], [0.0, 0.0], variant=variant).shape == (2,)


@pytest.mark.parametrize(
    "function",
    [mae, mae_derivative, huber, huber_derivative, binary_cross_entropy, binary_cross_entropy_derivative],
    ids=lambda f: f.__name__,
)
def test_other_losses_check_shapes_as_mse_does(function: Callable[..., Any]) -> None:
    name = "Z" if function.__name__.startswith("binary") else "y_pred"
    with pytest.raises(ValueError, match=rf"y_true has shape \(3,\) but {name} has \(3, 1\)"):
        function(np.ones(3), np.ones((3, 1)))
    with pytest.raises(ValueError, match="y_true is empty"):
        function(np.ones((0, 2)), np.ones((0, 2)))
    with pytest.raises(ValueError, match=f"y_true and {name} are single numbers"):
        function(1.0, 0.5)


@pytest.mark.parametrize("wrong", [-0.001, 1.5, np.inf])
def test_binary_targets_are_checked(wrong: float) -> None:
    for function in (binary_cross_entropy, binary_cross_entropy_derivative):
        with pytest.raises(ValueError, match=r"y_true holds .* in row 1; expected targets from 0 \(no\) to 1 \(yes\)"):
            function([[0, 1], [0.5, wrong]], np.ones((2, 2)))


def test_cross_entropy_takes_labels_or_one_hot_rows(rng: np.random.Generator) -> None:
    Z = rng.standard_normal((4, 3))
    labels = [2, 0, 1, 1]
    for form in (
        labels,
        np.array(labels, "uint8"),
        np.array(labels, float),
        np.eye(3)[labels],
        np.eye(3, dtype=bool)[labels],
    ):
        assert cross_entropy(form, Z) == cross_entropy(labels, Z)
        assert accuracy(form, Z) == accuracy(labels, Z)
        assert (cross_entropy_derivative(form, Z) == cross_entropy_derivative(labels, Z)).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([0, 1, 2, 3], "y_true holds 3 in row 3; expected whole class labels from 0 to 2"),
        ([1, 2, 3, 1], "y_true holds 3 in row 2.*; if they count from 1, use y_true - 1"),
        ([0, 1, -1, 0], "y_true holds -1 in row 2"),
        ([0, 1, 0.5, 0], "y_true holds 0.5 in row 2"),
        ([0, 1, 1e300, 0], r"y_true holds 1e\+300 in row 2"),
        ([0, np.nan, 0, 0], "y_true holds NaN at row 1"),
        ([0, 1, 2], r"y_true has shape \(3,\); expected \(4,\) class labels or \(4, 3\) probabilities"),
        ([[0], [1], [2], [0]], r"use y_true.ravel\(\)"),
        (np.eye(4, 3), r"y_true holds \[0. 0. 0.\] in row 3; expected probabilities of the 3 classes"),
        (np.eye(4, 3) * 2, r"y_true holds \[2. 0. 0.\] in row 0; .* that sum to 1"),
        ([[0.5, 0.5, 0], [1.5, -0.5, 0], [1, 0, 0], [1, 0, 0]], "in row 1; expected .* numbers of 0 or above"),
        ([[0.5, 0.5, 0], [1, 0, 0], [np.nan, 1, 0], [1, 0, 0]], "y_true holds NaN at row 2, column 0"),
    ],
)
def test_labels_are_checked(wrong: Any, message: str) -> None:
    for function in (cross_entropy, cross_entropy_derivative, accuracy):
        with pytest.raises(ValueError, match=message):
            function(wrong, np.ones((4, 3)))
    with pytest.raises(TypeError, match="y_true has dtype <U1; expected class labels"):
        cross_entropy(["a", "b", "c", "a"], np.ones((4, 3)))


@pytest.mark.parametrize("variant", variants("cross_entropy"))
@pytest.mark.parametrize("columns", [2, 50])
def test_a_soft_label_of_zero_leaves_a_masked_output_out(variant: str, columns: int) -> None:
    Z, y = np.zeros((2, columns)), np.full((2, columns), 1 / columns)
    Z[0, 1], y[0] = -np.inf, np.arange(columns) == 0
    expected = (np.log(columns - 1) + np.log(columns)) / 2
    np.testing.assert_allclose(cross_entropy(y, Z, variant=variant), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_soft_labels_are_a_mean_of_labels(dtype: str) -> None:
    """The loss is linear in the target: a soft label's is the mean of its classes' losses, weighted with it."""
    rng = np.random.default_rng(0)
    Z, y = rng.standard_normal((5, 3)), rng.dirichlet(np.ones(3), 5).astype(dtype)
    parts = [[cross_entropy([j], Z[i : i + 1]) for j in range(3)] for i in range(5)]
    tolerance = 1e-3 if dtype == "float16" else 1e-6
    assert cross_entropy(y, Z) == pytest.approx(np.mean(np.sum(y * np.array(parts), axis=1)), rel=tolerance)
    np.testing.assert_allclose(cross_entropy_derivative(y, Z), (softmax(Z) - y) / 5, atol=1e-12)
    assert accuracy(y, Z) == accuracy(y.argmax(axis=1), Z)


def test_outputs_are_checked() -> None:
    with pytest.raises(ValueError, match=r"Z has shape \(3,\); expected two dimensions"):
        softmax(np.ones(3))
    with pytest.raises(ValueError, match="Z is empty"):
        accuracy([], np.ones((0, 3)))
