"""The GEMM variants: the kernels of each, the choice of a kernel for a product, and its launch.

`GEMM_VARIANTS` is what `variants`, `ptx_report`, `bench/gpu.py` and the tests iterate over. The registry names the same
variants again, because it must not import `numba.cuda`; a test compares the two.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from .arguments import ALONG_LONG, SIMULATED_LANES, VECTORS, GemmArgs
from .device import SIMULATED, enqueue, too_old
from .gemm import SIDE, naive, tiled
from .gemm_fast import BlockTile, fast
from .gemm_tf32x3 import tf32x3

TILES: dict[str, tuple[BlockTile, ...]] = {
    "float32": (
        BlockTile(256, 128, 8, 16, 8, 4),
        BlockTile(128, 128, 8, 8, 8, 4),
        BlockTile(64, 64, 16, 4, 4, 4),
        BlockTile(32, 32, 16, 4, 4, 4),
    ),
    "float64": (BlockTile(64, 64, 8, 4, 4, 2), BlockTile(32, 32, 8, 4, 4, 2)),
}
"""Largest first. `launch` uses the largest tile that still gives every SM a block, otherwise the smallest."""

SIMULATED_TILES = BlockTile(16, 16, 4, 8, 2, SIMULATED_LANES), BlockTile(8, 8, 2, 4, 4, SIMULATED_LANES)
"""Small enough that inputs of some ten rows span several blocks. A thread's rows come in as many pieces as on a card,
and panels are deep enough for a loop over terms."""

TENSOR_TILE = BlockTile(64, 32, 8, 4, 4, SIMULATED_LANES) if SIMULATED else BlockTile(128, 128, 8, 8, 8, 4)
"""The tile of variant ``cuda_tf32x3``; in the simulator it also has several warps, arranged by the same rule."""

MODES = tuple(product((VECTORS, VECTORS | ALONG_LONG), repeat=2))
"""The pairs of modes of A and B for which the fast variants have specialized kernels."""

SMS = 4 if SIMULATED else 132
"""Streaming multiprocessors of an H100 SXM (NVIDIA H100 whitepaper): the fewest blocks that a grid should have."""

GRID_Y = 65535
"""Maximum number of blocks in the second or third dimension of a grid (limits in the CUDA C++ Programming Guide)."""


class GemmKernel(NamedTuple):
    """A GEMM kernel for one dtype, and the parameters that its launch needs.

    Attributes
    ----------
    kernel : dispatcher
        The result of `device.kernel`; called with ``(args, progress, a, b, c)``, as `gemm.naive` documents.
    m, n : int
        Rows and columns of C that a block computes.
    threads : int
        Threads of a block.
    of_modes : callable, optional
        ``(a_mode, b_mode) -> kernel`` for these modes only, one of MODES, and only for arrays of fewer than 2**31
        elements.
    """

    kernel: Any
    m: int
    n: int
    threads: int
    of_modes: Callable[[int, int], Any] | None = None


def _fast(dtype: Any) -> tuple[GemmKernel, ...]:
    """Return the kernels of variant ``cuda``, one for each tile, the largest tile first."""
    tiles = SIMULATED_TILES if SIMULATED else TILES[np.dtype(dtype).name]
    return tuple(
        GemmKernel(fast(dtype, tile), tile.m, tile.n, tile.threads, partial(fast, dtype, tile)) for tile in tiles
    )


def _tensor(dtype: Any) -> tuple[GemmKernel, ...]:
    """Return the kernel of variant ``cuda_tf32x3``; none for float64."""
    if np.dtype(dtype) != np.float32:
        return ()
    tile = TENSOR_TILE
    return (GemmKernel(tf32x3(dtype, tile), tile.m, tile.n, tile.threads, partial(tf32x3, dtype, tile)),)


GEMM_VARIANTS: dict[str, Callable[[Any], tuple[GemmKernel, ...]]] = {
    "cuda_naive": lambda dtype: (GemmKernel(naive, SIDE, SIDE, SIDE * SIDE),),
    "cuda_tiled": lambda dtype: (GemmKernel(tiled(dtype), SIDE, SIDE, SIDE * SIDE),),
    "cuda": _fast,
    "cuda_tf32x3": _tensor,
}
"""A function ``dtype -> kernels`` for every GEMM variant, by name. The kernel with the largest tile comes first; there
are none if the variant does not support the dtype."""


@cache
def gemm_kernels(variant: str, dtype: Any) -> tuple[GemmKernel, ...]:
    """Return the kernels from which `launch` chooses for a variant.

    Parameters
    ----------
    variant : str
        A key of `GEMM_VARIANTS`.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    tuple of GemmKernel
        The largest tile first; empty if the variant does not support the dtype. A kernel is compiled at its first
        launch.

    Raises
    ------
    ValueError
        If there is no such variant.
    """
    if variant not in GEMM_VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of a product on CUDA; there are: {', '.join(GEMM_VARIANTS)}")
    return GEMM_VARIANTS[variant](dtype)


def launch(variant: str, args: GemmArgs, arrays: Any, splits: int = 1, batch: int = 0, stream: Any = 0) -> None:
    """Launch one product with the largest tile that still gives every SM a block, otherwise with the smallest.

    Parameters
    ----------
    variant : str
        A key of `GEMM_VARIANTS`.
    args : GemmArgs
        Sizes, offsets and strides. Without rows or columns nothing is launched.
    arrays : tuple of device arrays
        ``(progress, a, b, c)``: a vector of one DEVICE_PROGRESS, which is read if M or K of ``args`` is -1, and the
        vectors to which its offsets of A, B and C refer, all of c's dtype. These may be the same buffer.
    splits : int, default 1
        Split-K: parts of the sum over K, of ``args.split`` terms each, which are stored separately.
    batch : int, default 0
        Rows that the grid must cover if M of ``args`` is -1.
    stream : stream or graph builder, default 0
        The stream to launch on. The call does not wait for the kernel.

    Raises
    ------
    ValueError
        If there is no such variant, or a grid cannot have that many rows.
    TypeError
        If the variant does not support the dtype.
    OSError
        If the card is too old for the variant.
    """
    kernels = gemm_kernels(variant, arrays[-1].dtype)
    if not kernels:
        raise TypeError(f'variant "{variant}" takes float32, got {arrays[-1].dtype}; use variant="cuda"')
    if too_old(variant):
        raise OSError(f'variant "{variant}" {too_old(variant)}; use variant="cuda"')
    rows, columns = batch if args.m < 0 else args.m, args.n
    if rows == 0 or columns == 0:
        return
    fills = (each for each in kernels if -(-rows // each.m) * -(-columns // each.n) * splits >= SMS)
    kernel, m, n, threads, of_modes = next(fills, kernels[-1])
    modes = args.a_mode, args.b_mode
    if of_modes is not None and modes in MODES and all(array.size < 1 << 31 for array in arrays):
        kernel = of_modes(*modes)
    if rows > GRID_Y * m:
        raise ValueError(
            f'variant "{variant}" takes at most {GRID_Y * m} rows at a time, got {rows}; call it for parts'
        )
    enqueue(kernel, (-(-columns // n), -(-rows // m), splits), threads, args, *arrays, stream=stream)
