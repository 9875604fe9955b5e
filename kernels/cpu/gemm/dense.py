"""dense."""

from typing import Any

import numpy as np

from ...jit.decorator import jit
from ...llvm.memory import address_and_strides, allocate, array_at, keep_alive, release
from ...specs.codes import RELU
from ..activations import apply_activation, apply_derivative
from .gemm import gemm_address, gemm_bias_relu, multiply


@jit(internal=True)
def activate_block(activation: int, Z: Any, A: Any, row_begin: int, row_end: int, left: int, right: int) -> None:
    """A = activation(Z) in rows top to bottom and columns left to right."""
    for i in range(row_begin, row_end):
        apply_activation(activation, Z[i, left:right], A[i, left:right])


@jit(internal=True)
def dz_columns(activation: int, Z: Any, dL_dA: Any, dZ: Any, db: Any, left: int, right: int) -> None:
    """dZ = dL_dA * activation'(Z) and db, the sums of its columns from the first row on, in columns left to right."""
    # Views, since Numba asks of every index that may be negative for all it knows whether it is: 0.8 of the speed.
    z, dl_da, dz, sums = Z[:, left:right], dL_dA[:, left:right], dZ[:, left:right], db[left:right]
    for j in range(sums.size):
        sums[j] = 0
    for i in range(z.shape[0]):
        apply_derivative(activation, z[i], dz[i])
        for j in range(sums.size):
            dz[i, j] *= dl_da[i, j]
            sums[j] += dz[i, j]


@jit
def _forward(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any, place: int) -> None:
    """Do as `dense_forward` says.

    Bias and ReLU are applied in registers. Other activations take a pass of their own over Z, which lies in
    some cache; between the loops of `gemm_bias_relu`, every product would have to compile them.
    """
    rows, columns = Z.shape
    x, w, z, a = address_and_strides(X), address_and_strides(W), address_and_strides(Z), address_and_strides(A)
    bias = np.ascontiguousarray(b)
    in_place = columns <= 1 or (z[2] == Z.itemsize and a[2] == A.itemsize)
    buffer_bytes = 0 if in_place else rows * columns
    if buffer_bytes > 0:
        z = (allocate(2 * buffer_bytes * Z.itemsize), columns * Z.itemsize, Z.itemsize)
        a = (z[0] + buffer_bytes * Z.itemsize, z[1], z[2])
    fused = (a[0], a[1]) if activation == RELU else (0, 0)
    gemm_bias_relu(
        Z.dtype,
        place,
        rows,
        columns,
        X.shape[1],
        x,
        (w[0], w[2], w[1]),
        (z[0], z[1]),
        address_and_strides(bias)[0],
        fused,
    )
    keep_alive(bias)
    if buffer_bytes > 0:
        values = array_at(Z.dtype, z[0], (2 * buffer_bytes,))
        for p in range(buffer_bytes):
            Z[p // columns, p % columns] = values[p]
            A[p // columns, p % columns] = values[buffer_bytes + p]
        release(z[0])
    if activation != RELU:
        activate_block(activation, Z, A, 0, rows, 0, columns)


def dense_forward(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    """Z (B, k) = X (B, n) W^T (n, k) + b;  A = activation(Z)."""
    _forward(X, W, b, activation, A, Z, gemm_address(Z.itemsize))


@jit
def _backward(X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any, place: int) -> None:
    dZ = np.empty(Z.shape, Z.dtype)
    dz_columns(activation, Z, dL_dA, dZ, db, 0, Z.shape[1])
    multiply(dZ.T, X, dW, place)
    if dX.size > 0:
        multiply(dZ, W, dX, place)


def dense_backward_batch(X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any) -> None:
    """Compute dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.

    A dX of no elements is not computed: the first layer has nobody to hand it to.
    """
    _backward(X, Z, dL_dA, W, activation, dW, db, dX, gemm_address(Z.itemsize))
