"""Block sizes of the product: how `gemm` divides C and which operands it packs. They never change a bit of C, but KC.

The reasons and figures of every constant stand in docs/performance-notes/gemm.md.
"""

from pathlib import Path
from typing import Any, NamedTuple

from ...jit.decorator import jit
from ...llvm.builder import VECTOR
from .microkernel import MR, NV
from .operands import Matrix, Shape
from .transpose import MAX_ROWS


def _l2_bytes() -> int:
    """Return the size of a core's L2 cache, where the system tells it; otherwise 1 MiB."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(size.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 1 << 20


L2 = _l2_bytes()

KC_BYTES = 4096
"""KC in bytes of one row of A: 1024 float32; MR rows of it stay in L1. The same on every machine, since it decides
where sums are cut."""

A_BYTES = 24576
"""Bytes of micro-panels of A that the micro-kernel processes at once, one below the other, for one panel of B."""

B_BYTES = L2 // 4
"""Bytes of a block of B, KC x NC."""

B_BYTES_TALL = 3 * L2 // 4
"""The same below a block of A of more than A_L3_BYTES, which is read again for every block of B."""

A_L3_BYTES = 4 * L2
"""Bytes of A that the L3 cache supplies as fast as they are needed."""

MC = 340 * MR
"""About how many rows of A a block has, at most half as many more."""

FEW_ROWS = 64
"""With fewer rows, packing B does not pay: a copy costs as much as some 3 rows."""


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
    # A block of B in place is one panel, which loop 2 finds in L2.
    transposes_b = m <= MAX_ROWS and a.column_stride == item and b.row_stride == item and b.column_stride != item
    small = m < FEW_ROWS or kc * n * item <= (L2 if m < 512 else L2 // 2)
    b_in_place = in_panels or transposes_b or (b.column_stride == item and small)
    a_columns = a.row_stride == item and a.column_stride != item
    pack_a = a_columns and (m * k * item > L2 or (a.column_stride % 4096 == 0 and n >= 512))
    nc = nr if m > 1 else 8 * nr
    if not b_in_place:
        block_bytes = B_BYTES if m * kc * item <= A_L3_BYTES else B_BYTES_TALL
        blocks = max(1, -(-n * kc * item // block_bytes))
        nc = max(1, -(-n // (blocks * nr))) * nr
    mc = max(1, m)
    if m > MC:  # blocks of about the same height: one of the last few rows alone would pack all of B for them
        blocks = (m + MC // 2) // MC
        mc = -(-m // (blocks * MR)) * MR
    a_panel_bytes = (MR * kc + lanes) * item if pack_a else 0
    b_block_bytes = 0 if b_in_place else (kc + lanes) * nc * item
    packed_bytes = b_block_bytes + -(-mc // MR) * a_panel_bytes
    buffer_bytes = packed_bytes + (VECTOR if packed_bytes > 0 else 0)
    return Blocking(k_blocks, kc, nc, mc, a_panel_bytes, b_block_bytes, buffer_bytes, transposes_b)
