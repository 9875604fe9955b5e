"""Float32 products on tensor cores, variant ``cuda_tf32x3``: three products of TF32 for each product of float32.

A tensor core multiplies numbers of 11 significant bits (TF32) and accumulates in float32. Each factor is split into a
big and a small part of 11 bits, and the kernel adds small * big + big * small + big * big. The terms left out, small *
small and the last bit or two of the small part, are about what float32 rounds away. A tensor core may truncate its sums
instead of rounding them, so each step of eight terms starts from 0, and the CUDA cores, which round to nearest, add up
the steps' sums.

The variant runs only if it is named: it turns an infinity into NaN, since its small part is infinity - infinity, and
also numbers from 3.40199e38 on, which round to infinity; the small parts of those below some 2e-31 lose bits or vanish.

A warp computes 64 x 32 of the block's 128 x 128, as 4 x 4 tiles of 16 x 8, from panels that move as in `gemm_fast`. Any
row of C may be any row of a tile, and the terms may come in any order, as long as A, B and C agree. Both are chosen so
that a thread's parts of A and B lie in pieces of 16 bytes, whose loads have no bank conflicts, and its part of C in
such pieces too: see `places`. The kernel has never run on a card, and nothing of it has been timed.
"""

from functools import cache
from typing import Any

import numpy as np

from .device import device
from .gemm_fast import BlockTile, Multiplier, block_kernel, in_sequence, tile_storer
from .panel import ANY_MODE, Panels, panels
from .register_tile import added, mma_tf32, row_of, split_tf32

STEP = 8
"""Terms that one tensor core instruction sums."""

BLOCKS = 1
"""Blocks that should share an SM: sums, parts of factors and next pieces take some 200 registers per thread."""


def _step(real: Any, tile: BlockTile, a: Panels, b: Panels) -> Any:
    """Make the device function ``(sums, left, at_a, right, at_b) -> sums`` that adds STEP terms.

    The threads of a warp hold four pairs of neighbouring terms: thread q of four passes the panel's terms 2 q and
    2 q + 1 to the instruction as its terms q and q + 4.
    """
    a_row, b_row, a_stride, b_stride = a.row, b.row, a.stride, b.stride
    of_a, of_b, zeros = 2 * tile.tm, tile.tn, (real(0),) * (tile.tm * tile.tn)

    @device
    def step(sums: Any, left: Any, at_a: int, right: Any, at_b: int) -> Any:
        """Add the small products first, because they would be rounded away if added to the large ones."""
        a = split_tf32(a_row(left, at_a) + a_row(left, at_a + a_stride))
        b = split_tf32(b_row(right, at_b) + b_row(right, at_b + b_stride))
        big_a, small_a = row_of(a, 0, of_a), row_of(a, 1, of_a)
        big_b, small_b = row_of(b, 0, of_b), row_of(b, 1, of_b)
        terms = mma_tf32(mma_tf32(zeros, small_a, big_b), big_a, small_b)
        return added(sums, mma_tf32(terms, big_a, big_b))

    return step


@cache
def tf32x3(dtype: Any, tile: BlockTile, a_mode: int = ANY_MODE, b_mode: int = ANY_MODE) -> Any:
    """Make a kernel of variant ``cuda_tf32x3``.

    Sources: NVIDIA, PTX ISA, "Matrix Fragments for mma.m16n8k8" (.tf32); the three products: CUTLASS, example 27, and
    Ootomo, Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak
    performance" (2022), which also adds up outside of the tensor cores.

    Parameters
    ----------
    dtype : dtype
        float32.
    tile : BlockTile
        A multiple of the tile of a warp, 8 tm x 4 tn; k is a multiple of STEP, and tn two pieces of 16 bytes.
    a_mode, b_mode : int, default ANY_MODE
        As in `gemm_fast.fast`.

    Returns
    -------
    dispatcher
        A kernel with the parameters of `gemm.naive`, each of whose blocks computes a tile of C.
    """
    real = np.dtype(dtype).type
    bm, bn, bk, tm, tn, lanes = tile
    a = panels(bm, bk, tm, lanes, tile.threads, a_mode)
    b = panels(bn, bk, lanes, lanes, tile.threads, b_mode)
    warps_across, a_pair, b_pair = bn // (4 * tn), 2 * a.stride, 2 * b.stride

    @device
    def places(t: int) -> Any:
        """See `Multiplier`. Thread 4 g + q of a warp has row g of each tile in A and C, and column g of each in B.

        Row g of tile (i, j) is the warp's row ``lanes`` g + i, and row g + 8 the corresponding row in the block's lower
        half; column g is the warp's column ``lanes`` g + j, so C's columns 2 q and 2 q + 1 are two adjacent pieces.
        """
        warp, g, q = t // 32, t % 32 // 4, t % 4
        y, x = (warp // warps_across * 8 + g) * lanes, warp % warps_across * (4 * tn)
        return q * a_pair + y, q * b_pair + x + g * lanes, y, x + q * tn

    step = _step(real, tile, a, b)
    multiplied = in_sequence(step, bk // STEP, STEP * a.stride, STEP * b.stride)
    how = Multiplier(a, b, places, multiplied, tile_storer(real, tile, lanes))
    return block_kernel(f"cuda_{np.dtype(dtype).name}_tf32x3", dtype, tile, BLOCKS, (a_mode, b_mode), how)
