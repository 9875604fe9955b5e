"""The equations of batch training in NumPy: the oracle that every kernel is held against.

Imports the standard library and NumPy only. Obvious on purpose, and right for any float dtype: in float64 (or
longdouble) these functions are the truth that a float32 kernel is compared with; in the kernel's own dtype they are
the `reference` rung, which is also what the Trainer runs with ``backend="numpy"``.

Shapes: one sample a row. X (B, n); W (k, n); b (k,); Z and A (B, k). Labels (B,), integers in 0..k-1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# -------------------------------------------------------------------------------------- activations


def identity(Z: Array) -> Array:
    """Z."""
    return Z


def identity_derivative(Z: Array) -> Array:
    """1."""
    return np.ones_like(Z)


def relu(Z: Array) -> Array:
    """max(0, Z)."""
    return np.maximum(Z, 0)


def relu_derivative(Z: Array) -> Array:
    """1 where Z > 0, else 0 (at 0 too: the usual subgradient)."""
    return (Z > 0).astype(Z.dtype)


def tanh(Z: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(Z)


def tanh_derivative(Z: Array) -> Array:
    """1 - tanh(Z)^2."""
    return 1 - np.tanh(Z) ** 2


def sigmoid(Z: Array) -> Array:
    """1 / (1 + exp(-Z)), from the exponential that cannot overflow."""
    e = np.exp(-np.abs(Z))
    return np.where(Z < 0, e, 1) / (1 + e)


def sigmoid_derivative(Z: Array) -> Array:
    """S (1 - S), where S = sigmoid(Z)."""
    return sigmoid(Z) * sigmoid(-Z)  # 1 - S cancels for large Z; sigmoid(-Z) is the same without


def leaky_relu(Z: Array) -> Array:
    """Z where Z > 0, else Z / 100."""
    return np.where(Z > 0, Z, Z * Z.dtype.type(0.01))


def leaky_relu_derivative(Z: Array) -> Array:
    """1 where Z > 0, else 1 / 100 (at 0 too)."""
    return np.where(Z > 0, Z.dtype.type(1), Z.dtype.type(0.01))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal_below(Z: Array) -> Array:
    """Phi(Z) = (1 + erf(Z / sqrt 2)) / 2, the share of the normal distribution below Z.

    By erfc, so that tails keep digits, and through float64 whatever the dtype, since NumPy has no erf: of a longdouble
    Z the result is right to a few roundings of float64, in the lower tail to (1 + Z^2) of them.
    """
    result: Array = 0.5 * _erfc(Z * -math.sqrt(0.5))
    return result.astype(Z.dtype)


def gelu(Z: Array) -> Array:
    """Z Phi(Z) = Z/2 (1 + erf(Z / sqrt 2)); Phi is the normal distribution (Hendrycks and Gimpel 2016, exact form)."""
    return np.maximum(Z, -40) * _normal_below(Z)  # Phi(-40) is 0 already, and 0 times infinity would be NaN


def gelu_derivative(Z: Array) -> Array:
    """Phi(Z) + Z phi(Z), where phi is the normal density."""
    near = np.clip(Z, -150, 150)  # phi is 0 beyond, and infinity times 0 would be NaN
    return _normal_below(Z) + near * np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi)


def silu(Z: Array) -> Array:
    """Z sigmoid(Z) (Hendrycks and Gimpel 2016).

    Below 0 as Z e^(Z/2) e^(Z/2) / (1 + e^Z), where the last product alone may underflow: sigmoid(-100) has two
    digits in float32. Clipped where that is 0, since 0 times infinity would be NaN.
    """
    half = np.exp(-np.abs(Z) / 2)
    return np.where(Z < 0, np.clip(Z, -800, 0) * half * half, Z) / (1 + half * half)


def silu_derivative(Z: Array) -> Array:
    """S (1 + Z (1 - S)), where S = sigmoid(Z)."""
    S = sigmoid(Z)
    return S + np.clip(Z, -800, 800) * S * sigmoid(-Z)  # clipped where S (1 - S) is 0: 0 times infinity would be NaN


class Activation(NamedTuple):
    """An activation, elementwise, and its derivative with respect to Z."""

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


ACTIVATIONS = (
    Activation("identity", identity, identity_derivative),
    Activation("relu", relu, relu_derivative),
    Activation("tanh", tanh, tanh_derivative),
    Activation("sigmoid", sigmoid, sigmoid_derivative),
    Activation("leaky_relu", leaky_relu, leaky_relu_derivative),
    Activation("gelu", gelu, gelu_derivative),
    Activation("silu", silu, silu_derivative),
)
"""An activation's place here is the integer code by which compiled kernels choose it."""

# ------------------------------------------------------------------------------------------- layers


def matmul(A: Array, B: Array) -> Array:
    """C = A B."""
    return A @ B


def dense_forward(X: Array, W: Array, b: Array, activation: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Z = X W^T + b;  A = activation(Z).  Returns (A, Z)."""
    Z = X @ W.T + b
    return activation(Z), Z


def dense_backward_batch(
    X: Array, Z: Array, dL_dA: Array, W: Array, activation_derivative: Callable[[Array], Array]
) -> tuple[Array, Array, Array]:
    """dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.  Returns (dW, db, dX)."""
    dZ = dL_dA * activation_derivative(Z)
    return dZ.T @ X, np.sum(dZ, axis=0), dZ @ W


# ------------------------------------------------------------------------------------------- losses


def mse(y_true: Array, y_pred: Array) -> Any:
    """Mean over all elements of (y_pred - y_true)^2."""
    return np.mean((y_pred - y_true) ** 2)


def mse_derivative(y_true: Array, y_pred: Array) -> Array:
    """2 (y_pred - y_true) / B.  With k outputs, k times the derivative of `mse`."""
    return 2 * (y_pred - y_true) / y_true.shape[0]


def mae(y_true: Array, y_pred: Array) -> Any:
    """Mean over all elements of |y_pred - y_true|."""
    return np.mean(np.abs(y_pred - y_true))


def mae_derivative(y_true: Array, y_pred: Array) -> Array:
    """sign(y_pred - y_true) / B, 0 at 0.  With k outputs, k times the derivative of `mae`."""
    return np.sign(y_pred - y_true) / y_true.shape[0]


def huber(y_true: Array, y_pred: Array) -> Any:
    """Mean over all elements of d^2/2 where |d| <= 1, else |d| - 1/2, of d = y_pred - y_true (Huber 1964, delta 1)."""
    d = y_pred - y_true
    return np.mean(np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5))


def huber_derivative(y_true: Array, y_pred: Array) -> Array:
    """d / B where |d| <= 1, else sign(d) / B.  With k outputs, k times the derivative of `huber`."""
    return np.clip(y_pred - y_true, -1, 1) / y_true.shape[0]


def binary_cross_entropy(y_true: Array, Z: Array) -> Any:
    """Mean over rows of the row's sum of -y log S - (1 - y) log(1 - S), S = sigmoid(Z), so that nothing overflows."""
    return np.mean(np.sum(np.maximum(Z, 0) - Z * y_true + np.log1p(np.exp(-np.abs(Z))), axis=1))


def binary_cross_entropy_derivative(y_true: Array, Z: Array) -> Array:
    """(sigmoid(Z) - y_true) / B."""
    return (sigmoid(Z) - y_true) / Z.shape[0]


def softmax(Z: Array) -> Array:
    """exp(Z) / sum of the row's exp(Z), shifted by the row's largest so that nothing overflows."""
    E = np.exp(Z - np.max(Z, axis=1, keepdims=True))
    return E / np.sum(E, axis=1, keepdims=True)


def cross_entropy(labels: Array, Z: Array) -> Any:
    """Mean over rows of -log softmax(Z)[label] = log sum exp(Z) - Z[label], shifted as in `softmax`."""
    top = np.max(Z, axis=1)
    log_sum = np.log(np.sum(np.exp(Z - top[:, None]), axis=1))
    return np.mean(log_sum + (top - Z[np.arange(len(Z)), labels]))


def cross_entropy_derivative(labels: Array, Z: Array) -> Array:
    """(softmax(Z) - one_hot(labels)) / B."""
    D = softmax(Z)
    D[np.arange(len(Z)), labels] -= 1
    return D / len(Z)


def accuracy(labels: Array, Z: Array) -> Any:
    """Share of the rows whose largest output stands at the label (the first of equals; NaN counts as largest)."""
    return np.mean(np.argmax(Z, axis=1) == labels)


# ------------------------------------------------------------------------------------------ updates


def sgd_update(
    parameters: Array,
    gradient: Array,
    velocity: Array,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
) -> None:
    """v <- momentum v + g;  p <- p - learning_rate v, with nesterov p <- p - learning_rate (g + momentum v).

    In place; with momentum 0, v is left alone. Nesterov's form is PyTorch's (Sutskever et al. 2013).
    """
    if momentum == 0:
        parameters -= learning_rate * gradient
        return
    velocity *= momentum
    velocity += gradient
    parameters -= learning_rate * (gradient + momentum * velocity if nesterov else velocity)


def adam_update(
    parameters: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    step: int,
) -> None:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1); step counts from 1.  In place.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
    p <- p - learning_rate weight_decay p, decoupled (AdamW, Loshchilov and Hutter 2019, in PyTorch's form)
    p <- p - learning_rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
    """
    mean *= beta1
    mean += (1 - beta1) * gradient
    square *= beta2
    square += (1 - beta2) * gradient**2
    parameters *= 1 - learning_rate * weight_decay
    corrected_mean = mean / (1 - beta1**step)
    corrected_square = square / (1 - beta2**step)
    parameters -= learning_rate * corrected_mean / (np.sqrt(corrected_square) + epsilon)
