"""The oracle itself: central differences, a step worked by hand, and mutants that the check must reject."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnet.kernels.reference import activations as reference
from fastnet.kernels.reference import layers, losses, optimizers
from fastnet.kernels.specs.losses import LOSS_BY_CODE

STEP = 1e-6


def central(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Central differences of a scalar function, element by element, in float64."""
    slopes = np.empty_like(at)
    for i in np.ndindex(at.shape):
        high, low = at.copy(), at.copy()
        high[i] += STEP
        low[i] -= STEP
        slopes[i] = (function(high) - function(low)) / (2 * STEP)
    return slopes


def agree(analytic: Any, numeric: np.ndarray) -> bool:
    """Written so that NaN fails."""
    return bool(np.max(np.abs(analytic - numeric)) <= 1e-8 * (1 + np.max(np.abs(numeric))))


Z = np.array([-31.0, -5.5, -1.25, -0.3, -1e-3, 1e-3, 0.4, 1.0, 2.5, 7.0, 33.0])  # both sides of relu's corner, tails


@pytest.mark.parametrize("activation", reference.ACTIVATIONS, ids=lambda a: a.name)
def test_activation_derivatives(activation: reference.Activation) -> None:
    numeric = (activation.function(Z + STEP) - activation.function(Z - STEP)) / (2 * STEP)
    assert agree(activation.derivative(Z), numeric)


@pytest.mark.parametrize(
    "mutant",
    [
        (reference.relu, lambda z: np.ones_like(z)),
        (reference.relu, lambda z: (z > 0.01).astype(z.dtype)),
        (reference.tanh, lambda z: 1 - np.tanh(z)),
        (reference.sigmoid, lambda z: reference.sigmoid(z) ** 2),
        (reference.sigmoid, lambda z: np.full_like(z, np.nan)),
        (reference.identity, np.zeros_like),
        (reference.leaky_relu, reference.relu_derivative),
        (reference.gelu, lambda z: reference.gelu(z) / z),
        (reference.gelu, lambda z: reference.gelu_derivative(1.01 * z)),
        (reference.silu, reference.sigmoid),
        (reference.silu, reference.gelu_derivative),
    ],
)
def test_wrong_derivatives_are_rejected(mutant: tuple[Any, Any]) -> None:
    function, derivative = mutant
    assert not agree(derivative(Z), (function(Z + STEP) - function(Z - STEP)) / (2 * STEP))


def test_relu_at_zero_and_nan() -> None:
    assert reference.relu_derivative(np.array([0.0]))[0] == 0
    assert np.isnan(reference.relu(np.array([np.nan]))[0])


def test_activations_at_infinity_and_nan() -> None:
    ends = np.array([-np.inf, np.inf, np.nan, 0.0])
    for function in (reference.gelu, reference.silu):
        np.testing.assert_array_equal(function(ends), [0, np.inf, np.nan, 0])
    for function in (reference.gelu_derivative, reference.silu_derivative):
        np.testing.assert_array_equal(function(ends), [0, 1, np.nan, 0.5])
    np.testing.assert_array_equal(reference.leaky_relu(ends), [-np.inf, np.inf, np.nan, 0])
    assert reference.leaky_relu_derivative(ends)[[0, 1, 3]].tolist() == [0.01, 1, 0.01]


def test_gelu_and_silu_by_hand() -> None:
    """Values from 60-digit arithmetic."""
    np.testing.assert_allclose(reference.gelu(np.array([-6.0, -1.0, 2.5])), GELU, rtol=1e-14)
    np.testing.assert_allclose(reference.silu(np.array([-1.0, 1.0])), [-1 / (1 + np.e), np.e / (1 + np.e)], rtol=1e-15)
    np.testing.assert_allclose(reference.silu(np.array([-100.0])), -100 * np.exp(-100.0), rtol=1e-14)
    assert reference.silu(np.array([-100], np.float32))[0] == np.float32(-100 * np.exp(-100.0)) != 0


GELU = [-5.9195258702261885e-09, -0.15865525393145705, 2.4844758366855597]


def test_saturation_neither_overflows_nor_warns() -> None:
    far = np.array([-1e4, 1e4])
    assert reference.sigmoid(far).tolist() == [0, 1]
    assert reference.sigmoid_derivative(far).tolist() == [0, 0]
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    assert losses.cross_entropy(np.array([0, 0]), logits) == pytest.approx(1e4)
    assert losses.binary_cross_entropy(np.array([[1.0, 0.0], [1.0, 1.0]]), logits) == 5e3
    assert losses.softmax(logits).tolist() == [[1, 0], [0, 1]]


OUTPUTS = np.random.default_rng(1).standard_normal((5, 3))
TARGETS = np.random.default_rng(2).standard_normal((5, 3))
LABELS = np.array([0, 2, 1, 1, 0])


def test_mse_derivative_is_k_times_the_derivative_of_mse() -> None:
    numeric = central(lambda p: float(losses.mse(TARGETS, p)), OUTPUTS)
    assert agree(losses.mse_derivative(TARGETS, OUTPUTS), 3 * numeric)
    assert not agree(losses.mse_derivative(TARGETS, OUTPUTS), numeric)


@pytest.mark.parametrize("name", [spec.name for spec in LOSS_BY_CODE if spec.mean_over_outputs])
def test_derivatives_of_the_means_over_elements(name: str) -> None:
    function, derivative = getattr(losses, name), getattr(losses, f"{name}_derivative")
    targets = TARGETS * 2  # differences on both sides of 1
    assert {True, False} == set((np.abs(OUTPUTS - targets) > 1).ravel().tolist())
    numeric = central(lambda p: float(function(targets, p)), OUTPUTS)
    assert agree(derivative(targets, OUTPUTS), 3 * numeric)
    for wrong in (derivative(targets, OUTPUTS) / 3, -derivative(targets, OUTPUTS), 2 * (OUTPUTS - targets) / 4):
        assert not agree(wrong, 3 * numeric)


def test_binary_cross_entropy_derivative() -> None:
    targets = reference.sigmoid(TARGETS)
    targets[0], targets[1] = 0, 1
    numeric = central(lambda z: float(losses.binary_cross_entropy(targets, z)), OUTPUTS)
    assert agree(losses.binary_cross_entropy_derivative(targets, OUTPUTS), numeric)
    for wrong in (reference.sigmoid(OUTPUTS) / 5, losses.binary_cross_entropy_derivative(targets, OUTPUTS) / 3):
        assert not agree(wrong, numeric)
    plain = -targets * np.log(reference.sigmoid(OUTPUTS)) - (1 - targets) * np.log(reference.sigmoid(-OUTPUTS))
    assert losses.binary_cross_entropy(targets, OUTPUTS) == pytest.approx(plain.sum() / 5, rel=1e-14)


def test_losses_by_hand() -> None:
    y, p = np.array([[0.0, 1.0], [3.0, -1.0]]), np.array([[0.5, 3.0], [3.0, -2.0]])  # d: 1/2, 2, 0, -1
    assert losses.mae(y, p) == 3.5 / 4
    assert losses.mae_derivative(y, p).tolist() == [[0.5, 0.5], [0, -0.5]]
    assert losses.huber(y, p) == (0.125 + 1.5 + 0 + 0.5) / 4
    assert losses.huber_derivative(y, p).tolist() == [[0.25, 0.5], [0, -0.5]]
    assert losses.binary_cross_entropy(np.array([[1.0, 0.0]]), np.zeros((1, 2))) == 2 * np.log(2)


def test_cross_entropy_derivative() -> None:
    numeric = central(lambda z: float(losses.cross_entropy(LABELS, z)), OUTPUTS)
    assert agree(losses.cross_entropy_derivative(LABELS, OUTPUTS), numeric)
    for wrong in (
        losses.softmax(OUTPUTS),  # nothing subtracted
        losses.cross_entropy_derivative(LABELS, OUTPUTS) * 5,  # not averaged
        losses.cross_entropy_derivative((LABELS + 1) % 3, OUTPUTS),  # another label
    ):
        assert not agree(wrong, numeric)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS, ids=lambda a: a.name)
def test_layer_backward(activation: reference.Activation) -> None:
    rng = np.random.default_rng(4)
    X, W, b, weight = (
        rng.standard_normal((4, 3)),
        rng.standard_normal((2, 3)),
        rng.standard_normal(2),
        rng.random((4, 2)),
    )

    def loss(X: np.ndarray = X, W: np.ndarray = W, b: np.ndarray = b) -> float:
        return float(np.sum(weight * layers.dense_forward(X, W, b, activation.function)[0]))

    _, Z = layers.dense_forward(X, W, b, activation.function)
    dW, db, dX = layers.dense_backward_batch(X, Z, weight, W, activation.derivative)
    assert agree(dW, central(lambda w: loss(W=w), W))
    assert agree(db, central(lambda v: loss(b=v), b))
    assert agree(dX, central(lambda x: loss(X=x), X))


def test_a_step_worked_by_hand() -> None:
    """Two samples, 2-2-1, relu, mse, rate 1/2. Every number below was worked out on paper."""
    X, y = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[1.0], [2.0]])
    W1, b1 = np.array([[1.0, 0.0], [-1.0, 1.0]]), np.array([0.5, 0.0])
    W2, b2 = np.array([[2.0, -1.0]]), np.array([1.0])

    A1, Z1 = layers.dense_forward(X, W1, b1, reference.relu)
    assert Z1.tolist() == [[1.5, 1.0], [3.5, -4.0]]
    assert A1.tolist() == [[1.5, 1.0], [3.5, 0.0]]
    A2, Z2 = layers.dense_forward(A1, W2, b2, reference.identity)
    assert A2.tolist() == Z2.tolist() == [[3.0], [8.0]]
    assert losses.mse(y, A2) == (4 + 36) / 2

    dA2 = losses.mse_derivative(y, A2)
    assert dA2.tolist() == [[2.0], [6.0]]
    dW2, db2, dA1 = layers.dense_backward_batch(A1, Z2, dA2, W2, reference.identity_derivative)
    assert dW2.tolist() == [[2 * 1.5 + 6 * 3.5, 2 * 1.0]]
    assert db2.tolist() == [8.0]
    assert dA1.tolist() == [[4.0, -2.0], [12.0, -6.0]]
    dW1, db1, dX = layers.dense_backward_batch(X, Z1, dA1, W1, reference.relu_derivative)
    assert dW1.tolist() == [[4 * 1 + 12 * 3, 4 * 2 - 12 * 1], [-2.0, -4.0]]  # the second neuron was off for sample 2
    assert db1.tolist() == [16.0, -2.0]
    assert dX.tolist() == [[4 * 1 + 2 * 1, -2.0], [12.0, 0.0]]

    velocity = np.zeros(2)
    p = W2.ravel().copy()
    optimizers.sgd_update(p, dW2.ravel(), velocity, 0.5, 0.0, False)
    assert p.tolist() == [2 - 12.0, -1 - 1.0]
    assert velocity.tolist() == [0, 0]


def test_momentum_by_hand() -> None:
    p, v = np.array([1.0]), np.array([0.0])
    for _ in range(2):
        optimizers.sgd_update(p, np.array([4.0]), v, 0.25, 0.5, False)
    assert v.tolist() == [6.0]  # 4, then 0.5 * 4 + 4
    assert p.tolist() == [1 - 1 - 1.5]


def test_nesterov_by_hand() -> None:
    """PyTorch's form: the step is g + mu v with the new v."""
    p, v = np.array([1.0]), np.array([2.0])
    optimizers.sgd_update(p, np.array([4.0]), v, 0.25, 0.5, True)
    assert v.tolist() == [5.0]  # 0.5 * 2 + 4
    assert p.tolist() == [1 - 0.25 * (4 + 0.5 * 5)]


def test_weight_decay_is_decoupled() -> None:
    """AdamW's first step: parameters shrink by rate times decay, whatever the gradient, and move by the rate."""
    for gradient in (1e-3, -1e4):
        p, m, v = np.array([2.0]), np.zeros(1), np.zeros(1)
        optimizers.adam_update(p, np.array([gradient]), m, v, 0.01, 0.9, 0.999, 1e-12, 0.5, 1)
        assert p[0] == pytest.approx(2 - 0.01 * 0.5 * 2 - 0.01 * np.sign(gradient), rel=1e-8)
        assert m[0] == pytest.approx(0.1 * gradient)


def test_adam_first_step_is_the_rate() -> None:
    """Kingma and Ba, section 2.1: the bias-corrected first step has size alpha."""
    for gradient in (1e-3, 5.0, -1e4):
        p, m, v = np.zeros(1), np.zeros(1), np.zeros(1)
        optimizers.adam_update(p, np.array([gradient]), m, v, 0.01, 0.9, 0.999, 1e-12, 0.0, 1)
        assert p[0] == pytest.approx(-0.01 * np.sign(gradient), rel=1e-8)


def test_log_cosh_by_hand() -> None:
    y, p = np.array([[0.0, 1.0], [3.0, -1.0]]), np.array([[0.5, -1.0], [3.0, -2.0]])
    assert losses.log_cosh(y, p) == pytest.approx(np.log(np.cosh(p - y)).mean(), rel=1e-14)
    assert losses.log_cosh(y, p + 1e4) == pytest.approx(1e4 + np.mean(p - y) - np.log(2), rel=1e-14)
    np.testing.assert_allclose(losses.log_cosh_derivative(y, p), np.tanh(p - y) / 2, rtol=1e-15)
