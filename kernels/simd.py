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
from pathlib import Path
from typing import Any

import numpy as np
from numba import types

from ._jit import address, by_address, call, jit
from .activations import apply_activation, apply_derivative
from .elementwise import RELU
from .microkernel import (
    MR,
    NV,
    VECTOR,
    WIDE,
    allocate,
    array_at,
    copy_element,
    copy_vector,
    item_bytes,
    keep,
    layout,
    micro_kernel,
    prefetch,
    release,
)
from .turning import FEW, turn_strip, turned_kernel

# ----------------------------------------------------------------------------------------- block sizes


def _l2_bytes() -> int:
    """Size of this machine's L2 cache a core, where the system tells; else 1 MiB.  Never changes a bit of C."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(size.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 1 << 20


L2 = _l2_bytes()

KC_BYTES = 4096
"""A slice of k in bytes of one row of A, 1024 float32; MR rows of it stay in L1.  A constant, for it
decides where sums are cut: no machine may have its own."""

A_BYTES = 24576
"""A's rows of tiles that the micro-kernel takes at once, one below the other, by one panel of B."""

B_BYTES = L2 // 4
"""The block of B, KC x NC."""

B_BYTES_TALL = 3 * L2 // 4
"""The same below a slice of A of more than A_NEAR bytes, which is read anew for every block."""

A_NEAR = 4 * L2
"""Bytes of A that the L3 cache gives back as fast as they are wanted."""

MC = 340 * MR
"""About how many rows of A a block has, at most half as many more; packed, where A is a transpose, it streams from
L3."""

FEW_ROWS = 64
"""Fewer rows than these do not pay for packing B: a copy costs as much as some 3 rows."""

AHEAD = 8
"""Rows that packing prefetches ahead."""

SLIVERS = 8
"""Slivers of A.T that are packed side by side: 48 elements, 3 cache lines of a row in float32."""

_PAIR, _TRIPLE, _QUAD = (types.UniTuple(types.intp, count) for count in (2, 3, 4))

# --------------------------------------------------------------------------------------------- packing


@jit(internal=True)
def _pack_b(dtype: Any, kb: int, nb: int, b: Any, target: int) -> None:
    """Copy a block of B, kb x nb, into panels of NR columns, rows of a panel one behind the other.

    The last panel is filled up to whole vectors, unless neither rows nor columns are contiguous. B.T is turned in
    squares; a panel has room for whole ones, so that what they write beyond the last k harms nothing.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    start, b_row, b_column = b
    panel = -(-kb // lanes) * lanes * nr * item
    if b_column == item:
        for k in range(kb):
            for j in range(0, nb, lanes):
                to = target + j // nr * panel + (k * nr + j % nr) * item
                prefetch(start + (k + AHEAD) * b_row + j * item)
                copy_vector(dtype, to, start + k * b_row + j * item, nb - j)
    elif b_row == item:
        for j in range(0, nb, lanes):
            to = target + j // nr * panel + j % nr * item
            turn_strip(dtype, to, nr * item, start + j * b_column, b_column, min(lanes, nb - j), kb)
    else:  # neither rows nor columns are contiguous
        for k in range(kb):
            for j in range(nb):
                to = target + j // nr * panel + (k * nr + j % nr) * item
                copy_element(dtype, to, start + k * b_row + j * b_column)


@jit(internal=True)
def _pack_a(dtype: Any, rows: int, tiles: int, kb: int, sliver: int, beyond: int, a: Any, target: int) -> None:
    """Copy a block of A.T, whose columns are contiguous, into slivers: for each k, the rows of one tile.

    ``beyond`` counts the rows that may be read. A vector is copied where a tile's rows are wanted; the next one
    overwrites the rest.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    short, taller = rows // tiles, rows % tiles
    start, _, a_column = a
    for first in range(0, tiles, SLIVERS):
        for k in range(kb):
            for t in range(first, min(first + SLIVERS, tiles)):
                i = t * short + min(t, taller)
                height = short + (t < taller)
                source = start + i * item + k * a_column
                prefetch(source + AHEAD * a_column)
                for q in range(0, height, lanes):  # once, where a vector has MR lanes
                    to = target + t * sliver + (k * height + q) * item
                    copy_vector(dtype, to, source + q * item, beyond - i - q)


# ------------------------------------------------------------------------------------------- the loops


@jit(inline=True)
def _macro_kernel(
    dtype: Any,
    rows: int,
    tiles: int,
    nb: int,
    kb: int,
    a: Any,
    sliver: int,
    b: Any,
    panel: int,
    c: Any,
    add: Any,
    relu: Any,
    gate: Any,
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
        as (address, bytes from column to column), for rows that `turned_kernel` takes.
    c, add, relu, gate : tuple
        As `micro_kernel` takes them, for the whole block.
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
        if sliver > 0:
            a_tiles = (a[0] + t * sliver, item, height * item, sliver)
        j = 0
        while j < nb:  # loop 1
            width = nr
            if rows == 1 and panel == nr * item and nb - j >= WIDE * lanes:
                width = WIDE * lanes
            while width > max(lanes, nb - j):
                width >>= 1
            b_tile = (b[0] + j // nr * panel + j % nr * item, b[1])
            c_tile = _at(c, i, j * item)
            start, clamp, mask = _at(add, i, j * item), _at(relu, i, j * item), _at(gate, i, j * item)
            if panel < 0:
                width = min(lanes, nb - j)
                b_strip = (b[0] + j * b[1], b[1])
                turned_kernel(
                    dtype, height, width, kb, (a_tiles[0], a_tiles[1]), b_strip, c_tile, start, clamp, mask, scale
                )
                j += width
                continue
            micro_kernel(
                dtype, height, min(width, nb - j), kb, count, a_tiles, b_tile, c_tile, start, clamp, mask, scale
            )
            j += width
        t += count


@jit(scalar=True)
def _at(place: Any, i: int, offset: int) -> Any:
    """(address, bytes from row to row) i rows down and some bytes to the right; address 0 stays 0."""
    return place[0] + (i * place[1] + offset) * (place[0] != 0), place[1]


@jit(scalar=True)
def blocking(item: int, m: int, n: int, k: int, a: Any, b: Any) -> Any:
    """How `product_into` cuts and packs.

    Parameters
    ----------
    item, m, n, k, a, b
        As `product_into` takes them. Plain integers: it runs in Python too.

    Returns
    -------
    slices, kc, nc, mc : int
        Slices of k, and the sizes of a block.
    sliver, b_room, room : int
        Bytes of a sliver of A and of a block of B, where they are packed, else 0; bytes of both packed blocks.
    turned : bool
        Whether B is turned as it is multiplied: one tile of rows of A, contiguous as B's columns are.
    """
    lanes = VECTOR // item
    nr = NV * lanes
    in_panels = b[3] != nr * b[2]
    slices, kc = 1, k
    if k > KC_BYTES // item:  # a division takes as long as a small tile's row
        slices = -(-k // (KC_BYTES // item))
        kc = -(-k // slices)
    # A block of B in place is one panel, which loop 2 finds in L2.
    turned = m <= FEW and a[2] == item and b[1] == item and b[2] != item
    small = m < FEW_ROWS or kc * n * item <= (L2 if m < 512 else L2 // 2)
    b_in_place = in_panels or turned or (b[2] == item and small)
    a_packed = a[1] == item and a[2] != item and (m * k * item > L2 or (a[2] % 4096 == 0 and n >= 512))
    nc = nr if m > 1 else 8 * nr
    if not b_in_place:
        bytes_of_block = B_BYTES if m * kc * item <= A_NEAR else B_BYTES_TALL
        blocks = max(1, -(-n * kc * item // bytes_of_block))
        nc = max(1, -(-n // (blocks * nr))) * nr
    mc = max(1, m)
    if m > MC:  # blocks of about the same height: one of the last few rows alone would pack all of B for them
        blocks = (m + MC // 2) // MC
        mc = -(-m // (blocks * MR)) * MR
    sliver = (MR * kc + lanes) * item if a_packed else 0
    b_room = 0 if b_in_place else (kc + lanes) * nc * item
    a_room = -(-mc // MR) * sliver
    room = b_room + a_room + (VECTOR if b_room + a_room > 0 else 0)
    return slices, kc, nc, mc, sliver, b_room, room, turned


@jit(scalar=True)
def _contiguous_column(item: int, a: Any, b: Any, c: Any, start: Any, relu: Any, gate: Any) -> bool:
    """Whether the single column of B and of C, and of what goes into C, is contiguous; A one way or the other."""
    factors = b[1] == item and (a[1] == item or a[2] == item)
    others = (start[1] == 0 or start[1] == item) and (relu[0] == 0 or relu[1] == item)
    return factors and c[1] == item and others and (gate[0] == 0 or gate[1] == item)


@by_address(lambda real: (types.DType(real), *[types.intp] * 3, _TRIPLE, _QUAD, *[_PAIR] * 4, real, *[types.intp] * 2))
@jit(internal=True)
def product_into(
    dtype: Any,
    m: int,
    n: int,
    k: int,
    a: Any,
    b: Any,
    c: Any,
    start: Any,
    relu: Any,
    gate: Any,
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
        As `micro_kernel` takes them: start may be C itself, or a bias with 0 bytes from row to row. A relu that is C
        itself has only that stored.
    scale : float
        Of dtype; where nothing is added, 1.
    work, given : int
        Address and number of bytes for packing. Where `blocking` asks for more they are allocated: it may, for fewer
        rows than the caller thought of, or compiled on a machine of another L2.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    # A single column of C is a row of C.T = B.T A.T, the same products in the same order: 512 x 512 times a column
    # takes 26 us so, 73 in tiles of which one lane counts.
    if n == 1 and m > MR and _contiguous_column(item, a, b, c, start, relu, gate):
        if start[0] != 0 and start[1] == 0:
            for i in range(m):
                copy_element(dtype, c[0] + i * item, start[0])
            start = c
        a, b = (b[0], 0, item), (a[0], a[2], a[1], nr * a[1])
        m, n = n, m
    slices, kc, nc, mc, sliver, b_room, room, turned = blocking(item, m, n, k, a, b)
    if room > given:
        work = allocate(room)
    b_packed = -(-work // VECTOR) * VECTOR
    none = (np.intp(0), np.intp(0))

    i = 0
    while i < m:  # loop 5.  Not range(0, m, mc), which divides: 10 ns
        rows = min(mc, m - i)
        tiles = -(-rows // MR)
        for s in range(slices):  # loop 4
            kb = min(kc, k - s * kc)
            a_block = (a[0] + i * a[1] + s * kc * a[2], a[1], a[2])
            if sliver > 0:
                _pack_a(dtype, rows, tiles, kb, sliver, m - i, a_block, b_packed + b_room)
                a_block = (b_packed + b_room, a[1], a[2])
            j = 0
            while j < n:  # loop 3
                nb = min(nc, n - j)
                b_block = (b[0] + s * kc * b[1] + j // nr * b[3], b[1])
                panel = b[3]
                if turned:
                    b_block, panel = (b_block[0], b[2]), -1
                elif b_room > 0:
                    _pack_b(dtype, kb, nb, (b_block[0], b[1], b[2]), b_packed)
                    b_block = (b_packed, nr * item)
                    panel = -(-kb // lanes) * lanes * nr * item
                c_block = _at(c, i, j * item)
                add = c_block if s > 0 else _at(start, i, j * item)
                clamp, mask = none, none
                if s == slices - 1:
                    clamp, mask = _at(relu, i, j * item), _at(gate, i, j * item)
                    if clamp[0] == c_block[0]:
                        c_block = none
                _macro_kernel(
                    dtype, rows, tiles, nb, kb, a_block, sliver, b_block, panel, c_block, add, clamp, mask, scale
                )
                j += nc
        i += mc
    if room > given:
        release(work)


@jit(internal=True)
def product(dtype: Any, place: int, m: int, n: int, k: int, a: Any, b: Any, c: Any, bias: int, relu: Any) -> None:
    """C (m, n) = A (m, k) B (k, n) + bias, and ReLU of C.

    ``place`` is the address of `product_into`, which linked into all who call it would be compiled anew for each; bias
    that of n contiguous values, or 0; the rest is as `product_into` takes it.
    """
    item = item_bytes(dtype)
    zero: Any = np.intp(0)
    none = (zero, zero)
    one = dtype.type(1)
    b_column = b[2] if n > 1 else item  # a single column is contiguous, whatever NumPy says
    columns = (b[0], b[1], b_column, NV * (VECTOR // item) * b_column)
    call(product_into, place, dtype, (dtype, m, n, k, a, columns, c, (bias, zero), relu, none, one, zero, zero))


@functools.cache
def place_of_product(itemsize: int) -> int:
    """Address of `product_into` for elements of 4 or 8 bytes."""
    return address(product_into, np.dtype(f"f{itemsize}"))


# ---------------------------------------------------------------------------------------- the products


@jit
def multiply(A: Any, B: Any, C: Any, place: int) -> None:
    """Multiply as `matmul` does, by the address of `product_into`."""
    a, b, c = layout(A), layout(B), layout(C)
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
        product(C.dtype, place, m, n, k, a, b, (copy, n * C.itemsize), none, (none, none))
        values = array_at(C.dtype, copy, (m * n,))
        for p in range(m * n):  # element by element: an assignment to C[:, :] compiles for 3 s
            C[p // n, p % n] = values[p]
        release(copy)
    else:
        product(C.dtype, place, m, n, k, a, b, (c[0], c[1]), none, (none, none))
    keep(A)  # a caller's own array, as dZ below, would else be freed before product reads it
    keep(B)


def matmul(A: Any, B: Any, C: Any) -> None:
    """C (M, N) = A (M, K) B (K, N).  Any strides; C with neither rows nor columns contiguous goes through a copy."""
    multiply(A, B, C, place_of_product(C.itemsize))


@jit(internal=True)
def activate_block(activation: int, Z: Any, A: Any, top: int, bottom: int, left: int, right: int) -> None:
    """A = activation(Z) in rows top to bottom and columns left to right."""
    for i in range(top, bottom):
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
    some cache; between the loops of `product`, every product would have to compile them.
    """
    rows, columns = Z.shape
    x, w, z, a = layout(X), layout(W), layout(Z), layout(A)
    bias = np.ascontiguousarray(b)
    in_place = columns <= 1 or (z[2] == Z.itemsize and a[2] == A.itemsize)
    room = 0 if in_place else rows * columns
    if room > 0:
        z = (allocate(2 * room * Z.itemsize), columns * Z.itemsize, Z.itemsize)
        a = (z[0] + room * Z.itemsize, z[1], z[2])
    fused = (a[0], a[1]) if activation == RELU else (0, 0)
    product(Z.dtype, place, rows, columns, X.shape[1], x, (w[0], w[2], w[1]), (z[0], z[1]), layout(bias)[0], fused)
    keep(bias)
    if room > 0:
        values = array_at(Z.dtype, z[0], (2 * room,))
        for p in range(room):
            Z[p // columns, p % columns] = values[p]
            A[p // columns, p % columns] = values[room + p]
        release(z[0])
    if activation != RELU:
        activate_block(activation, Z, A, 0, rows, 0, columns)


def dense_forward(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
    """Z (B, k) = X (B, n) W^T (n, k) + b;  A = activation(Z)."""
    _forward(X, W, b, activation, A, Z, place_of_product(Z.itemsize))


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
    _backward(X, Z, dL_dA, W, activation, dW, db, dX, place_of_product(Z.itemsize))
