"""Block sizes of the product: how `gemm` divides C and which operands it packs. Only KC affects the bits of C.

docs/performance-notes/gemm.md has reasons and figures for every constant.
"""

from typing import Any, NamedTuple

from ...jit.decorator import jit
from ...jit.machine import MACHINE, MOST_L3_BYTES, Machine
from ...llvm.builder import LINE, VECTOR, WAY
from .microkernel import MR, NV
from .operands import Matrix, Shape
from .transpose import MAX_ROWS, MAX_ROWS_IN_PLACE

WIDE = NV * VECTOR > 64
"""Whether a row of a micro-panel of B spans several cache lines, as with AVX-512. A small B is then read in place as
fast as packed, and A's micro-panel stays in L1. With AVX2 and NEON a row is one line of 64 bytes, and a B in place has
another page every few rows: there both factors are packed, as in BLIS."""

KC_BYTES = 4096
"""KC, as bytes of one row of A: 1024 float32. It is the same on every machine, since it decides where sums are cut."""


class CacheBlocks(NamedTuple):
    """Sizes in bytes of blocks that should stay in a cache, or that a cache supplies.

    Attributes
    ----------
    a : int
        Micro-panels of A that the micro-kernel processes in one call, one below the other, for one micro-panel of B.
    b : int
        A packed block of B, KC x NC.
    b_tall : int
        The same if A's rows over one block of k take more than ``a_l3``; they are read again for every block of B.
    b_few_rows : int
        The same if A has fewer rows than LARGE_BLOCK_ROWS: these reuse B so rarely that it should stay in L2.
    a_l3 : int
        Most bytes of A's rows over one block of k that the L3 cache supplies as fast as they are needed.
    b_in_place : int
        Most bytes of KC rows of B up to which B is read in place; half as many from MANY_ROWS rows of A on.
    a_in_place : int
        Largest A.T that is read in place with AVX-512, if C has at least PACK_A_COLUMNS columns; with fewer,
        L2 is the limit.
    """

    a: int
    b: int
    b_tall: int
    b_few_rows: int
    a_l3: int
    b_in_place: int
    a_in_place: int


def cache_blocks(machine: Machine, wide: bool = WIDE) -> CacheBlocks:
    """Return block sizes for a machine's caches, by BLIS's analytical model: what is read most is kept nearest.

    Blocks use half of L1, or three quarters for data that streams through it: the other hardware thread may use the
    rest. They use a quarter of L2, or three quarters if nothing else is read again, and a core's share of L3.
    """
    l1, l2 = machine.share(1), machine.share(2)
    if wide:
        # A's micro-panel is in L1, a block of B in L2. Rows of a B in place, each in another page, would not use L2.
        b, b_tall, b_few_rows = l2 // 4, 3 * l2 // 4, l2 // 4
        return CacheBlocks(3 * l1 // 4, b, b_tall, b_few_rows, 4 * l2, min(l2, 128 << 10), min(l2, 512 << 10))
    # A block of A is in L2. It has at least 32 rows, if half of L2 holds them, so that L3 supplies each micro-panel of
    # B in time. Packed B is in L3; A is read or packed again for each block of B, so such a block has at least 1 MiB.
    a = max(l2 // 4, min(128 << 10, l2 // 2))
    b = max(1 << 20, l2 // 2, min(machine.share(3), MOST_L3_BYTES))
    return CacheBlocks(a, b, b, l2 // 8, 4 * l2, l1 // 2, min(l2, 512 << 10))


L1, L2 = MACHINE.share(1), MACHINE.share(2)
"""Bytes of a core's share of L1 and L2."""

BLOCKS = cache_blocks(MACHINE)
A_BYTES, B_BYTES, B_BYTES_TALL, B_BYTES_FEW_ROWS, A_L3_BYTES, B_IN_PLACE_BYTES, A_IN_PLACE_BYTES = BLOCKS

LARGE_BLOCK_ROWS = 48
"""With at least this many rows of A, a block of B may be in L3."""

MC = 340 * MR
"""Rows of a large block of A, about. Blocks of similar height may have up to half as many more; where A_BYTES hold
fewer, they have fewer."""

FEW_ROWS = 64 if WIDE else 24
"""With fewer rows of A, packing B does not pay: a copy costs as much as some 3 rows."""

MANY_ROWS = 512
"""From this many rows of A on, only a smaller B is read in place."""

SET_STRIDE = WAY // 2
"""If rows of A are a multiple of this many bytes apart, all lines of a tile are in one or two sets of L1."""

PACK_A_COLUMNS = 128
"""With AVX-512, and at least this many columns of C, even an A.T smaller than L2 may be packed."""

PACK_A_PANELS = 8
"""Without AVX-512, packing A pays from this many micro-panels of B on; from half as many if each reads an A.T that is
not in L1."""

FAR_B_BYTES = L2 // 2
"""If micro-panels of a whole B take more than this, they come from L3: the tiles of a micro-panel prefetch the next."""

FAR_B_TILES = 4
"""Fewest tiles that do so: fewer are done before the next micro-panel could have arrived."""

FAR_B_K = 64
"""Shortest micro-panel that is prefetched so."""


class Blocking(NamedTuple):
    """How one product is divided into blocks.

    Attributes
    ----------
    k_blocks, kc, nc, mc : int
        Number of blocks of k; k, columns and rows of a block.
    a_panel_bytes : int
        Bytes of a packed micro-panel of A; 0 if A is read in place.
    b_block_bytes : int
        Bytes of a packed block of B; 0 if B is read in place.
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
    """Return the `Blocking` of a product with elements of ``item`` bytes; works compiled and in Python."""
    m, n, k = shape.m, shape.n, shape.k
    lanes = VECTOR // item
    nr = NV * lanes
    in_panels = b.panel_stride != nr * b.column_stride
    k_blocks, kc = 1, k
    if k > KC_BYTES // item:  # a division takes as long as a small tile's row
        k_blocks = -(-k // (KC_BYTES // item))
        kc = -(-k // k_blocks)
    a_rows, a_columns = a.column_stride == item, a.row_stride == item and a.column_stride != item
    # If rows of A are not contiguous, all of B is packed, even for a single row.
    transposes_b = m <= MAX_ROWS and a_rows and b.row_stride == item and b.column_stride != item
    # In place, rows of B a WAY apart share a set of L1, and often of L2, and every tile of C reads them again.
    few_rows = FEW_ROWS // 2 if not WIDE and b.row_stride % WAY == 0 else FEW_ROWS
    small = kc * n * item <= (B_IN_PLACE_BYTES if m < MANY_ROWS else B_IN_PLACE_BYTES // 2)
    if WIDE and (b.address | b.row_stride) % LINE != 0:
        # Vectors cross lines, two loads each, which costs time unless L1 supplies them. A row of a micro-panel takes up
        # as much of L1 as the rows' distance excludes for the others.
        row_bytes = max(nr * item, min(b.row_stride & -b.row_stride, WAY))
        small = small and 3 * kc * row_bytes < 2 * L1
    b_in_place = in_panels or transposes_b or (b.column_stride == item and (small or m < few_rows))
    if not a_rows and not a_columns:
        pack_a = m > 1  # the micro-kernel cannot read such an A
    elif WIDE:
        large = m * k * item > (A_IN_PLACE_BYTES if n >= PACK_A_COLUMNS else L2)
        pack_a = a_columns and (large or (a.column_stride % WAY == 0 and n >= 512))
    else:
        # Every k of an A.T is a new line, or page. If half of L1 does not hold these, each panel reads them from L2.
        panels = PACK_A_PANELS // 2 if a_columns and kc * LINE > L1 // 2 else PACK_A_PANELS
        pack_a = (a_columns or a.row_stride % SET_STRIDE == 0) and n >= panels * nr and m > MAX_ROWS
    # A block of a B in place is a single micro-panel, which stays in L2 during loop 2.
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
    if m > most:  # blocks of similar height: a last one of few rows would not pay for reading its panels of B
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
