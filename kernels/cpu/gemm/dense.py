"""Variant `simd`: dense layers whose bias and ReLU are applied in registers.

Other activations take a pass of their own over Z, which is still in cache; to fuse them, each would have to be compiled
into the product. X and W may have any strides; all other arrays are C-contiguous, as `api.layers` makes them.
"""

from typing import Any

import numpy as np
from numba import types

from ...jit.call_by_address import by_address, call, kernel_entry
from ...jit.decorator import jit
from ...llvm.memory import address_and_strides, array_at
from ...specs.activations import RELU
from ...specs.batches import GROUP_ROWS, MICRO_BATCH_ROWS
from ..activations import activation_address, apply_activation, derivative_address
from ..row_parts import sums_parts
from .gemm import ANY_WORK, gemm_address, gemm_bias_relu, matrix_of, plain_product, require_memory, rows_of, transposed
from .operands import NO_ROWS, Product, Shape


@jit(scalar=True)
def forward_product(X: Any, W: Any, b: Any, z: Any, a: Any) -> Any:
    """Return the `Product` Z = X W^T + b; ``z`` and ``a`` are `Rows`, ``a`` is absent if no ReLU is wanted."""
    shape = Shape(X.shape[0], W.shape[0], X.shape[1])
    return Product(shape, matrix_of(X), transposed(matrix_of(W)), z, address_and_strides(b)[0], a)


@jit(internal=True)
def activate_block(dtype: Any, activate: int, z: Any, a: Any, rows: int, columns: int) -> None:
    """A = activation(Z) for ``rows`` rows of ``columns`` elements; z and a are `Rows`."""
    for i in range(rows):
        source = array_at(dtype, z.address + i * z.row_stride, (columns,))
        target = array_at(dtype, a.address + i * a.row_stride, (columns,))
        call(apply_activation, activate, dtype, (source, target))


@jit(internal=True)
def dz_columns(derive: int, Z: Any, dL_dA: Any, dZ: Any, db: Any, scratch: Any, col_begin: int, col_end: int) -> None:
    """dZ = dL_dA * activation'(Z) and its column sums db, in columns col_begin to col_end.

    Z and dZ are C-contiguous; ``derive`` is the address of the derivative's kernel. Each micro-batch is summed from
    zero, in scratch (k,).
    """
    # Views: with offsets Numba checks each index for being negative, which leaves 0.8 of the speed.
    dl_da, dz = dL_dA[:, col_begin:col_end], dZ[:, col_begin:col_end]
    sums, part = db[col_begin:col_end], scratch[col_begin:col_end]
    for j in range(sums.size):
        sums[j] = 0
    for start in range(0, Z.shape[0], MICRO_BATCH_ROWS):
        for j in range(part.size):
            part[j] = 0
        for i in range(start, min(start + MICRO_BATCH_ROWS, Z.shape[0])):
            call(apply_activation, derive, Z.dtype, (Z[i, col_begin:col_end], dZ[i, col_begin:col_end]))
            for j in range(part.size):
                dz[i, j] *= dl_da[i, j]
                part[j] += dz[i, j]
        for j in range(part.size):
            sums[j] += part[j]


@by_address(
    lambda real: (
        *[types.Array(real, 2, "A")] * 2,
        types.Array(real, 1, "A"),
        types.intp,
        *[types.Array(real, 2, "A")] * 2,
        types.intp,
        types.intp,
    )
)
@jit
def _forward(X: Any, W: Any, b: Any, activate: int, A: Any, Z: Any, gemm: int, most: int) -> int:
    """Compute `dense_forward`; ``activate`` is the address of the activation's kernel, 0 for ReLU.

    Return 1, or 0 if memory for packing was lacking; -2, without computing anything, if X, W and b do not fit, b is
    not contiguous, or ``most`` floating-point operations do not suffice.
    """
    if X.shape[1] != W.shape[1] or b.size != W.shape[0] or (b.size > 1 and b.strides[0] != b.itemsize):
        return -2
    if 2 * X.size * W.shape[0] > most:
        return -2
    z, a = rows_of(matrix_of(Z)), rows_of(matrix_of(A))
    found = gemm_bias_relu(Z.dtype, gemm, forward_product(X, W, b, z, a if activate == 0 else NO_ROWS))
    if activate != 0:
        activate_block(Z.dtype, activate, z, a, Z.shape[0], Z.shape[1])
    return 1 if found else 0


_FORWARD: dict[int, tuple[Any, int]] = {}
"""For elements of 4 or 8 bytes, a function that calls `_forward`, and the address of `gemm`."""


def activation_or_relu(activation: int, dtype: Any) -> int:
    """Return the address of an activation's kernel; 0 for ReLU, which the product applies itself."""
    return 0 if activation == RELU else activation_address(activation, dtype)


def dense_forward(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any, most: int = ANY_WORK) -> bool:
    """Z (B, k) = X (B, n) W^T (n, k) + b;  A = activation(Z).

    Return False, without computing anything, if X, W and b do not fit, b is not contiguous, or ``most`` floating-point
    operations do not suffice.
    """
    try:
        call, address = _FORWARD[Z.itemsize]
    except KeyError:
        call, address = _FORWARD[Z.itemsize] = kernel_entry(_forward, Z.dtype), gemm_address(Z.itemsize)
    found = call(X, W, b, activation_or_relu(activation, Z.dtype), A, Z, address, most)
    require_memory(found != 0)
    return bool(found > 0)


@jit(scalar=True)
def backward_products(dZ: Any, X: Any, W: Any, dW: Any, dX: Any) -> Any:
    """Return the `Product` dW = dZ^T X and the `Product` dX = dZ W; dX may be empty."""
    rows, n, k = X.shape[0], X.shape[1], W.shape[0]
    dz = matrix_of(dZ)
    dw = plain_product(transposed(dz), matrix_of(X), rows_of(matrix_of(dW)), Shape(k, n, rows))
    return dw, plain_product(dz, matrix_of(W), rows_of(matrix_of(dX)), Shape(rows, n, k))


@jit
def _backward(addresses: Any, X: Any, Z: Any, dL_dA: Any, W: Any, dZ: Any, scratch: Any, gradients: Any) -> bool:
    """Compute `dense_backward_batch`; addresses: the derivative's kernel and `gemm`; gradients: dW, db, dX."""
    (derive, gemm), (dW, db, dX) = addresses, gradients
    dz_columns(derive, Z, dL_dA, dZ, db, scratch, 0, Z.shape[1])
    dw, dx = backward_products(dZ, X, W, dW, dX)
    found = gemm_bias_relu(Z.dtype, gemm, dw)
    if dX.size > 0:
        found = gemm_bias_relu(Z.dtype, gemm, dx) and found
    return found


@sums_parts(GROUP_ROWS)
def dense_backward_batch(X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any) -> None:
    """dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.

    An empty dX is not computed: the first layer's input gradient is never needed.
    """
    dZ, scratch = np.empty(Z.shape, Z.dtype), np.empty_like(db)
    addresses = derivative_address(activation, Z.dtype), gemm_address(Z.itemsize)
    require_memory(_backward(addresses, X, Z, dL_dA, W, dZ, scratch, (dW, db, dX)))
