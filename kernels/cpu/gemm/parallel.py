"""Rung 4, `parallel`: the simd rung's products, cut into pieces that several threads work off.

Imports `simd`, `microkernel`, `threads` and `_jit`. What changed from simd: C is cut by rows and columns into a few
pieces a thread, and each piece is a product of its own, packing included. Why that is faster: every core brings
its own FMA units and L2. What it costs: 1 us a call while the workers are awake, 5 when they must be woken, so small
work is handed to simd; what several pieces need is packed by each of them; half a second more of compilation.

**Same bits as simd, for any number of threads.** An element of C depends on K alone, not on where a piece
begins (see `simd`), so cutting rows and columns changes nothing; K is never cut. db is summed in columns, each
from its first row to its last by whoever has the column.

Why pieces do not share what is packed: they would have to wait for each other, and whoever works alone would
wait for ever. Instead the cut is along the side that is packed.

What was measured (2 cores of a Zen 4 or 5 shared with others, float32, simd's time / this one's with `matmul` called
from Python, best and, at times of little load, median): 96 cubed 1.7, 1.2; 128 cubed 1.8, 1.3; 256 cubed 1.96, 1.9;
512, 1024 and 2048 cubed 1.95 to 2.0, 1.9; A.T and B.T alike.
"""

from typing import Any

import numpy as np

from ...jit.decorator import jit
from ...llvm.builder import VECTOR
from ...llvm.memory import address_and_strides, item_bytes, keep_alive
from ...specs.activations import RELU
from ..activations import activation_address, derivative_address
from ..threads.pool import POOL, num_threads, parallel_for
from . import blocking, dense, gemm
from .microkernel import MR, NV

SERIAL_MAX_FLOPS = 1_500_000
"""Products of fewer floating-point operations stay serial. Gains of simd's time, at best and with the other core
busy: 64 cubed, 0.5 million, 1.2 and 0.8; 80 cubed, 1 million, 1.4 and 0.9; 96 cubed, 1.8 million, 1.65 and 0.95."""

TASKS_PER_THREAD = 2
"""Pieces a thread, so that a thread that lost its core for a while holds up nobody."""

PACK_B_COST_ROWS = 3
"""Copying a part of B costs as much as this many rows of the product."""

PACK_A_COST_COLUMNS = 30
"""Copying a part of A.T costs as much as this many columns: it is read across, 48 elements a row. With 3, A.T is cut by
columns and copied by every piece: two threads gain 1.83 at 1024 cubed, not 1.97, and 1.57 at 256,4096,256, not 2.07."""


# ------------------------------------------------------------------------------------------ the cutting


@jit(internal=True)
def partition(dtype: Any, m: int, n: int, k: int, tasks: int, a: Any, b: Any) -> Any:
    """Rows and columns of pieces, whose product is at most ``pieces``, that C (m, n) = A (m, k) B (k, n) is cut into.

    The cut whose largest piece takes least time: its tiles, and what it packs of A and B.
    """
    item = item_bytes(dtype)
    nr = NV * VECTOR // item
    heights, widths = -(-m // MR), -(-n // nr)
    pack_a = PACK_A_COST_COLUMNS if a[1] == item and a[2] != item and m * k * item > blocking.L2 else 0
    pack_b = PACK_B_COST_ROWS if b[2] != item or n * k * item > blocking.L2 else 0
    best, best_rows, best_columns = -1, 1, 1
    for rows in range(1, min(tasks, max(1, heights)) + 1):
        columns = max(1, min(tasks // rows, widths))
        tall, wide = -(-heights // rows) * MR, -(-widths // columns) * nr
        cost = tall * wide + pack_a * tall + pack_b * wide
        if best < 0 or cost < best:
            best, best_rows, best_columns = cost, rows, columns
    return best_rows, best_columns


@jit(inline=True)
def chunk_bounds(size: int, unit: int, i: int, parts: int) -> Any:
    """Where part i of so many begins and ends, in whole units."""
    units = -(-size // unit)
    return min(size, units * i // parts * unit), min(size, units * (i + 1) // parts * unit)


@jit(inline=True)
def _block(dtype: Any, m: int, n: int, task: int, cut: Any) -> Any:
    """Rows top to bottom and columns left to right of a piece."""
    rows, columns = cut
    row_begin, row_end = chunk_bounds(m, MR, task // columns, rows)
    col_begin, col_end = chunk_bounds(n, NV * VECTOR // item_bytes(dtype), task % columns, columns)
    return row_begin, row_end, col_begin, col_end


@jit(inline=True)
def _product_of_block(dtype: Any, place: int, block: Any, k: int, a: Any, b: Any, c: Any, bias: int, relu: Any) -> None:
    """The part of `gemm.gemm_bias_relu` that fills rows top to bottom and columns left to right."""
    row_begin, row_end, col_begin, col_end = block
    item = item_bytes(dtype)
    a_part = (a[0] + row_begin * a[1], a[1], a[2])
    b_part = (b[0] + col_begin * b[2], b[1], b[2])
    c_part = (c[0] + row_begin * c[1] + col_begin * item, c[1])
    bias_part = bias + col_begin * item if bias != 0 else 0
    relu_part = (relu[0] + row_begin * relu[1] + col_begin * item if relu[0] != 0 else 0, relu[1])
    gemm.gemm_bias_relu(
        dtype, place, row_end - row_begin, col_end - col_begin, k, a_part, b_part, c_part, bias_part, relu_part
    )


# --------------------------------------------------------------------------------------------- products


@jit(internal=True)
def _matmul_task(task: int, dtype: Any, m: int, n: int, k: int, a: Any, b: Any, c: Any, cut: Any, place: int) -> None:
    block = _block(dtype, m, n, task, cut)
    none: Any = np.intp(0)  # not a literal, which would have `gemm_bias_relu` compiled again
    _product_of_block(dtype, place, block, k, a, b, c, none, (none, none))


@jit
def _matmul(A: Any, B: Any, C: Any, threads: int, pool: int, place: int) -> None:
    a, b, c = address_and_strides(A), address_and_strides(B), address_and_strides(C)
    m, n, k = A.shape[0], B.shape[1], A.shape[1]
    if c[2] != C.itemsize and n > 1:  # C.T = B.T A.T, the same products in the same order
        a, b, c = (b[0], b[2], b[1]), (a[0], a[2], a[1]), (c[0], c[2], c[1])
        m, n = n, m
    cut = partition(C.dtype, m, n, k, threads * TASKS_PER_THREAD, a, b)
    parallel_for(
        _matmul_task,
        cut[0] * cut[1],
        threads,
        2 * m * n * k,
        pool,
        (C.dtype, m, n, k, a, b, (c[0], c[1]), cut, place),
    )
    keep_alive(A)
    keep_alive(B)
    keep_alive(C)


def matmul(A: Any, B: Any, C: Any) -> None:
    """C (M, N) = A (M, K) B (K, N).  Any strides; C with neither rows nor columns contiguous is left to simd."""
    if 2 * A.size * C.shape[1] < SERIAL_MAX_FLOPS or (threads := num_threads()) == 1 or C.itemsize not in C.strides:
        gemm.matmul(A, B, C)
    else:
        _matmul(A, B, C, threads, POOL, gemm.gemm_address(C.itemsize))


# ----------------------------------------------------------------------------------------------- layers


@jit(internal=True)
def _forward_task(task: int, X: Any, W: Any, b: Any, activate: int, A: Any, Z: Any, cut: Any, place: int) -> None:
    x, w, z, a = address_and_strides(X), address_and_strides(W), address_and_strides(Z), address_and_strides(A)
    block = _block(Z.dtype, Z.shape[0], Z.shape[1], task, cut)
    fused = (a[0], a[1]) if activate == 0 else (0, 0)
    weights = (w[0], w[2], w[1])
    _product_of_block(Z.dtype, place, block, X.shape[1], x, weights, (z[0], z[1]), address_and_strides(b)[0], fused)
    if activate != 0:
        row_begin, row_end, col_begin, col_end = block
        z_block = (z[0] + row_begin * z[1] + col_begin * Z.itemsize, z[1])
        a_block = (a[0] + row_begin * a[1] + col_begin * Z.itemsize, a[1])
        dense.activate_block(Z.dtype, activate, z_block, a_block, row_end - row_begin, col_end - col_begin)


@jit
def _dense_forward(X: Any, W: Any, b: Any, activate: int, A: Any, Z: Any, threads: int, pool: int, place: int) -> None:
    w = address_and_strides(W)
    weights = (w[0], w[2], w[1])
    cut = partition(
        Z.dtype, Z.shape[0], Z.shape[1], X.shape[1], threads * TASKS_PER_THREAD, address_and_strides(X), weights
    )
    flops = 2 * X.size * Z.shape[1]
    parallel_for(_forward_task, cut[0] * cut[1], threads, flops, pool, (X, W, b, activate, A, Z, cut, place))


def dense_forward(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    """Z (B, k) = X (B, n) W^T (n, k) + b;  A = activation(Z).  Outputs that are not contiguous are left to simd."""
    if 2 * X.size * Z.shape[1] < SERIAL_MAX_FLOPS or (threads := num_threads()) == 1 or not _contiguous(A, Z, b):
        dense.dense_forward(X, W, b, activation, A, Z)
    else:
        activate = 0 if activation == RELU else activation_address(activation, Z.dtype)
        _dense_forward(X, W, b, activate, A, Z, threads, POOL, gemm.gemm_address(Z.itemsize))


@jit(internal=True)
def _dz_task(task: int, derive: int, Z: Any, dL_dA: Any, dZ: Any, db: Any, tasks: int) -> None:
    col_begin, col_end = chunk_bounds(Z.shape[1], VECTOR // Z.itemsize, task, tasks)
    dense.dz_columns(derive, Z, dL_dA, dZ, db, col_begin, col_end)


@jit(internal=True)
def _backward_task(task: int, X: Any, dZ: Any, W: Any, dW: Any, dX: Any, dw_cut: Any, dx_cut: Any, place: int) -> None:
    """A part of dW, or after the last of these a part of dX. One call for both, so that it is linked once."""
    dz, x, w = address_and_strides(dZ), address_and_strides(X), address_and_strides(W)
    a, b, c, cut = (dz[0], dz[2], dz[1]), x, address_and_strides(dW), dw_cut
    m, k = W.shape[0], X.shape[0]
    first_dx = dw_cut[0] * dw_cut[1]
    if task >= first_dx:
        a, b, c, cut = dz, w, address_and_strides(dX), dx_cut
        m, k = k, m
        task -= first_dx
    block = _block(X.dtype, m, X.shape[1], task, cut)
    none: Any = np.intp(0)
    _product_of_block(X.dtype, place, block, k, a, b, (c[0], c[1]), none, (none, none))


@jit
def _dense_backward_batch(
    X: Any,
    Z: Any,
    dL_dA: Any,
    W: Any,
    derive: int,
    dW: Any,
    db: Any,
    dX: Any,
    threads: int,
    pool: int,
    place: int,
) -> None:
    rows, k, n = X.shape[0], W.shape[0], X.shape[1]
    dZ = np.empty(Z.shape, Z.dtype)
    strips = max(1, min(threads, k * Z.itemsize // VECTOR))
    parallel_for(
        _dz_task, strips, threads, 4 * W.size * rows, pool, (derive, np.ascontiguousarray(Z), dL_dA, dZ, db, strips)
    )
    dz = address_and_strides(dZ)
    dw_cut = partition(Z.dtype, k, n, rows, threads, (dz[0], dz[2], dz[1]), address_and_strides(X))
    dx_cut = (0, 0)
    if dX.size > 0:
        dx_cut = partition(Z.dtype, rows, n, k, threads, dz, address_and_strides(W))
    tasks = dw_cut[0] * dw_cut[1] + dx_cut[0] * dx_cut[1]
    parallel_for(_backward_task, tasks, threads, 0, pool, (X, dZ, W, dW, dX, dw_cut, dx_cut, place))


def dense_backward_batch(X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any) -> None:
    """dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.

    A dX of no elements is not computed. Outputs that are not contiguous are left to simd.
    """
    flops = 2 * W.size * Z.shape[0] * (2 if dX.size else 1)
    if flops < SERIAL_MAX_FLOPS or (threads := num_threads()) == 1 or not _contiguous(dW, db, dX):
        dense.dense_backward_batch(X, Z, dL_dA, W, activation, dW, db, dX)
    else:
        place = gemm.gemm_address(Z.itemsize)
        derive = derivative_address(activation, Z.dtype)
        _dense_backward_batch(X, Z, dL_dA, W, derive, dW, db, dX, threads, POOL, place)


def _contiguous(*arrays: Any) -> bool:
    return all(array.flags.c_contiguous for array in arrays)
