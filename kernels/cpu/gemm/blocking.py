"""Block sizes of the product: how `gemm` divides C and which operands it packs. They never change a bit of C, but KC.

The reasons and figures of every constant stand in docs/performance-notes/gemm.md.
"""

from typing import Any, NamedTuple

from ...jit.decorator import jit
from ...jit.machine import MACHINE, MOST_L3_BYTES, Machine
from ...llvm.builder import LINE, VECTOR, WAY
from .microkernel import MR, NV
from .operands import Matrix, Shape
from .transpose import MAX_ROWS, MAX_ROWS_IN_PLACE

WIDE = NV * VECTOR > 64
"""Whether a row of a micro-panel of B is several cache lines, as with AVX-512. A small B in place is then read
as well as packed, and what stays in L1 is A's micro-panel. With AVX2 and NEON it is one line of 64 bytes, of another
page every few rows: there both factors are packed, as in BLIS."""

KC_BYTES = 4096
"""KC in bytes of one row of A: 1024 float32. The same on every machine, since it decides where sums are cut."""


class CacheBlocks(NamedTuple):
    """Bytes of what is to stay in a cache, or is supplied by it.

    Attributes
    ----------
    a : int
        Micro-panels of A that the micro-kernel processes at once, one below the other, for one panel of B.
    b : int
        A packed block of B, KC x NC.
    b_tall : int
        The same below a block of A of more than ``a_l3``, which is read again for every block of B.
    b_few_rows : int
        The same below fewer rows of A than LARGE_BLOCK_ROWS, which read it so few times that it had better stay in L2.
    a_l3 : int
        What of A the L3 cache supplies as fast as it is needed.
    b_in_place : int
        A B that is read in place whatever A's rows; half of it from MANY_ROWS on.
    a_in_place : int
        An A.T that is read in place with AVX-512, where C has PACK_A_COLUMNS; with fewer columns, L2.
    """

    a: int
    b: int
    b_tall: int
    b_few_rows: int
    a_l3: int
    b_in_place: int
    a_in_place: int


def cache_blocks(machine: Machine, wide: bool = WIDE) -> CacheBlocks:
    """Return the sizes of blocks for a machine's caches, by BLIS's analytical model: what is read most lies nearest.

    Of L1 half is used, or three quarters by what streams through it: its other hardware thread may use the rest. Of L2
    a quarter, or three quarters where nothing else is read again; of L3 a core's share.
    """
    l1, l2 = machine.share(1), machine.share(2)
    if wide:
        # A's micro-panel in L1, a block of B in L2. Rows of B in place, each in another page, leave L2 unused.
        b, b_tall, b_few_rows = l2 // 4, 3 * l2 // 4, l2 // 4
        return CacheBlocks(3 * l1 // 4, b, b_tall, b_few_rows, 4 * l2, min(l2, 128 << 10), min(l2, 512 << 10))
    # A block of A in L2: at least the 32 rows, as far as half of L2 holds them, for which L3 supplies each micro-panel
    # of B in time. Packed B in L3; A is read, or packed, again for each block of it, so it has no less than 1 MiB.
    a = max(l2 // 4, min(128 << 10, l2 // 2))
    b = max(1 << 20, l2 // 2, min(machine.share(3), MOST_L3_BYTES))
    return CacheBlocks(a, b, b, l2 // 8, 4 * l2, l1 // 2, min(l2, 512 << 10))


L1, L2 = MACHINE.share(1), MACHINE.share(2)
"""Bytes of a core's caches."""

BLOCKS = cache_blocks(MACHINE)
A_BYTES, B_BYTES, B_BYTES_TALL, B_BYTES_FEW_ROWS, A_L3_BYTES, B_IN_PLACE_BYTES, A_IN_PLACE_BYTES = BLOCKS

LARGE_BLOCK_ROWS = 48
"""Rows of A from which a block of B may lie in L3."""

MC = 340 * MR
"""Rows of A a block has at most, about: at most half as many more. Fewer where A_BYTES hold fewer."""

FEW_ROWS = 64 if WIDE else 24
"""With fewer rows, packing B does not pay: a copy costs as much as some 3 rows."""

MANY_ROWS = 512
"""Rows from which less of B is read in place."""

SET_STRIDE = WAY // 2
"""Rows of A a multiple of this many bytes apart have all lines of a tile in one or two sets of L1."""

PACK_A_COLUMNS = 128
"""With AVX-512, columns of C from which an A.T is packed that is smaller than L2."""

PACK_A_PANELS = 8
"""Elsewhere, micro-panels of B from which packing A pays; half as many do where each of them reads an A.T beyond L1."""


class Blocking(NamedTuple):
    """How one product is divided.

    Attributes
    ----------
    k_blocks, kc, nc, mc : int
        Number of blocks of k; k, columns and rows of a block.
    a_panel_bytes : int
        Bytes of a packed micro-panel of A; 0 where A is read in place.
    b_block_bytes : int
        Bytes of a packed block of B; 0 where B is read in place.
    buffer_bytes : int
        Bytes of both packed blocks and their alignment.
    transposes_b : bool
        Whether `gemm_bt_microkernel` transposes B in registers as it multiplies.
    """

    k_blocks: int
    kc: int
    nc: int
    mc: int
    a_panel_bytes: int
    b_block_bytes: int
    buffer_bytes: int
    transposes_b: bool


@jit(scalar=True)
def choose_blocking(item: int, shape: Shape, a: Matrix, b: Matrix) -> Any:
    """Return the `Blocking` of a product of elements of ``item`` bytes; compiled or in Python."""
    m, n, k = shape.m, shape.n, shape.k
    lanes = VECTOR // item
    nr = NV * lanes
    in_panels = b.panel_stride != nr * b.column_stride
    k_blocks, kc = 1, k
    if k > KC_BYTES // item:  # a division takes as long as a small tile's row
        k_blocks = -(-k // (KC_BYTES // item))
        kc = -(-k // k_blocks)
    a_rows, a_columns = a.column_stride == item, a.row_stride == item and a.column_stride != item
    # A row of A that is not contiguous has all of B packed, even if it is the only one.
    transposes_b = m <= MAX_ROWS and a_rows and b.row_stride == item and b.column_stride != item
    # In place, rows of B a WAY apart share a set of L1, and often of L2, and every tile of C reads them again.
    few_rows = FEW_ROWS // 2 if not WIDE and b.row_stride % WAY == 0 else FEW_ROWS
    small = m < few_rows or kc * n * item <= (B_IN_PLACE_BYTES if m < MANY_ROWS else B_IN_PLACE_BYTES // 2)
    b_in_place = in_panels or transposes_b or (b.column_stride == item and small)
    if not a_rows and not a_columns:
        pack_a = m > 1  # the micro-kernel knows no such A
    elif WIDE:
        large = m * k * item > (A_IN_PLACE_BYTES if n >= PACK_A_COLUMNS else L2)
        pack_a = a_columns and (large or (a.column_stride % WAY == 0 and n >= 512))
    else:
        # A row of A.T is a new line, or page, for every k; each panel reads more of them than half of L1 holds from L2.
        panels = PACK_A_PANELS // 2 if a_columns and kc * LINE > L1 // 2 else PACK_A_PANELS
        pack_a = (a_columns or a.row_stride % SET_STRIDE == 0) and n >= panels * nr and m > MAX_ROWS
    # A block of B in place is one panel, which loop 2 finds in L2.
    nc = nr if m > 1 else 8 * nr
    if not b_in_place:
        block_bytes = B_BYTES if m * kc * item <= A_L3_BYTES else B_BYTES_TALL
        if m < LARGE_BLOCK_ROWS:
            block_bytes = B_BYTES_FEW_ROWS
        blocks = max(1, -(-n * kc * item // block_bytes))
        nc = max(1, -(-n // (blocks * nr))) * nr
    mc = max(1, m)
    most = MC
    if not WIDE and pack_a:
        most = max(MR, A_BYTES // (kc * item))
    if m > most:  # blocks of about the same height: one of the last few rows alone would not pay for its panels of B
        blocks = (m + most // 2) // most
        mc = -(-m // (blocks * MR)) * MR
        if pack_a and b_in_place:  # packed once
            nc = max(nc, n)
    a_panel_bytes = MR * (kc + lanes) * item if pack_a else 0
    if transposes_b and m > MAX_ROWS_IN_PLACE:
        a_panel_bytes = MAX_ROWS * (kc + lanes) * item
    b_block_bytes = 0 if b_in_place else (kc + lanes) * nc * item
    packed_bytes = b_block_bytes + (1 if transposes_b else -(-mc // MR)) * a_panel_bytes
    buffer_bytes = packed_bytes + (VECTOR if packed_bytes > 0 else 0)
    return Blocking(k_blocks, kc, nc, mc, a_panel_bytes, b_block_bytes, buffer_bytes, transposes_b)
