"""Variant `parallel`: the products of `simd`, divided into tasks for several threads.

C is divided by rows and columns into a few tasks per thread, and each task is a product of its own, including packing.
Why that is faster: every core brings its own FMA units and L2. What it costs: 1 us a call while the workers are awake,
5 when they must be woken, so small work stays serial; and blocks that several tasks need are packed by each of them.

**Same bits as simd, for any number of threads.** The order of the sum in an element of C depends on K alone, not on
where a task begins (see `gemm`), so dividing rows and columns changes nothing; K is never divided. One thread sums each
column of db, from the first row to the last, micro-batch by micro-batch.

Tasks do not share packed blocks: they would have to wait for each other, and a thread that works alone would wait
forever. Instead the product is divided along the side that is packed. Figures: docs/performance-notes/gemm.md.
"""

from typing import Any, NamedTuple

import numpy as np

from ...jit.decorator import jit
from ...llvm.builder import VECTOR
from ...llvm.memory import item_bytes
from ...specs.batches import GROUP_ROWS
from ..activations import derivative_address
from ..row_parts import sums_parts
from ..threads.parallel_for import parallel_for
from ..threads.pool import POOL, num_threads
from . import blocking, dense, gemm
from .microkernel import MR, NV
from .operands import NO_ROWS, Matrix, Product, Rows, Shape

SERIAL_MAX_FLOPS = 1_500_000
"""Products with fewer floating-point operations stay serial."""

TASKS_PER_THREAD = 2
"""More than one, so that a thread that loses its core for a while delays no other thread."""

PACK_B_COST_ROWS = 3 if blocking.WIDE else 7
"""Packing a part of B costs as much as this many rows of the product."""

PACK_A_COST_COLUMNS = 30 if blocking.WIDE else 8
"""Packing a part of A costs as much as this many columns; with AVX-512 only A.T is packed, which reads across rows."""


class Grid(NamedTuple):
    """Number of parts into which the rows and the columns of C are divided; each pair of parts is a task."""

    rows: int
    columns: int


class Team(NamedTuple):
    """What a parallel layer needs besides its arrays.

    Addresses of the activation's (or derivative's) kernel and of `gemm`; number of threads; address of the pool. Python
    passes a plain tuple, because Numba types that in 0.3 us, a NamedTuple in 0.8 us.
    """

    activation: int
    gemm: int
    threads: int
    pool: int


# ------------------------------------------------------------------------------------- partitioning


@jit(internal=True)
def partition(dtype: Any, product: Any, tasks: int) -> Any:
    """Return the `Grid` of at most ``tasks`` tasks that minimises the cost of the largest task: its tiles and packing.

    Whether a task packs is estimated by the main rules of `choose_blocking`, which makes the decision for each task.
    """
    (m, n, k), a, b = product.shape, product.a, product.b
    item = item_bytes(dtype)
    nr = NV * VECTOR // item
    heights, widths = -(-m // MR), -(-n // nr)
    a_columns = a.row_stride == item and a.column_stride != item
    packs_a = a_columns and m * k * item > blocking.L2
    if not blocking.WIDE:
        packs_a = a_columns or a.row_stride % blocking.SET_STRIDE == 0
    pack_a = PACK_A_COST_COLUMNS if packs_a else 0
    pack_b = PACK_B_COST_ROWS if b.column_stride != item or n * k * item > blocking.B_IN_PLACE_BYTES else 0
    best, best_rows, best_columns = -1, 1, 1
    for rows in range(1, min(tasks, max(1, heights)) + 1):
        columns = max(1, min(tasks // rows, widths))
        tall, wide = -(-heights // rows) * MR, -(-widths // columns) * nr
        cost = tall * wide + pack_a * tall + pack_b * wide
        if best < 0 or cost < best:
            best, best_rows, best_columns = cost, rows, columns
    return Grid(best_rows, best_columns)


@jit(inline=True)
def chunk_bounds(size: int, unit: int, i: int, parts: int) -> Any:
    """Return where part i of ``parts`` begins and ends; parts consist of whole units."""
    units = -(-size // unit)
    return min(size, units * i // parts * unit), min(size, units * (i + 1) // parts * unit)


@jit(inline=True)
def _block(dtype: Any, shape: Any, task: int, grid: Any) -> Any:
    """Return row_begin, row_end, col_begin, col_end of a task."""
    row_begin, row_end = chunk_bounds(shape.m, MR, task // grid.columns, grid.rows)
    col_begin, col_end = chunk_bounds(shape.n, NV * VECTOR // item_bytes(dtype), task % grid.columns, grid.columns)
    return row_begin, row_end, col_begin, col_end


@jit(inline=True)
def _part(rows: Any, row: int, nbytes: int) -> Any:
    """Return the `Rows` that begin at a row and ``nbytes`` to the right; absent rows stay absent."""
    offset = row * rows.row_stride + nbytes if rows.address != 0 else 0
    return Rows(rows.address + offset, rows.row_stride)


@jit(internal=True)
def _product_task(task: int, thread: int, dtype: Any, address: int, product: Any, grid: Any) -> None:
    """Compute one task's block of a `Product`."""
    row_begin, row_end, col_begin, col_end = _block(dtype, product.shape, task, grid)
    a, b, item = product.a, product.b, item_bytes(dtype)
    block = Product(
        Shape(row_end - row_begin, col_end - col_begin, product.shape.k),
        Matrix(a.address + row_begin * a.row_stride, a.row_stride, a.column_stride, a.panel_stride),
        Matrix(b.address + col_begin * b.column_stride, b.row_stride, b.column_stride, b.panel_stride),
        _part(product.c, row_begin, col_begin * item),
        product.bias + col_begin * item if product.bias != 0 else np.intp(0),
        _part(product.relu, row_begin, col_begin * item),
    )
    if not gemm.gemm_bias_relu(dtype, address, block):
        raise MemoryError


# ------------------------------------------------------------------------------------------- matmul


@jit
def _matmul(A: Any, B: Any, C: Any, threads: int, pool: int, address: int) -> bool:
    product = gemm.matmul_product(A, B, C)
    grid = partition(C.dtype, product, threads * TASKS_PER_THREAD)
    flops = 2 * A.shape[0] * A.shape[1] * B.shape[1]
    return parallel_for(
        _product_task, grid.rows * grid.columns, threads, flops, pool, (C.dtype, address, product, grid)
    )


def matmul(A: Any, B: Any, C: Any) -> None:
    """C (M, N) = A (M, K) B (K, N).  Any strides; if neither rows nor columns of C are contiguous, simd computes it."""
    if 2 * A.size * C.shape[1] < SERIAL_MAX_FLOPS or (threads := num_threads()) == 1 or C.itemsize not in C.strides:
        gemm.matmul(A, B, C)
    else:
        gemm.require_memory(_matmul(A, B, C, threads, POOL, gemm.gemm_address(C.itemsize)))


# ------------------------------------------------------------------------------------------- layers


@jit(internal=True)
def _forward_task(task: int, thread: int, dtype: Any, product: Any, a: Any, grid: Any, team: Any) -> None:
    """Compute one task's block of Z and of A; ``a`` are the `Rows` of A."""
    _product_task(task, thread, dtype, team.gemm, product, grid)
    if team.activation != 0:
        row_begin, row_end, col_begin, col_end = _block(dtype, product.shape, task, grid)
        nbytes = col_begin * item_bytes(dtype)
        z_block, a_block = _part(product.c, row_begin, nbytes), _part(a, row_begin, nbytes)
        dense.activate_block(dtype, team.activation, z_block, a_block, row_end - row_begin, col_end - col_begin)


@jit
def _dense_forward(X: Any, W: Any, b: Any, A: Any, Z: Any, team_fields: Any) -> bool:
    team = Team(*team_fields)
    a = gemm.rows_of(gemm.matrix_of(A))
    relu = a if team.activation == 0 else NO_ROWS
    product = dense.forward_product(X, W, b, gemm.rows_of(gemm.matrix_of(Z)), relu)
    grid = partition(Z.dtype, product, team.threads * TASKS_PER_THREAD)
    tasks, flops = grid.rows * grid.columns, 2 * X.size * Z.shape[1]
    return parallel_for(_forward_task, tasks, team.threads, flops, team.pool, (Z.dtype, product, a, grid, team))


def dense_forward(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    """Z (B, k) = X (B, n) W^T (n, k) + b;  A = activation(Z)."""
    if 2 * X.size * Z.shape[1] < SERIAL_MAX_FLOPS or (threads := num_threads()) == 1:
        dense.dense_forward(X, W, b, activation, A, Z)
    else:
        activate = dense.activation_or_relu(activation, Z.dtype)
        team_fields = activate, gemm.gemm_address(Z.itemsize), threads, POOL
        gemm.require_memory(_dense_forward(X, W, b, A, Z, team_fields))


@jit(internal=True)
def _dz_task(task: int, thread: int, derive: int, arrays: Any, tasks: int) -> None:
    """Compute dZ and db in a strip of columns; arrays: Z, dL_dA, dZ, db, scratch."""
    Z, dL_dA, dZ, db, scratch = arrays
    col_begin, col_end = chunk_bounds(Z.shape[1], VECTOR // Z.itemsize, task, tasks)
    dense.dz_columns(derive, Z, dL_dA, dZ, db, scratch, col_begin, col_end)


@jit
def _dz(team_fields: Any, flops: int, Z: Any, dL_dA: Any, dZ: Any, db: Any, scratch: Any) -> bool:
    """Compute dZ and db; ``flops``, those of the products that follow, decide whether workers are woken."""
    team = Team(*team_fields)
    strips = max(1, min(team.threads, Z.shape[1] * Z.itemsize // VECTOR))
    arguments = (team.activation, (Z, dL_dA, dZ, db, scratch), strips)
    return parallel_for(_dz_task, strips, team.threads, flops, team.pool, arguments)


@jit(internal=True)
def _backward_task(task: int, thread: int, dtype: Any, address: int, dw: Any, dx: Any) -> None:
    """Compute a block of dW or, in later tasks, of dX; one call serves both, so that its callee is linked once.

    ``dw`` and ``dx`` are each a `Product` and its `Grid`.
    """
    (product, grid), first_dx = dw, dw[1].rows * dw[1].columns
    if task >= first_dx:
        (product, grid), task = dx, task - first_dx
    _product_task(task, thread, dtype, address, product, grid)


@jit
def _products(team_fields: Any, dZ: Any, X: Any, W: Any, dW: Any, dX: Any) -> bool:
    """Compute dW and dX; the caller keeps their arrays alive."""
    team = Team(*team_fields)
    dtype, threads = dZ.dtype, team.threads
    dw, dx = dense.backward_products(dZ, X, W, dW, dX)
    dw_grid, dx_grid = partition(dtype, dw, threads), Grid(0, 0)
    if dX.size > 0:
        dx_grid = partition(dtype, dx, threads)
    tasks = dw_grid.rows * dw_grid.columns + dx_grid.rows * dx_grid.columns
    return parallel_for(_backward_task, tasks, threads, 0, team.pool, (dtype, team.gemm, (dw, dw_grid), (dx, dx_grid)))


@sums_parts(GROUP_ROWS)
def dense_backward_batch(X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any) -> None:
    """dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.

    An empty dX is not computed.
    """
    flops = 2 * W.size * Z.shape[0] * (2 if dX.size else 1)
    if flops < SERIAL_MAX_FLOPS or (threads := num_threads()) == 1:
        dense.dense_backward_batch(X, Z, dL_dA, W, activation, dW, db, dX)
    else:
        team_fields = derivative_address(activation, Z.dtype), gemm.gemm_address(Z.itemsize), threads, POOL
        dZ, scratch = np.empty(Z.shape, Z.dtype), np.empty_like(db)
        found = _dz(team_fields, 4 * W.size * len(X), Z, dL_dA, dZ, db, scratch)
        gemm.require_memory(found and _products(team_fields, dZ, X, W, dW, dX))
