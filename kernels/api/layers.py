"""The public product and dense layer: validate, allocate the results, call a variant.

Shapes, with one sample per row: X (B, n); W (k, n); b (k,); Z and A (B, k). `activations` states the rules that all
arguments follow.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..cpu.gemm import dense, gemm
from ..jit.target import COMPILES
from ..registry import PARALLEL_MIN_WORK, find
from ..specs.activations import IDENTITY
from ..specs.base import Array
from . import validation
from .activations import DERIVATIVES, FUNCTIONS

_ndarray, _empty = np.ndarray, np.empty
_FLOAT32, _FLOAT64 = validation.FLOATS
_SMALL = 1 << 16
"""Results of fewer elements are allocated before it is known whether the shapes fit."""


def matmul(A: ArrayLike, B: ArrayLike, out: Array | None = None, variant: str = "auto") -> Array:
    """Compute the matrix product C = A B.

    Parameters
    ----------
    A : array_like, shape (M, K)
        Left factor, with any strides: ``A.T`` needs no copy.
    B : array_like, shape (K, N)
        Right factor, with any strides.
    out : ndarray, shape (M, N), optional
        Array that receives the product, of the product's dtype. It may overlap A or B.
    variant : str, default "auto"
        The variant to run.

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
    # For 8 x 8 x 8 NumPy takes 0.9 us and the kernel 0.1 us: what compiled code can check is not checked here.
    if COMPILES and variant == "auto" and type(A) is _ndarray and type(B) is _ndarray and A.ndim == B.ndim == 2:
        dtype = A.dtype
        if dtype is B.dtype and (dtype is _FLOAT32 or dtype is _FLOAT64):
            C = out
            if out is None:
                m, n = len(A), B.shape[1]
                C = _empty((m, n), dtype) if m * n < _SMALL else None
            elif type(out) is not _ndarray or out.dtype is not dtype or out.ndim != 2 or not out.flags.writeable:
                C = None
            if C is not None and gemm.matmul(A, B, C, PARALLEL_MIN_WORK):
                return C
    A, B = validation.floats(A=A, B=B)
    dtype = A.dtype
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0]:
        raise ValueError(f"cannot multiply A {A.shape} by B {B.shape}; expected (M, K) and (K, N)")
    m, n = len(A), B.shape[1]
    multiply = find("matmul", variant, 2 * A.size * n)
    if out is None:
        C = _empty((m, n), dtype)
        multiply(A, B, C)
        return C
    if type(out) is not _ndarray or out.dtype is not dtype or out.shape != (m, n) or not out.flags.writeable:
        _check_out(out, (m, n), dtype)
    if multiply is gemm.matmul:  # it checks for overlapping memory itself
        multiply(A, B, out)
    elif np.may_share_memory(out, A) or np.may_share_memory(out, B):
        C = _empty((m, n), dtype)
        multiply(A, B, C)
        out[...] = C
    else:
        multiply(A, B, np.asarray(out))  # turns a memmap into a plain array: Numba does not accept subclasses
    return out


def _check_out(out: Any, shape: tuple[int, int], dtype: Any) -> None:
    """Reject an ``out`` that cannot receive the product."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray) or out.dtype != dtype:
        arrived = f"an array of {out.dtype}" if type(out) is np.ndarray else f"a {type(out).__name__}"
        raise TypeError(f"out is {arrived}; expected an array of {dtype}, the product's dtype")
    if out.shape != shape or not out.flags.writeable:
        state = "" if out.flags.writeable else ", read-only"
        raise ValueError(f"out has shape {out.shape}{state}; expected a writable array of shape {shape}")


def dense_forward(
    X: ArrayLike, W: ArrayLike, b: ArrayLike, activation: Callable[[Array], Any], variant: str = "auto"
) -> tuple[Array, Array]:
    """Compute one dense layer forward: Z = X W^T + b, A = activation(Z).

    Parameters
    ----------
    X : array_like, shape (B, n)
        A batch, one sample per row.
    W : array_like, shape (k, n)
        Weights, one neuron per row.
    b : array_like, shape (k,)
        Biases.
    activation : callable
        One of this package's activations (`relu` and so on), which is then fused into the layer, or any function of Z
        that returns an array of Z's shape.
    variant : str, default "auto"
        The variant to run.

    Returns
    -------
    A : ndarray, shape (B, k)
        The layer's output.
    Z : ndarray, shape (B, k)
        The activation's input, which `dense_backward_batch` needs.

    Raises
    ------
    TypeError
        If an input is not made of real numbers, or ``activation`` is not callable.
    ValueError
        If the shapes do not fit, or there is no such variant.
    """
    # As in `matmul`, what compiled code can check is not checked here.
    code = _ACTIVATION_CODES.get(id(activation))
    is_auto = COMPILES and variant == "auto"
    if is_auto and type(X) is _ndarray and type(W) is _ndarray and type(b) is _ndarray and code is not None:
        dtype = X.dtype
        is_float = dtype is W.dtype and dtype is b.dtype and (dtype is _FLOAT32 or dtype is _FLOAT64)
        if is_float and X.ndim == W.ndim == 2 and b.ndim == 1 and len(X) * len(W) < _SMALL:
            shape = len(X), len(W)
            A, Z = _empty(shape, dtype), _empty(shape, dtype)
            if dense.dense_forward(X, W, b, code, A, Z, PARALLEL_MIN_WORK):
                return A, Z
    X, W, b = validation.floats(X=X, W=W, b=b)
    _check_layer(X, W)
    if b.shape != W.shape[:1]:
        raise ValueError(f"b has shape {b.shape}; expected ({W.shape[0]},), one bias for each row of W {W.shape}")
    forward = find("dense_forward", variant, 2 * X.size * len(W))
    validation.function("activation", activation)
    X, W, b = np.ascontiguousarray(X), np.ascontiguousarray(W), np.ascontiguousarray(b)
    A, Z = _empty((len(X), len(W)), X.dtype), _empty((len(X), len(W)), X.dtype)
    forward(X, W, b, IDENTITY if code is None else code, A, Z)
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
    """Compute one dense layer backward: dZ = dL_dA * activation'(Z), dW = dZ^T X, db = sum of dZ's rows, dX = dZ W.

    Parameters
    ----------
    X : array_like, shape (B, n)
        The layer's input.
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
        The variant to run.

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
    X, Z, dL_dA, W = validation.floats(X=X, Z=Z, dL_dA=dL_dA, W=W)
    _check_layer(X, W)
    for name, array in (("Z", Z), ("dL_dA", dL_dA)):
        if array.shape != (len(X), len(W)):
            raise ValueError(f"{name} has shape {array.shape}; expected {(len(X), len(W))}, rows of X by rows of W")
    backward = find("dense_backward_batch", variant, 4 * X.size * len(W))
    validation.function("activation_derivative", activation_derivative)
    code = _DERIVATIVE_CODES.get(id(activation_derivative))
    if code is None:
        slope = activation_derivative(Z)
        if np.ndim(slope) != 0:
            slope = _same_shaped("activation_derivative(Z)", slope, Z)
        dL_dA = np.multiply(dL_dA, slope, dtype=Z.dtype, casting="same_kind")
    X, Z = np.ascontiguousarray(X), np.ascontiguousarray(Z)
    dL_dA, W = np.ascontiguousarray(dL_dA), np.ascontiguousarray(W)
    dW, db, dX = np.empty_like(W), np.empty(len(W), W.dtype), np.empty_like(X)
    backward(X, Z, dL_dA, W, IDENTITY if code is None else code, dW, db, dX)
    return dW, db, dX


def _check_layer(X: Array, W: Array) -> None:
    if X.ndim != 2 or W.ndim != 2 or X.shape[1] != W.shape[1]:
        raise ValueError(f"X {X.shape} and W {W.shape} do not fit; expected X (B, n) and W (k, n) with the same n")


def _same_shaped(name: str, value: Any, Z: Array) -> Array:
    array: Array = np.asarray(value)
    if array.shape != Z.shape:
        raise ValueError(f"{name} returned shape {array.shape} for Z {Z.shape}; expected one value for each element")
    return array


# By identity, since a callable need not be hashable.
_ACTIVATION_CODES = {id(function): code for code, function in enumerate(FUNCTIONS)}
_DERIVATIVE_CODES = {id(function): code for code, function in enumerate(DERIVATIVES)}
