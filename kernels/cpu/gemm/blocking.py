"""blocking."""

from pathlib import Path
from typing import Any

from ...jit.decorator import jit
from ...llvm.builder import VECTOR
from .microkernel import MR, NV
from .transpose import MAX_ROWS

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

A_L3_BYTES = 4 * L2
"""Bytes of A that the L3 cache gives back as fast as they are wanted."""

MC = 340 * MR
"""About how many rows of A a block has, at most half as many more; packed, where A is a transpose, it streams from
L3."""

FEW_ROWS = 64
"""Fewer rows than these do not pay for packing B: a copy costs as much as some 3 rows."""


@jit(scalar=True)
def choose_blocking(item: int, m: int, n: int, k: int, a: Any, b: Any) -> Any:
    """How `gemm` cuts and packs.

    Parameters
    ----------
    item, m, n, k, a, b
        As `gemm` takes them. Plain integers: it runs in Python too.

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
    turned = m <= MAX_ROWS and a[2] == item and b[1] == item and b[2] != item
    small = m < FEW_ROWS or kc * n * item <= (L2 if m < 512 else L2 // 2)
    b_in_place = in_panels or turned or (b[2] == item and small)
    a_packed = a[1] == item and a[2] != item and (m * k * item > L2 or (a[2] % 4096 == 0 and n >= 512))
    nc = nr if m > 1 else 8 * nr
    if not b_in_place:
        bytes_of_block = B_BYTES if m * kc * item <= A_L3_BYTES else B_BYTES_TALL
        blocks = max(1, -(-n * kc * item // bytes_of_block))
        nc = max(1, -(-n // (blocks * nr))) * nr
    mc = max(1, m)
    if m > MC:  # blocks of about the same height: one of the last few rows alone would pack all of B for them
        blocks = (m + MC // 2) // MC
        mc = -(-m // (blocks * MR)) * MR
    a_panel_bytes = (MR * kc + lanes) * item if a_packed else 0
    b_room = 0 if b_in_place else (kc + lanes) * nc * item
    a_room = -(-mc // MR) * a_panel_bytes
    buffer_bytes = b_room + a_room + (VECTOR if b_room + a_room > 0 else 0)
    return slices, kc, nc, mc, a_panel_bytes, b_room, buffer_bytes, turned
