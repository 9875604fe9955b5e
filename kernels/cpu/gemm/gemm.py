"""Variant `simd`: the product, packed and blocked around the micro-kernel.

The five loops are those of BLIS::

    loop 5: k by KC
      loop 4: columns of C by NC                   a block of B, packed here
        loop 3: rows of C by MC                    a block of A, packed here where that pays
          loop 2: rows by tiles                    micro-panels of A, up to A_BYTES, one below the other
            loop 1: columns by NR                  the micro-kernel: tiles of C stay in registers

With AVX2 and NEON, A_BYTES are a block of A that stays in L2, each micro-panel of B stays in L1 while a column of tiles
uses it, and packed B is in L3. With AVX-512 the roles are exchanged: A_BYTES are one micro-panel, which stays in L1,
and the block of B stays in L2. The micro-kernel broadcasts single elements of A, so with AVX-512 A is packed only if it
is a large transpose, has neither contiguous rows nor columns, or has 5 to 16 rows and is multiplied by a B.T.

Few rows times a large B.T, such as W^T in X W^T, are computed as columns of C.T = B.T A.T (turned.py).

**Same bits.** An element of C is one chain of FMAs for each block of KC, over ascending k from zero; the blocks are
added in their order. KC depends only on the dtype, and the blocks on K. Neither where tiles, blocks and panels begin
nor what is packed makes a difference: any number of threads may compute rows or columns of C separately and get the
same bits. Bits do differ between CPUs with and without FMA.

Memory: C is written, A and B are only read; neither may overlap C. The caller keeps the arrays alive. Figures:
docs/performance-notes/gemm.md.
"""

import functools
from typing import Any

import numpy as np
from numba import types

from ...jit.call_by_address import by_address, kernel_address, kernel_entry, succeeds
from ...jit.decorator import jit
from ...llvm.builder import LINE, VECTOR
from ...llvm.memory import address_and_strides, allocate, copy_element, item_bytes, release
from .blocking import A_BYTES, FAR_B_BYTES, FAR_B_K, FAR_B_TILES, choose_blocking
from .microkernel import MR, MR_NARROW, NV, PREFETCH_INTERVAL, PREFETCHES_B, SINGLE_ROW_VECTORS, UNROLL, microkernel
from .operands import (
    NO_ROWS,
    Epilogue,
    Matrix,
    MicroPanels,
    Product,
    Rows,
    Shape,
    Tile,
    Workspace,
    epilogue_type,
    matrix_type,
    rows_type,
    shape_type,
    workspace_type,
)
from .packing import pack_a, pack_a_rows, pack_b
from .transpose import MAX_ROWS, gemm_bt_microkernel, single_row_width
from .turned import next_rows, turn, turn_back, turned_product, turns_product

ANY_WORK = 2**63 - 1
"""More floating-point operations than any product takes."""

NO_WORKSPACE = Workspace(0, 0)
"""With this workspace, `gemm` allocates the memory that it needs."""


@jit(scalar=True)
def _offset(rows: Any, i: int, nbytes: int) -> Any:
    """Return `Rows` that begin i rows down and ``nbytes`` to the right; an absent operand stays absent."""
    return Rows(rows.address + (i * rows.row_stride + nbytes) * (rows.address != 0), rows.row_stride)


@jit(scalar=True)
def prefetch_step(nbytes: int, times: int) -> int:
    """Return the bytes, in whole cache lines, of each of a number of prefetches that together take at least nbytes."""
    return -(-nbytes // (times * LINE)) * LINE


@jit(inline=True)
def _macro_kernel(dtype: Any, block: Any, n: int, a: Any, b: Any, c: Any, epilogue: Any) -> None:
    """Loops 2 and 1: compute a block of C from a block of A and a block of B.

    Rows are divided evenly among the tiles: 37 rows make tiles of 6, 6, 5, 5, 5, 5, 5. A tile of a single row is
    avoided, since its few FMAs would wait for each other.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    block : Shape
        Rows, columns and k of the block.
    n : int
        Columns of the whole B.
    a : Matrix
        A's block; if it is packed, panel_stride is the distance between micro-panels, otherwise 0.
    b : Matrix
        B's block; with a panel_stride of -1, `gemm_bt_microkernel` reads its columns, which are contiguous.
    c : Rows
        C's block; if absent, it is not stored.
    epilogue : Epilogue
        Operands of the whole block.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    rows, nb, kb = block.m, block.n, block.k
    most = MR if nb > lanes or a.panel_stride > 0 else MR_NARROW
    tiles = -(-rows // (most if b.panel_stride >= 0 else MAX_ROWS))
    height = rows // tiles if tiles > 1 else rows
    taller = rows - height * tiles  # number of tiles that have one row more
    t, group = 0, tiles
    if nb > nr:
        group = max(1, A_BYTES // (MR * kb * item + 1))
    b_step: Any = np.intp(0)
    steps = (kb - UNROLL) // PREFETCH_INTERVAL
    is_far = PREFETCHES_B and n * kb * item > FAR_B_BYTES and b.row_stride == nr * item
    if is_far and nb <= nr and kb >= FAR_B_K and tiles >= FAR_B_TILES:
        b_step = prefetch_step(kb * nr * item, tiles * steps)
    while t < tiles:  # loop 2
        i = t * height + min(t, taller)
        tile_rows = height + (t < taller)
        count = min(group, (taller if t < taller else tiles) - t)
        panels = MicroPanels(a.address + i * a.row_stride, a.row_stride, a.column_stride, tile_rows * a.row_stride)
        if a.panel_stride > 0:
            panels = MicroPanels(a.address + t * a.panel_stride, item, tile_rows * item, a.panel_stride)
        j = 0
        while j < nb:  # loop 1
            c_tile = _offset(c, i, j * item)
            tile_epilogue = Epilogue(
                _offset(epilogue.addend, i, j * item),
                _offset(epilogue.relu, i, j * item),
                _offset(epilogue.mask, i, j * item),
                epilogue.alpha,
            )
            if b.panel_stride < 0:
                width = min(lanes, nb - j)
                if tile_rows == 1:
                    width = single_row_width(item, kb, n, nb - j, b.column_stride)
                columns = Rows(b.address + j * b.column_stride, b.column_stride)
                tile = Tile(tile_rows, width, kb, 1, 0, 0)
                gemm_bt_microkernel(
                    dtype, tile, Rows(panels.address, panels.row_stride), columns, c_tile, tile_epilogue
                )
                j += width
                continue
            width = nr
            if rows == 1 and b.panel_stride == nr * item and nb - j >= SINGLE_ROW_VECTORS * lanes:
                width = SINGLE_ROW_VECTORS * lanes
            while width > lanes and nb - j <= width - lanes:  # a tile's last vector may be partial
                width >>= 1
            b_tile = Rows(b.address + j // nr * b.panel_stride + j % nr * item, b.row_stride)
            b_next = b.address + b.panel_stride + t * steps * b_step
            tile = Tile(tile_rows, min(width, nb - j), kb, count, b_next, b_step)
            microkernel(dtype, tile, panels, b_tile, c_tile, tile_epilogue)
            j += width
        t += count


@jit(scalar=True)
def _is_contiguous_column(item: int, a: Any, b: Any, c: Any, epilogue: Any) -> bool:
    """Whether the column of B, of C and of the epilogue's operands is contiguous, and so are A's rows or columns."""
    addend, relu, mask = epilogue.addend, epilogue.relu, epilogue.mask
    factors = b.row_stride == item and (a.row_stride == item or a.column_stride == item)
    others = (addend.row_stride == 0 or addend.row_stride == item) and (relu.address == 0 or relu.row_stride == item)
    return factors and c.row_stride == item and others and (mask.address == 0 or mask.row_stride == item)


@by_address(
    lambda real: (
        types.DType(real),
        shape_type(),
        matrix_type(),
        matrix_type(),
        rows_type(),
        epilogue_type(real),
        workspace_type(),
    )
)
@jit(internal=True)
def gemm(dtype: Any, shape: Any, a: Any, b: Any, c: Any, epilogue: Any, workspace: Any) -> None:
    """C (m, n) = addend + alpha * A (m, k) B (k, n), with ReLU or a mask.  Loops 5 to 3.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    shape : Shape
        Sizes, 0 allowed.
    a : Matrix
        Any strides; its panel_stride is ignored.
    b : Matrix
        Any strides; panel_stride is NR column strides or, for a packed B, the distance between its micro-panels. Each
        has rows of NR elements; the number of its rows is padded to a multiple of a vector's length.
    c : Rows
        Its rows are contiguous.
    epilogue : Epilogue
        The addend may be C itself, or a bias with row stride 0; without an addend, alpha is 1. If relu is C itself,
        only relu is stored.
    workspace : Workspace
        Memory for packing. If it is smaller than `choose_blocking` requires, memory is allocated.

    Raises
    ------
    MemoryError
        If the memory for packing cannot be allocated.
    """
    item = item_bytes(dtype)
    # Compute a single column of C as a row of C.T = B.T A.T, with the same products in the same order: tiles of C would
    # use only one lane of each vector.
    if shape.n == 1 and shape.m > MR and _is_contiguous_column(item, a, b, c, epilogue):
        a, b = (
            Matrix(b.address, b.column_stride, np.intp(item), np.intp(0)),
            Matrix(a.address, a.column_stride, a.row_stride, NV * VECTOR // item * a.row_stride),
        )
        addend, shape = epilogue.addend, Shape(shape.n, shape.m, shape.k)
        if addend.address != 0 and addend.row_stride == 0:
            for j in range(shape.n):
                copy_element(dtype, c.address + j * item, addend.address)
            epilogue = Epilogue(c, epilogue.relu, epilogue.mask, epilogue.alpha)
    lanes = VECTOR // item
    nr = NV * lanes
    turnable, done = turns_product(item, shape, a, b, epilogue), 0
    while done < shape.m:  # one iteration, unless rows are turned
        part, turns = shape, False
        if turnable:
            rows, turns = next_rows(item, shape.m - done, b.column_stride)
            part = Shape(rows, shape.n, shape.k)
        relu = epilogue.relu
        turned = turned_product(item, turns, part, relu.address != 0 and relu.address != c.address)
        m, n, k = part.m, part.n, part.k
        left, right = a, b
        if turns:
            m, n = part.n, turned.columns
            left = Matrix(b.address, b.column_stride, np.intp(item), np.intp(0))
            right = Matrix(np.intp(0), turned.a_row, np.intp(item), turned.a_panel)
        blocking = choose_blocking(item, Shape(m, n, k), left, right)
        kc, mc, nc = blocking.kc, blocking.mc, blocking.nc
        needed = blocking.buffer_bytes + turned.nbytes + VECTOR * turns
        buffer = workspace.address
        if needed > workspace.nbytes:
            buffer = allocate(needed)
        start = -(-buffer // VECTOR) * VECTOR
        b_packed = start + turned.nbytes
        a_packed = b_packed + blocking.b_block_bytes
        target, operands = c, epilogue
        if turns:
            turn(dtype, turned, start, part, a, epilogue.addend.address)
            right = Matrix(start + turned.a, turned.a_row, np.intp(item), turned.a_panel)
            row = turned.columns * item
            target = Rows(start + turned.c, row)
            operands = Epilogue(
                Rows(target.address * (epilogue.addend.address != 0), row),
                Rows((start + turned.relu) * (relu.address != 0), row),
                NO_ROWS,
                epilogue.alpha,
            )

        for s in range(blocking.k_blocks):  # loop 5
            kb = min(kc, k - s * kc)
            last = s == blocking.k_blocks - 1
            j = 0
            while j < n:  # loop 4; range(0, n, nc) would need a division
                nb = min(nc, n - j)
                b_address = right.address + s * kc * right.row_stride + j // nr * right.panel_stride
                b_block = Matrix(b_address, right.row_stride, right.column_stride, right.panel_stride)
                if blocking.transposes_b:
                    b_block = Matrix(b_address, right.row_stride, right.column_stride, np.intp(-1))
                elif blocking.b_block_bytes > 0:
                    panel_stride = -(-kb // lanes) * lanes * nr * item
                    pack_b(dtype, kb, nb, b_block, b_packed, panel_stride)
                    b_block = Matrix(b_packed, np.intp(nr * item), np.intp(item), np.intp(panel_stride))
                i = 0
                while i < m:  # loop 3
                    rows = min(mc, m - i)
                    a_address = left.address + i * left.row_stride + s * kc * left.column_stride
                    a_block = Matrix(a_address, left.row_stride, left.column_stride, blocking.a_panel_bytes)
                    if blocking.a_panel_bytes > 0:
                        if blocking.transposes_b:
                            if j == 0:
                                pack_a_rows(dtype, m, kb, a_block, a_packed)
                        elif mc < m or j == 0:  # a single block stays packed
                            pack_a(dtype, rows, -(-rows // MR), kb, m - i, a_block, a_packed)
                        a_block = Matrix(a_packed, left.row_stride, left.column_stride, blocking.a_panel_bytes)
                    c_block = _offset(target, i, j * item)
                    addend = c_block if s > 0 else _offset(operands.addend, i, j * item)
                    relu_block, mask = NO_ROWS, NO_ROWS
                    if last:
                        relu_block = _offset(operands.relu, i, j * item)
                        mask = _offset(operands.mask, i, j * item)
                        if relu_block.address == c_block.address:
                            c_block = NO_ROWS
                    block_epilogue = Epilogue(addend, relu_block, mask, epilogue.alpha)
                    _macro_kernel(dtype, Shape(rows, nb, kb), n, a_block, b_block, c_block, block_epilogue)
                    i += mc
                j += nc

        if turns:
            if c.address != 0 and c.address != relu.address:
                turn_back(dtype, c, start + turned.c, Shape(part.m, part.n, turned.columns))
            if relu.address != 0:
                turn_back(dtype, relu, start + turned.relu, Shape(part.m, part.n, turned.columns))
        if needed > workspace.nbytes:
            release(buffer)
        done += part.m
        a = Matrix(a.address + part.m * a.row_stride, a.row_stride, a.column_stride, np.intp(0))
        c = _offset(c, part.m, 0)
        epilogue = Epilogue(epilogue.addend, _offset(relu, part.m, 0), epilogue.mask, epilogue.alpha)


@functools.cache
def gemm_address(itemsize: int) -> int:
    """Return the address of `gemm` for elements of 4 or 8 bytes."""
    return kernel_address(gemm, np.dtype(f"f{itemsize}"))


@jit(internal=True)
def gemm_bias_relu(dtype: Any, address: int, product: Any) -> bool:
    """Compute a `Product` by the address of `gemm`; linked in, `gemm` would be compiled again in every caller.

    Return False if memory for packing was lacking. Callers pass this on to Python, where `require_memory` raises.
    """
    b = product.b
    item = np.intp(item_bytes(dtype))
    column_stride = b.column_stride if product.shape.n > 1 else item  # NumPy's stride of a single column is arbitrary
    columns = Matrix(b.address, b.row_stride, column_stride, NV * (VECTOR // item) * column_stride)
    epilogue = Epilogue(Rows(product.bias, np.intp(0)), product.relu, NO_ROWS, dtype.type(1))
    arguments = (dtype, product.shape, product.a, columns, product.c, epilogue, NO_WORKSPACE)
    return succeeds(gemm, address, dtype, arguments)


def require_memory(found: bool) -> None:
    """Raise MemoryError, in Python, if a compiled function returned False for a lack of memory.

    An exception that left a compiled function would leak Numba's references to its arrays.
    """
    if not found:
        raise MemoryError("no memory to pack the factors of a product; compute it in parts")


@jit(scalar=True)
def matrix_of(array: Any) -> Any:
    """Return the `Matrix` of a two-dimensional array; the caller keeps the array alive."""
    address, row_stride, column_stride = address_and_strides(array)
    return Matrix(address, row_stride, column_stride, np.intp(0))


@jit(scalar=True)
def transposed(a: Any) -> Any:
    """Return the `Matrix` of the transpose."""
    return Matrix(a.address, a.column_stride, a.row_stride, np.intp(0))


@jit(scalar=True)
def rows_of(a: Any) -> Any:
    """Return the `Rows` of a `Matrix` whose rows are contiguous."""
    return Rows(a.address, a.row_stride)


@jit(scalar=True)
def plain_product(A: Any, B: Any, c: Any, shape: Any) -> Any:
    """Return the `Product` C = A B of two `Matrix` without bias and ReLU."""
    return Product(shape, A, B, c, np.intp(0), NO_ROWS)


# ---------------------------------------------------------------------------------------- matmul


@jit(scalar=True)
def matmul_product(A: Any, B: Any, C: Any) -> Any:
    """Return the `Product` of `matmul`: of C or, if C's columns are contiguous, of C.T = B.T A.T.

    Both compute the same products in the same order. C has contiguous rows or columns.
    """
    a, b, c = matrix_of(A), matrix_of(B), matrix_of(C)
    m, n, k = A.shape[0], B.shape[1], A.shape[1]
    if c.column_stride != C.itemsize and n > 1:
        return plain_product(transposed(b), transposed(a), rows_of(transposed(c)), Shape(n, m, k))
    return plain_product(a, b, rows_of(c), Shape(m, n, k))


@jit(scalar=True)
def _span(array: Any) -> Any:
    """Return the addresses at which a matrix with any strides begins and ends."""
    address, row_stride, column_stride = address_and_strides(array)
    if array.size == 0:
        return address, address
    rows, columns = (array.shape[0] - 1) * row_stride, (array.shape[1] - 1) * column_stride
    return address + min(rows, 0) + min(columns, 0), address + max(rows, 0) + max(columns, 0) + array.itemsize


@by_address(lambda real: (*[types.Array(real, 2, "A")] * 3, types.intp, types.intp))
@jit
def multiply(A: Any, B: Any, C: Any, address: int, most: int) -> int:
    """Compute `matmul` by the address of `gemm`, for callers in Python.

    Return 1, or 0 if memory for packing was lacking. Without computing anything, return -1 if the result needs other
    memory, because C may overlap A or B or neither its rows nor its columns are contiguous, and -2 if the shapes do not
    fit or ``most`` floating-point operations do not suffice.
    """
    m, n, k = C.shape[0], C.shape[1], A.shape[1]
    if m != A.shape[0] or n != B.shape[1] or k != B.shape[0] or 2 * m * n * k > most:
        return -2
    begin, end = _span(C)
    (a_begin, a_end), (b_begin, b_end) = _span(A), _span(B)
    if (a_begin < end and begin < a_end) or (b_begin < end and begin < b_end):
        return -1
    if C.itemsize != C.strides[0] and C.itemsize != C.strides[1] and min(C.shape) > 1:
        return -1
    return 1 if gemm_bias_relu(C.dtype, address, matmul_product(A, B, C)) else 0


_MULTIPLY: dict[int, tuple[Any, int]] = {}
"""For elements of 4 or 8 bytes, a function that calls `multiply`, and the address of `gemm`."""


def matmul(A: Any, B: Any, C: Any, most: int = ANY_WORK) -> bool:
    """C (M, N) = A (M, K) B (K, N).  Any strides.

    If C may overlap A or B, or neither its rows nor its columns are contiguous, the result is computed in a copy.
    Return False, and leave C as it is, if the shapes do not fit or ``most`` floating-point operations do not suffice.
    """
    try:
        call, address = _MULTIPLY[C.itemsize]
    except KeyError:
        call, address = _MULTIPLY[C.itemsize] = kernel_entry(multiply, C.dtype), gemm_address(C.itemsize)
    found = call(A, B, C, address, most)  # checks all that it can, since Python would take longer than a small product
    if found == 1:
        return True
    if found == -1:
        product = np.empty(C.shape, C.dtype)
        found = call(A, B, product, address, most)
        C[...] = product
    require_memory(found != 0)
    return found == 1
