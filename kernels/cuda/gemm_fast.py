"""The fast product, variant ``cuda``: block, warp and thread tiles.

Each thread holds 16 x 8 or 8 x 8 sums in registers, so six 16-byte loads from shared memory feed 128 FMAs, or four feed
64. A warp is 4 x 8 threads, so that those loads are broadcasts or free of bank conflicts. While a block multiplies its
panels, the next ones are on their way from memory to registers; shared memory is double-buffered, so that one barrier
per panel is enough. The terms of a panel are unrolled. The costs are 26 or 17 KB of shared memory, some 250 or 128
registers per thread, and whole tiles of work at the edges. Nothing is measured, because no card was available;
docs/performance-notes/cuda.md has the assembler's figures.

There is one kernel for each layout of two factors of whole vectors, without a branch in its main loop, and one for all
other factors.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..specs.activations import IDENTITY, RELU
from .activations import activate, slope
from .arguments import ALONG_LONG, VECTOR_BYTES
from .device import SIMULATED, cuda, device, kernel
from .gemm import size_or_batch_rows
from .panel import ANY_MODE, PIECES, Panels, panels
from .register_tile import outer, row_of, storer


class BlockTile(NamedTuple):
    """A block's tile of C (m, n), the depth k of its panels, a thread's tile (tm, tn), and the elements in 16 bytes."""

    m: int
    n: int
    k: int
    tm: int
    tn: int
    lanes: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.m // self.tm * (self.n // self.tn)

    @property
    def together(self) -> int:
        """Terms of a panel to unroll: all of them, if that spills no registers."""
        return 2 if self.tm * self.tn == 64 else self.k

    @property
    def blocks(self) -> int:
        """Blocks that should share an SM: few enough that each thread has the registers for its sums."""
        return 1 if self.tm * self.tn > 64 else 2 if self.threads >= 256 else 4


class Multiplier(NamedTuple):
    """Device functions that move and multiply a block's panels of A and B, and store its tile; they do not synchronise.

    Attributes
    ----------
    a, b : Panels
        Functions that move the panels.
    places : device function
        ``(t) -> at_a, at_b, y, x``: the offsets of thread ``t``'s first elements in a panel of A and of B, and the row
        and column of its tile in the block's tile of C.
    multiplied : device function
        ``(sums, left, at_a, right, at_b) -> sums``: adds all terms of the panels to a thread's sums, row by row.
    store_tile : device function
        A result of `tile_storer`.
    """

    a: Panels
    b: Panels
    places: Any
    multiplied: Any
    store_tile: Any


def tile_storer(real: Any, tile: BlockTile, step_n: int) -> Any:
    """Make the device function that stores a thread's tile of C with its epilogue.

    Parameters
    ----------
    real : type
        Type of the elements.
    tile : BlockTile
    step_n : int
        Columns from a thread's first piece of 16 bytes to its second.

    Returns
    -------
    store_tile : device function
        ``(args, sums, m0, n0, rows, arrays, part)``: ``m0``, ``n0``: row and column of C of the tile's first element;
        ``rows``: number of rows of C; ``arrays``: a, b, c. It neither synchronises nor uses shared memory.
    """
    bm, _, _, tm, tn, lanes = tile
    pieces_n, step_m = tn // lanes, bm * lanes // tm
    count = tm * tn
    store, piece, ones, zero = storer(lanes), PIECES[lanes], (real(1),) * tm, real(0)

    @device
    def one_bias(b: Any, at: int, left: int) -> Any:
        """Return a thread's elements of the bias as a row of its tile, which starts ``left`` columns from C's edge."""
        return piece(b, at, 1, left)

    @device
    def two_biases(b: Any, at: int, left: int) -> Any:
        """Return the same for two pieces."""
        return piece(b, at, 1, left) + piece(b, at + step_n, 1, left - step_n)

    @device
    def rectified2(values: Any) -> Any:
        """Return ReLU of two elements; NaN stays NaN."""
        return zero if values[0] < zero else values[0], zero if values[1] < zero else values[1]

    @device
    def rectified4(values: Any) -> Any:
        """Return ReLU of four elements."""
        return rectified2(values[:2]) + rectified2(values[2:])

    bias_row, rectified = one_bias if pieces_n == 1 else two_biases, rectified2 if lanes == 2 else rectified4

    @device
    def store_piece(flat: Any, at: int, values: Any, left: int, aligned: bool) -> None:
        """Store a piece that starts ``left`` columns from C's edge: 16 bytes at once, or element by element."""
        if aligned and left >= lanes:
            store(flat, at, values)
        else:
            for e in range(lanes):
                if e < left:
                    flat[at + e] = row_of(values, e, 1)[0]

    @device
    def store_tile(args: Any, sums: Any, m0: int, n0: int, rows: int, arrays: Any, part: int) -> None:
        """Store Z and apply ReLU in one loop, after the bias; in another, to C read back, other activations and gate.

        These need exponentials, or another layer's A: in the first loop their code would be repeated for each sum.
        """
        a, b, c = arrays
        columns, c_row, z_at = args.n, args.c_row, args.z
        to = args.c + part * args.split_step
        aligned = c_row % lanes == 0 and to % lanes == 0 and (z_at < 0 or z_at % lanes == 0)
        code, gate, gate_a = args.code, args.gate_code, args.gate_a
        if args.bias >= 0:
            sums = outer(sums, ones, bias_row(b, args.bias + n0, columns - n0))
        for i in range(tm):
            m = m0 + i // lanes * step_m + i % lanes
            if m < rows:
                row = row_of(sums, i, tn)
                for p in range(pieces_n):
                    n = n0 + p * step_n
                    values, place = row_of(row, p, lanes), m * c_row + n
                    if z_at >= 0:
                        store_piece(c, z_at + place, values, columns - n, aligned)
                    if code == RELU:
                        values = rectified(values)
                    store_piece(c, to + place, values, columns - n, aligned)
        if gate > IDENTITY or code > RELU:
            for i in range(count):
                row_i, column = i // tn, i % tn
                m = m0 + row_i // lanes * step_m + row_i % lanes
                n = n0 + column // lanes * step_n + column % lanes
                if m < rows and n < columns:
                    place = m * c_row + n
                    value = c[to + place]
                    if gate > IDENTITY:
                        z = a[args.gate_z + place] if args.gate_z >= 0 else value
                        value *= slope(gate, a[gate_a + place], z)
                    c[to + place] = activate(code, value) if code > RELU else value

    return store_tile


def in_sequence(term: Any, count: int, a_step: int, b_step: int) -> Any:
    """Make the device function that adds terms of a panel to a thread's sums, in order and without a loop.

    NVVM would not unroll a loop, and its counter, offsets and branch would be a twentieth of the instructions.

    Parameters
    ----------
    term : device function
        ``(sums, left, at_a, right, at_b) -> sums``: panels of A and B in shared memory, and the offsets of the term.
    count : int
        A power of two.
    a_step, b_step : int
        Elements from a term to the next in the panels.

    Returns
    -------
    multiplied : device function
        As ``term``, for all ``count`` terms.
    """
    if count == 1:
        return term
    half = count // 2
    part = in_sequence(term, half, a_step, b_step)
    to_a, to_b = half * a_step, half * b_step

    @device
    def parts(sums: Any, left: Any, at_a: int, right: Any, at_b: int) -> Any:
        """Add the first half of the terms, then the second."""
        return part(part(sums, left, at_a, right, at_b), left, at_a + to_a, right, at_b + to_b)

    return parts


def _panel_product(terms: int, together: int, a: Panels, b: Panels) -> Any:
    """Make `Multiplier.multiplied` from outer products, in a loop that adds ``together`` terms at a time.

    The loop is for kernels that would otherwise lack registers; if ``together`` covers all terms, there is no loop.
    """
    row_of_a, row_of_b = a.row, b.row

    @device
    def term(sums: Any, left: Any, at_a: int, right: Any, at_b: int) -> Any:
        """Add one term."""
        return outer(sums, row_of_a(left, at_a), row_of_b(right, at_b))

    some = in_sequence(term, together, a.stride, b.stride)
    if together == terms:
        return some
    to_a, to_b = together * a.stride, together * b.stride

    @device
    def looped(sums: Any, left: Any, at_a: int, right: Any, at_b: int) -> Any:
        """Add ``together`` terms at a time."""
        for _ in range(0, terms, together):
            sums = some(sums, left, at_a, right, at_b)
            at_a += to_a
            at_b += to_b
        return sums

    return looped


@cache
def fast(dtype: Any, tile: BlockTile, a_mode: int = ANY_MODE, b_mode: int = ANY_MODE) -> Any:
    """Make a kernel of variant ``cuda``.

    Source: NVIDIA, "CUTLASS: Fast Linear Algebra in CUDA C++" (2017), for the hierarchy of tiles.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    tile : BlockTile
        ``tile.threads`` threads per block, at least one warp outside the simulator.
    a_mode, b_mode : int, default ANY_MODE
        With VECTORS: the kernel is for these modes of A and B only, in arrays of fewer than 2**31 elements.

    Returns
    -------
    dispatcher
        A kernel with the parameters of `gemm.naive`, each of whose blocks computes a tile of C.
    """
    bm, bn, bk, tm, tn, lanes = tile
    a, b = (panels(bm, bk, tm, lanes, tile.threads, a_mode), panels(bn, bk, tn, lanes, tile.threads, b_mode))
    together = min(bk, 2 if a_mode == ANY_MODE else tile.together)
    # A warp is 4 threads high and 8 wide; a thread's rows and columns come in pieces of 16 bytes.
    across = bn // tn
    wide = min(8, across)
    high = max(1, min(32, tile.threads) // wide)
    warps_across = across // wide

    @device
    def places(t: int) -> Any:
        """See `Multiplier`."""
        warp, lane = t // 32, t % 32
        y = (warp // warps_across * high + lane // wide) * lanes
        x = (warp % warps_across * wide + lane % wide) * lanes
        return y, x, y, x

    store_tile = tile_storer(np.dtype(dtype).type, tile, bn * lanes // tn)
    how = Multiplier(a, b, places, _panel_product(bk, together, a, b), store_tile)
    return block_kernel(f"cuda_{np.dtype(dtype).name}", dtype, tile, tile.blocks, (a_mode, b_mode), how)


def block_kernel(name: str, dtype: Any, tile: BlockTile, blocks: int, modes: tuple[int, int], how: Multiplier) -> Any:
    """Make a kernel each of whose blocks computes a tile of C from panels of A and B in shared memory.

    Parameters
    ----------
    name : str
        The kernel's name, to which its tile and its modes are added.
    dtype : dtype
    tile : BlockTile
    blocks : int
        Blocks that should share an SM.
    modes : tuple of int
        Modes of A and B, as in `fast`.
    how : Multiplier

    Returns
    -------
    dispatcher
        A kernel with the parameters of `gemm.naive`.
    """
    real = np.dtype(dtype).type
    bm, bn, bk, tm, tn, _ = tile
    start_a, advance_a, take_a, put_a, _, a_stride = how.a
    start_b, advance_b, take_b, put_b, _, b_stride = how.b
    places, multiplied, store_tile = how.places, how.multiplied, how.store_tile
    a_size, b_size = bk * a_stride, bk * b_stride
    a_buffer, b_buffer = 2 * a_size, 2 * b_size
    zeros = (real(0),) * (tm * tn)

    def cuda_block(args: Any, progress: Any, a: Any, b: Any, c: Any) -> None:
        """Compute C = A B, as `gemm.naive`. Registers hold sums and next panels, shared memory two of each factor's.

        All threads of a block reach the one barrier per bk terms, because a block outside C returns as a whole.
        """
        if SIMULATED:  # the simulator does not accept an alignment; elsewhere this branch is not compiled
            left = cuda.shared.array(a_buffer, dtype)
            right = cuda.shared.array(b_buffer, dtype)
        else:
            left = cuda.shared.array(a_buffer, dtype, VECTOR_BYTES)
            right = cuda.shared.array(b_buffer, dtype, VECTOR_BYTES)
        t = cuda.threadIdx.x
        m0, n0 = cuda.blockIdx.y * bm, cuda.blockIdx.x * bn
        rows, columns = size_or_batch_rows(args.m, progress), args.n
        if m0 >= rows or n0 >= columns:
            return
        part = cuda.blockIdx.z
        top = part * args.split
        bottom = min(size_or_batch_rows(args.k, progress), top + args.split)

        at_a, at_b, y, x = places(t)
        sums = zeros
        a_at, a_moved = start_a((args.a, args.a_long, args.a_k, args.a_mode), m0, rows, top, t)
        b_at, b_moved = start_b((args.b, args.b_long, args.b_k, args.b_mode), n0, columns, top, t)
        half = np.int32(0)
        k = np.int32(max(0, bottom - top))  # remaining terms
        put_a(left, 0, a_moved, take_a(a, a_at, a_moved, k))
        put_b(right, 0, b_moved, take_b(b, b_at, b_moved, k))
        cuda.syncthreads()
        while k > 0:
            # Beyond the end of the sum these are zeros, and the panels that get them are never read.
            k = np.int32(k - bk)
            a_at, b_at = advance_a(a_at, a_moved), advance_b(b_at, b_moved)
            a_pieces, b_pieces = take_a(a, a_at, a_moved, k), take_b(b, b_at, b_moved, k)
            sums = multiplied(sums, left, half * a_size + at_a, right, half * b_size + at_b)
            half = np.int32(1 - half)
            put_a(left, half * a_size, a_moved, a_pieces)
            put_b(right, half * b_size, b_moved, b_pieces)
            cuda.syncthreads()
        store_tile(args, sums, m0 + y, n0 + x, rows, (a, b, c), part)

    layout = "" if ANY_MODE in modes else "_" + "".join("kl"[mode & ALONG_LONG] for mode in modes)
    cuda_block.__name__ = f"{name}_{bm}x{bn}x{bk}{layout}"
    return kernel(tile.threads, blocks)(cuda_block)
