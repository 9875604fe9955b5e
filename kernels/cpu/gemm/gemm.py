"""Rung 3, `simd`: packing, and the loops around the micro-kernel.

Imports `_jit`, `activations`, `elementwise`, `microkernel` and `turning`. What changed from the loops: the innermost
three loops are register tiles of vector instructions, and B is copied, a block of KC x NC at a time, into the order in
which the tiles read it. Why that is faster: every value in a register serves MR or NR products, every line of
L1 a whole row of tiles, every line of L2 a whole column; the FMA units never wait. What it costs: two and a half
seconds of compilation, once a machine, and a buffer of a quarter to three quarters of the L2 cache.

The five loops are BLIS's with the parts of A and B exchanged, because A needs no packing: the micro-kernel
broadcasts single elements of it, which may lie anywhere. So the block that stays in L2 is B's, and the
sliver that stays in L1 is A's::

    loop 5: rows of C by MC                        a block of A, packed here if it is a transpose
      loop 4: k by KC
        loop 3: columns of C by NC                 a block of B, packed here, stays in L2
          loop 2: rows by MR                       a sliver of A stays in L1
            loop 1: columns by NR                  the micro-kernel: a tile of C stays in registers

**Same bits.** An element of C is one chain of FMAs for each slice of KC, over ascending k from zero; the
slices are added in their order. KC depends on the dtype and the slices on K alone. Where tiles, blocks and
panels begin changes nothing, nor whether anything is packed: so rows or columns of C may be computed
apart, by any number of threads, and give the same bits. Bits do differ between CPUs with and without FMA.

Memory: C is written, A and B are only read; none may overlap C. A matrix is handed on as (address, bytes from
row to row, bytes from column to column), so that the loops are compiled once for all layouts; the callers
hold the arrays meanwhile.

What was measured (Zen 4, float32, share of the FMA limit measured beside it; it wavers by 0.02):

- KC of 4096 bytes: 0.94 at 1024 cubed; of 2048 bytes 0.93. B in blocks of 256 KiB: 0.97 at 1024 cubed, 512 KiB 0.97,
  768 KiB 0.96; at 2048 cubed, where A does not stay near, 0.947, 0.950, 0.954 (float64: 0.91, 0.92, 0.93).
- B in place where it fits L2: 0.97 at 256 and 512 cubed, packed 0.96 and 0.95; at 2048 it is 0.84, packed 0.90.
- Prefetching 8 rows ahead while B is packed: 0.93, without 0.90 (1024). 16 and 32 rows ahead are no better.
- A.T in place while it fits L2: 0.97 at 256, packed 0.90. At 2048: 0.66, packed 0.91. Packing it all
  slivers at once, one k after the other: 0.86 at 1024, each store in another page; 8 slivers at once: 0.91.
- The micro-kernel's asking for C and for the next rows of A, a little at a time: 0.91 became 0.95 at 2048 cubed
  (float64 0.88, 0.94). All of C at the tile's beginning: 0.93 (0.915), since 24 misses at once hold up B; C alone, a
  little at a time: 0.93 (0.936). The first lines of the next rows of A at a tile's beginning: nothing.
- The last 8 of 2048 rows in a block of their own, for which all of B was packed again: 1%.
"""

import functools
from typing import Any

import numpy as np
from numba import types

from ...jit.call_by_address import address, by_address, call
from ...jit.decorator import jit
from ...llvm.builder import VECTOR
from ...llvm.memory import address_and_strides, allocate, array_at, copy_element, item_bytes, keep_alive, release
from .blocking import A_BYTES, choose_blocking
from .microkernel import MR, NV, SINGLE_ROW_VECTORS, microkernel
from .packing import pack_a, pack_b
from .transpose import gemm_bt_microkernel

_PAIR, _TRIPLE, _QUAD = (types.UniTuple(types.intp, count) for count in (2, 3, 4))


# ------------------------------------------------------------------------------------------- the loops


@jit(inline=True)
def _macro_kernel(
    dtype: Any,
    rows: int,
    tiles: int,
    nb: int,
    kb: int,
    a: Any,
    a_panel_bytes: int,
    b: Any,
    panel: int,
    c: Any,
    add: Any,
    relu: Any,
    relu_mask: Any,
    scale: Any,
) -> None:
    """Loops 2 and 1: a block of C, rows x nb, from a block of A and a block of B.

    The rows are dealt to the tiles evenly: 37 make tiles of 6, 6, 5, 5, 5, 5, 5, none of one row, whose few
    FMAs would wait for each other.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    rows, tiles, nb, kb : int
        The block's rows, the tiles these are dealt to, its columns, and k.
    a, sliver : tuple, int
        A's block; where it is packed, the bytes of a sliver, else 0.
    b, panel : tuple, int
        B's block as (address, bytes from row to row); bytes from one NR columns to the next. With a panel of -1 bytes,
        as (address, bytes from column to column), for rows that `gemm_bt_microkernel` takes.
    c, add, relu, gate : tuple
        As `microkernel` takes them, for the whole block.
    scale : float
        Multiplies the sums where something is added.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    short = rows // tiles if tiles > 1 else rows
    taller = rows - short * tiles
    t, group = 0, tiles
    if nb > nr:
        group = max(1, A_BYTES // (MR * kb * item + 1))
    while t < tiles:  # loop 2
        i = t * short + min(t, taller)
        height = short + (t < taller)
        count = min(group, (taller if t < taller else tiles) - t)
        a_tiles = (a[0] + i * a[1], a[1], a[2], height * a[1])
        if a_panel_bytes > 0:
            a_tiles = (a[0] + t * a_panel_bytes, item, height * item, a_panel_bytes)
        j = 0
        while j < nb:  # loop 1
            width = nr
            if rows == 1 and panel == nr * item and nb - j >= SINGLE_ROW_VECTORS * lanes:
                width = SINGLE_ROW_VECTORS * lanes
            while width > max(lanes, nb - j):
                width >>= 1
            b_tile = (b[0] + j // nr * panel + j % nr * item, b[1])
            c_tile = _at(c, i, j * item)
            start, clamp, mask = _at(add, i, j * item), _at(relu, i, j * item), _at(relu_mask, i, j * item)
            if panel < 0:
                width = min(lanes, nb - j)
                b_strip = (b[0] + j * b[1], b[1])
                gemm_bt_microkernel(
                    dtype, height, width, kb, (a_tiles[0], a_tiles[1]), b_strip, c_tile, start, clamp, mask, scale
                )
                j += width
                continue
            microkernel(
                dtype, height, min(width, nb - j), kb, count, a_tiles, b_tile, c_tile, start, clamp, mask, scale
            )
            j += width
        t += count


@jit(scalar=True)
def _at(place: Any, i: int, offset: int) -> Any:
    """(address, bytes from row to row) i rows down and some bytes to the right; address 0 stays 0."""
    return place[0] + (i * place[1] + offset) * (place[0] != 0), place[1]


@jit(scalar=True)
def _contiguous_column(item: int, a: Any, b: Any, c: Any, start: Any, relu: Any, relu_mask: Any) -> bool:
    """Whether the single column of B and of C, and of what goes into C, is contiguous; A one way or the other."""
    factors = b[1] == item and (a[1] == item or a[2] == item)
    others = (start[1] == 0 or start[1] == item) and (relu[0] == 0 or relu[1] == item)
    return factors and c[1] == item and others and (relu_mask[0] == 0 or relu_mask[1] == item)


@by_address(lambda real: (types.DType(real), *[types.intp] * 3, _TRIPLE, _QUAD, *[_PAIR] * 4, real, *[types.intp] * 2))
@jit(internal=True)
def gemm(
    dtype: Any,
    m: int,
    n: int,
    k: int,
    a: Any,
    b: Any,
    c: Any,
    start: Any,
    relu: Any,
    relu_mask: Any,
    scale: Any,
    work: int,
    given: int,
) -> None:
    """C (m, n) = start + scale A (m, k) B (k, n), ReLU of C, or C behind a gate.  Loops 5 to 3.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of everything.
    m, n, k : int
        Sizes, 0 allowed.
    a : tuple
        (address, bytes from row to row, bytes from column to column).
    b : tuple
        The same, and the bytes from one NR columns to the next: of a matrix that somebody has packed, panels of NR
        columns one behind the other, each with its rows of NR elements and some to spare.
    c : tuple
        (address, bytes from row to row); columns are contiguous.
    start, relu, gate : tuple
        As `microkernel` takes them: start may be C itself, or a bias with 0 bytes from row to row. A relu that is C
        itself has only that stored.
    scale : float
        Of dtype; where nothing is added, 1.
    work, given : int
        Address and number of bytes for packing. Where `choose_blocking` asks for more they are allocated: it may, for
        fewer rows than the caller thought of, or compiled on a machine of another L2.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    # A single column of C is a row of C.T = B.T A.T, the same products in the same order: 512 x 512 times a column
    # takes 26 us so, 73 in tiles of which one lane counts.
    if n == 1 and m > MR and _contiguous_column(item, a, b, c, start, relu, relu_mask):
        if start[0] != 0 and start[1] == 0:
            for i in range(m):
                copy_element(dtype, c[0] + i * item, start[0])
            start = c
        a, b = (b[0], 0, item), (a[0], a[2], a[1], nr * a[1])
        m, n = n, m
    slices, kc, nc, mc, a_panel_bytes, b_room, buffer_bytes, turned = choose_blocking(item, m, n, k, a, b)
    if buffer_bytes > given:
        work = allocate(buffer_bytes)
    b_packed = -(-work // VECTOR) * VECTOR
    none = (np.intp(0), np.intp(0))

    i = 0
    while i < m:  # loop 5.  Not range(0, m, mc), which divides: 10 ns
        rows = min(mc, m - i)
        tiles = -(-rows // MR)
        for s in range(slices):  # loop 4
            kb = min(kc, k - s * kc)
            a_block = (a[0] + i * a[1] + s * kc * a[2], a[1], a[2])
            if a_panel_bytes > 0:
                pack_a(dtype, rows, tiles, kb, a_panel_bytes, m - i, a_block, b_packed + b_room)
                a_block = (b_packed + b_room, a[1], a[2])
            j = 0
            while j < n:  # loop 3
                nb = min(nc, n - j)
                b_block = (b[0] + s * kc * b[1] + j // nr * b[3], b[1])
                panel = b[3]
                if turned:
                    b_block, panel = (b_block[0], b[2]), -1
                elif b_room > 0:
                    pack_b(dtype, kb, nb, (b_block[0], b[1], b[2]), b_packed)
                    b_block = (b_packed, nr * item)
                    panel = -(-kb // lanes) * lanes * nr * item
                c_block = _at(c, i, j * item)
                add = c_block if s > 0 else _at(start, i, j * item)
                relu_block, mask_block = none, none
                if s == slices - 1:
                    relu_block, mask_block = _at(relu, i, j * item), _at(relu_mask, i, j * item)
                    if relu_block[0] == c_block[0]:
                        c_block = none
                _macro_kernel(
                    dtype,
                    rows,
                    tiles,
                    nb,
                    kb,
                    a_block,
                    a_panel_bytes,
                    b_block,
                    panel,
                    c_block,
                    add,
                    relu_block,
                    mask_block,
                    scale,
                )
                j += nc
        i += mc
    if buffer_bytes > given:
        release(work)


@jit(internal=True)
def gemm_bias_relu(
    dtype: Any, place: int, m: int, n: int, k: int, a: Any, b: Any, c: Any, bias: int, relu: Any
) -> None:
    """C (m, n) = A (m, k) B (k, n) + bias, and ReLU of C.

    ``place`` is the address of `gemm`, which linked into all who call it would be compiled anew for each; bias
    that of n contiguous values, or 0; the rest is as `gemm` takes it.
    """
    item = item_bytes(dtype)
    zero: Any = np.intp(0)
    none = (zero, zero)
    one = dtype.type(1)
    b_column = b[2] if n > 1 else item  # a single column is contiguous, whatever NumPy says
    columns = (b[0], b[1], b_column, NV * (VECTOR // item) * b_column)
    call(gemm, place, dtype, (dtype, m, n, k, a, columns, c, (bias, zero), relu, none, one, zero, zero))


@functools.cache
def gemm_address(itemsize: int) -> int:
    """Address of `gemm` for elements of 4 or 8 bytes."""
    return address(gemm, np.dtype(f"f{itemsize}"))


# ---------------------------------------------------------------------------------------- the products


@jit
def multiply(A: Any, B: Any, C: Any, place: int) -> None:
    """Multiply as `matmul` does, by the address of `gemm`."""
    a, b, c = address_and_strides(A), address_and_strides(B), address_and_strides(C)
    m, n, k = A.shape[0], B.shape[1], A.shape[1]
    through_copy = False
    if c[2] != C.itemsize and n > 1:
        if c[1] == C.itemsize or m <= 1:  # C.T = B.T A.T, the same products in the same order
            a, b, c = (b[0], b[2], b[1]), (a[0], a[2], a[1]), (c[0], c[2], c[1])
            m, n = n, m
        else:
            through_copy = True
    none: Any = np.intp(0)  # a literal 0 is a type of its own to Numba, which would compile product again
    if through_copy:
        copy = allocate(m * n * C.itemsize)
        gemm_bias_relu(C.dtype, place, m, n, k, a, b, (copy, n * C.itemsize), none, (none, none))
        values = array_at(C.dtype, copy, (m * n,))
        for p in range(m * n):  # element by element: an assignment to C[:, :] compiles for 3 s
            C[p // n, p % n] = values[p]
        release(copy)
    else:
        gemm_bias_relu(C.dtype, place, m, n, k, a, b, (c[0], c[1]), none, (none, none))
    keep_alive(A)  # a caller's own array, as dZ below, would else be freed before product reads it
    keep_alive(B)


def matmul(A: Any, B: Any, C: Any) -> None:
    """C (M, N) = A (M, K) B (K, N).  Any strides; C with neither rows nor columns contiguous goes through a copy."""
    multiply(A, B, C, gemm_address(C.itemsize))
