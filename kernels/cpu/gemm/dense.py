"""dense."""

from typing import Any

import numpy as np

from ...jit.call_by_address import call
from ...jit.decorator import jit
from ...llvm.memory import address_and_strides, allocate, array_at, keep_alive, release
from ...specs.activations import RELU
from ..activations import activation_address, apply_activation, derivative_address
from .gemm import gemm_address, gemm_bias_relu, multiply


@jit(internal=True)
def activate_block(dtype: Any, activate: int, z: Any, a: Any, rows: int, columns: int) -> None:
    """A = activation(Z) for ``rows`` rows of ``columns`` elements; z and a are (address, row stride in bytes)."""
    for i in range(rows):
        source = array_at(dtype, z[0] + i * z[1], (columns,))
        call(apply_activation, activate, dtype, (source, array_at(dtype, a[0] + i * a[1], (columns,))))


@jit(internal=True)
def dz_columns(derive: int, Z: Any, dL_dA: Any, dZ: Any, db: Any, col_begin: int, col_end: int) -> None:
    """dZ = dL_dA * activation'(Z) in columns col_begin to col_end, and db, the sums of these columns of dZ.

    Z and dZ are C-contiguous.
    """
    # Views, since Numba checks each index for being negative: 0.8 of the speed.
    z, dl_da, dz, sums = (
        Z[:, col_begin:col_end],
        dL_dA[:, col_begin:col_end],
        dZ[:, col_begin:col_end],
        db[col_begin:col_end],
    )
    for j in range(sums.size):
        sums[j] = 0
    for i in range(z.shape[0]):
        call(apply_activation, derive, Z.dtype, (Z[i, col_begin:col_end], dZ[i, col_begin:col_end]))
        for j in range(sums.size):
            dz[i, j] *= dl_da[i, j]
            sums[j] += dz[i, j]


@jit
def _forward(X: Any, W: Any, b: Any, activate: int, A: Any, Z: Any, place: int) -> None:
    """Compute `dense_forward`; ``activate`` is the address of the activation's kernel, 0 for ReLU.

    Bias and ReLU are applied in registers. Other activations take a pass of their own over Z, which lies in a cache.
    """
    rows, columns = Z.shape
    x, w, z, a = address_and_strides(X), address_and_strides(W), address_and_strides(Z), address_and_strides(A)
    bias = np.ascontiguousarray(b)
    in_place = columns <= 1 or (z[2] == Z.itemsize and a[2] == A.itemsize)
    buffer_bytes = 0 if in_place else rows * columns
    if buffer_bytes > 0:
        z = (allocate(2 * buffer_bytes * Z.itemsize), columns * Z.itemsize, Z.itemsize)
        a = (z[0] + buffer_bytes * Z.itemsize, z[1], z[2])
    fused = (a[0], a[1]) if activate == 0 else (0, 0)
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
    if activate != 0:
        activate_block(Z.dtype, activate, (z[0], z[1]), (a[0], a[1]), rows, columns)
    if buffer_bytes > 0:
        values = array_at(Z.dtype, z[0], (2 * buffer_bytes,))
        for p in range(buffer_bytes):
            Z[p // columns, p % columns] = values[p]
            A[p // columns, p % columns] = values[buffer_bytes + p]
        release(z[0])
    keep_alive(Z)
    keep_alive(A)


def dense_forward(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    """Z (B, k) = X (B, n) W^T (n, k) + b;  A = activation(Z)."""
    activate = 0 if activation == RELU else activation_address(activation, Z.dtype)
    _forward(X, W, b, activate, A, Z, gemm_address(Z.itemsize))


@jit
def _backward(X: Any, Z: Any, dL_dA: Any, W: Any, derive: int, dW: Any, db: Any, dX: Any, place: int) -> None:
    dZ = np.empty(Z.shape, Z.dtype)
    dz_columns(derive, np.ascontiguousarray(Z), dL_dA, dZ, db, 0, Z.shape[1])
    multiply(dZ.T, X, dW, place)
    if dX.size > 0:
        multiply(dZ, W, dX, place)


def dense_backward_batch(X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any) -> None:
    """Compute dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.

    A dX of no elements is not computed: the first layer has nobody to hand it to.
    """
    _backward(X, Z, dL_dA, W, derivative_address(activation, Z.dtype), dW, db, dX, gemm_address(Z.itemsize))
