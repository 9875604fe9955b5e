"""The public kernel functions: check at the door, allocate the result, call a variant. Layers and activations.

Imports `doors`, `elementwise` for the codes, `promises` and `variants`. Losses are in `scores`, parameter updates in
`updates`. Names and shapes are the article-style ones: one sample a row, X (B, n), W (k, n), b (k,), Z and A (B, k).
Everywhere: float32 and float64 are taken as they are, mixed floats promote, integers become float64, lists and
arrays of any strides are converted; NaN and infinity pass through the arithmetic. ``variant`` names a rung, "auto" the
promoted one for the size at hand; `variants` lists them.
"""

from __future__ import annotations  # so that help() shows ArrayLike by its name

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import doors, elementwise
from .promises import Array
from .variants import find

# ------------------------------------------------------------------------------------------- layers


def matmul(A: ArrayLike, B: ArrayLike, out: Array | None = None, variant: str = "auto") -> Array:
    """Matrix product, C = A B.

    Parameters
    ----------
    A : array_like, shape (M, K)
        Left factor, of any strides: ``A.T`` costs no copy.
    B : array_like, shape (K, N)
        Right factor, of any strides.
    out : ndarray, shape (M, N), optional
        Where to put the product, of the product's dtype. It may overlap A or B.
    variant : str, default "auto"
        The rung to run.

    Returns
    -------
    ndarray, shape (M, N)
        ``out``, or a new array.

    Raises
    ------
    TypeError
        If an input is not made of real numbers, or ``out`` is not an array of the right dtype.
    ValueError
        If the shapes do not fit, ``out`` cannot be written, or there is no such variant.
    """
    # At 8 cubed the product takes 0.4 us and NumPy's 0.9: the door decides. What is right already passes by identity.
    if type(A) is not np.ndarray or type(B) is not np.ndarray or A.dtype is not B.dtype or A.dtype not in doors.FLOATS:
        A, B = doors.floats(A=A, B=B)
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0]:
        raise ValueError(f"cannot multiply A {A.shape} by B {B.shape}; expected (M, K) and (K, N)")
    multiply = find("matmul", variant, 2 * A.size * B.shape[1])
    shape = (A.shape[0], B.shape[1])
    if out is None:
        C = np.empty(shape, A.dtype)
        multiply(A, B, C)
        return C
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray) or out.dtype != A.dtype:
        arrived = f"an array of {out.dtype}" if type(out) is np.ndarray else f"a {type(out).__name__}"
        raise TypeError(f"out is {arrived}; expected an array of {A.dtype}, the product's dtype")
    if out.shape != shape or not out.flags.writeable:
        state = "" if out.flags.writeable else ", read-only"
        raise ValueError(f"out has shape {out.shape}{state}; expected a writable array of shape {shape}")
    if np.may_share_memory(out, A) or np.may_share_memory(out, B):
        C = np.empty(shape, A.dtype)
        multiply(A, B, C)
        out[...] = C
    else:
        multiply(A, B, np.asarray(out))  # a memmap's plain array: Numba knows no subclasses
    return out


def dense_forward(
    X: ArrayLike, W: ArrayLike, b: ArrayLike, activation: Callable[[Array], Any], variant: str = "auto"
) -> tuple[Array, Array]:
    """One dense layer, forward: Z = X W^T + b, A = activation(Z).

    Parameters
    ----------
    X : array_like, shape (B, n)
        A batch, one sample a row.
    W : array_like, shape (k, n)
        Weights, one neuron a row.
    b : array_like, shape (k,)
        Biases.
    activation : callable
        One of this package's activations (`identity`, `relu`, `tanh`, `sigmoid`, `leaky_relu`, `gelu`,
        `silu`), which is then fused into the layer, or any function of Z.
    variant : str, default "auto"
        The rung to run.

    Returns
    -------
    A : ndarray, shape (B, k)
        The layer's output.
    Z : ndarray, shape (B, k)
        What the activation was applied to; `dense_backward_batch` needs it.

    Raises
    ------
    TypeError
        If an input is not made of real numbers, or ``activation`` is not callable.
    ValueError
        If the shapes do not fit, or there is no such variant.
    """
    X, W, b = doors.floats(X=X, W=W, b=b)
    _check_layer(X, W)
    if b.shape != W.shape[:1]:
        raise ValueError(f"b has shape {b.shape}; expected ({W.shape[0]},), one bias for each row of W {W.shape}")
    forward = find("dense_forward", variant, 2 * X.size * len(W))
    doors.function("activation", activation)
    code = _ACTIVATION_CODES.get(id(activation))
    X, W, b = (np.ascontiguousarray(array) for array in (X, W, b))
    A, Z = (np.empty((len(X), len(W)), X.dtype) for _ in range(2))
    forward(X, W, b, elementwise.IDENTITY if code is None else code, A, Z)
    if code is None:
        A = _same_shaped("activation(Z)", activation(Z), Z)
    return A, Z


def dense_backward_batch(
    X: ArrayLike,
    Z: ArrayLike,
    dL_dA: ArrayLike,
    W: ArrayLike,
    activation_derivative: Callable[[Array], Any],
    variant: str = "auto",
) -> tuple[Array, Array, Array]:
    """One dense layer, backward: dZ = dL_dA * activation'(Z), dW = dZ^T X, db = sum of dZ's rows, dX = dZ W.

    Parameters
    ----------
    X : array_like, shape (B, n)
        The batch that went into the layer.
    Z : array_like, shape (B, k)
        As returned by `dense_forward`.
    dL_dA : array_like, shape (B, k)
        Gradient of the loss with respect to the layer's output.
    W : array_like, shape (k, n)
        Weights.
    activation_derivative : callable
        One of this package's derivatives (`relu_derivative` and so on), which is then fused into the
        layer, or any function of Z that returns an array of Z's shape or a number.
    variant : str, default "auto"
        The rung to run.

    Returns
    -------
    dW : ndarray, shape (k, n)
        Gradient with respect to the weights, summed over the batch.
    db : ndarray, shape (k,)
        Gradient with respect to the biases.
    dX : ndarray, shape (B, n)
        Gradient with respect to the layer's input: the ``dL_dA`` of the layer before.

    Raises
    ------
    TypeError
        If an input is not made of real numbers, or ``activation_derivative`` is not callable.
    ValueError
        If the shapes do not fit, or there is no such variant.
    """
    X, Z, dL_dA, W = doors.floats(X=X, Z=Z, dL_dA=dL_dA, W=W)
    _check_layer(X, W)
    for name, array in (("Z", Z), ("dL_dA", dL_dA)):
        if array.shape != (len(X), len(W)):
            raise ValueError(f"{name} has shape {array.shape}; expected {(len(X), len(W))}, rows of X by rows of W")
    backward = find("dense_backward_batch", variant, 4 * X.size * len(W))
    doors.function("activation_derivative", activation_derivative)
    code = _DERIVATIVE_CODES.get(id(activation_derivative))
    if code is None:
        slope = activation_derivative(Z)
        if np.ndim(slope) != 0:
            slope = _same_shaped("activation_derivative(Z)", slope, Z)
        dL_dA = np.multiply(dL_dA, slope, dtype=Z.dtype, casting="same_kind")
    X, Z, dL_dA, W = (np.ascontiguousarray(array) for array in (X, Z, dL_dA, W))
    dW, db, dX = np.empty_like(W), np.empty(len(W), W.dtype), np.empty_like(X)
    backward(X, Z, dL_dA, W, elementwise.IDENTITY if code is None else code, dW, db, dX)
    return dW, db, dX


def _check_layer(X: Array, W: Array) -> None:
    if X.ndim != 2 or W.ndim != 2 or X.shape[1] != W.shape[1]:
        raise ValueError(f"X {X.shape} and W {W.shape} do not fit; expected X (B, n) and W (k, n) with the same n")


def _same_shaped(name: str, value: Any, Z: Array) -> Array:
    array: Array = np.asarray(value)
    if array.shape != Z.shape:
        raise ValueError(f"{name} returned shape {array.shape} for Z {Z.shape}; expected one value for each element")
    return array


# -------------------------------------------------------------------------------------- activations


def _elementwise(operation: str, Z: ArrayLike, variant: str) -> Array:
    (Z,) = doors.floats(Z=Z)
    flat = np.ascontiguousarray(Z).reshape(-1)
    out = np.empty_like(flat)
    find(operation, variant, flat.size)(flat, out)
    shaped: Array = out.reshape(Z.shape)[()]  # a number for a number, as NumPy does it
    return shaped


def identity(Z: ArrayLike, variant: str = "auto") -> Array:
    """Z itself, copied; any shape."""
    return _elementwise("identity", Z, variant)


def identity_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 for every element of Z; any shape."""
    return _elementwise("identity_derivative", Z, variant)


def relu(Z: ArrayLike, variant: str = "auto") -> Array:
    """max(0, Z), elementwise; any shape. NaN stays NaN."""
    return _elementwise("relu", Z, variant)


def relu_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 where Z > 0, else 0 (at 0 too: the usual subgradient), in Z's dtype; any shape."""
    return _elementwise("relu_derivative", Z, variant)


def tanh(Z: ArrayLike, variant: str = "auto") -> Array:
    """Hyperbolic tangent, elementwise; any shape."""
    return _elementwise("tanh", Z, variant)


def tanh_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 - tanh(Z)^2, elementwise; any shape."""
    return _elementwise("tanh_derivative", Z, variant)


def sigmoid(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 / (1 + exp(-Z)), elementwise, without overflow; any shape."""
    return _elementwise("sigmoid", Z, variant)


def sigmoid_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """S (1 - S) with S = sigmoid(Z), elementwise; any shape."""
    return _elementwise("sigmoid_derivative", Z, variant)


def leaky_relu(Z: ArrayLike, variant: str = "auto") -> Array:
    """Z where Z > 0, else Z / 100, elementwise; any shape."""
    return _elementwise("leaky_relu", Z, variant)


def leaky_relu_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """1 where Z > 0, else 1 / 100 (at 0 too), in Z's dtype; any shape."""
    return _elementwise("leaky_relu_derivative", Z, variant)


def gelu(Z: ArrayLike, variant: str = "auto") -> Array:
    """Z/2 (1 + erf(Z / sqrt 2)), the exact form, elementwise; any shape."""
    return _elementwise("gelu", Z, variant)


def gelu_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """Phi(Z) + Z phi(Z), elementwise, where Phi is the normal distribution and phi its density; any shape."""
    return _elementwise("gelu_derivative", Z, variant)


def silu(Z: ArrayLike, variant: str = "auto") -> Array:
    """Z sigmoid(Z), elementwise; any shape."""
    return _elementwise("silu", Z, variant)


def silu_derivative(Z: ArrayLike, variant: str = "auto") -> Array:
    """S (1 + Z (1 - S)) with S = sigmoid(Z), elementwise; any shape."""
    return _elementwise("silu_derivative", Z, variant)


# By identity, since a callable need not be hashable.
_ACTIVATION_CODES = {
    id(identity): elementwise.IDENTITY,
    id(relu): elementwise.RELU,
    id(tanh): elementwise.TANH,
    id(sigmoid): elementwise.SIGMOID,
    id(leaky_relu): elementwise.LEAKY_RELU,
    id(gelu): elementwise.GELU,
    id(silu): elementwise.SILU,
}
_DERIVATIVE_CODES = {
    id(identity_derivative): elementwise.IDENTITY,
    id(relu_derivative): elementwise.RELU,
    id(tanh_derivative): elementwise.TANH,
    id(sigmoid_derivative): elementwise.SIGMOID,
    id(leaky_relu_derivative): elementwise.LEAKY_RELU,
    id(gelu_derivative): elementwise.GELU,
    id(silu_derivative): elementwise.SILU,
}
