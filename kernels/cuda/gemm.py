"""Matrix products on the device: the kernels of three variants, which `launch` chooses from.

All three take the same arguments: a `GemmArgs`, and the flat arrays that its offsets refer to, so that a product of
matrices in one buffer and a product of three arrays are the same kernel. `GemmArgs` lies in the constant bank, as
arguments do: read from memory its values took 16 registers too many, and the fast kernel spilled.

C = A B, A (M, K) and B (K, N) of any strides, C (M, N) of contiguous rows; then a bias, an activation, or the
derivative of the layer below's activation. An M or K of -1 is the number of rows of the
present batch, which is on the device.

- ``naive``: a thread an element. Each multiplication waits for two loads: the bandwidth of L2 is the limit.
- ``tiled``: a block of 16 x 16 threads shares tiles in shared memory, so memory is read 16 times less. Two loads from
  shared memory for each FMA: that is the limit, a quarter of the card's at most.
- ``fast``: each thread holds 8 x 8 sums in registers, so four 16-byte loads from shared memory feed 64 FMAs; warps of 4
  x 8 threads, so that those loads are broadcasts or free of conflicts; the next tile is on its way from memory, in
  registers, while this one is multiplied, and shared memory is double, so that one barrier a tile does. Costs: 17 KB of
  shared memory, 126 registers, and whole tiles of work at the edges. Not measured: no card was at hand. In sm_90's code
  of the 128 x 128 tile, two terms of the sum are 128 FMAs and 8 loads of 16 bytes: 0.94 of the card's float32 limit is
  where it must end, less a barrier and some 70 instructions of moving every 8 terms. With 16 terms a tile, which halves
  those, it spilled 14 registers.

Split-K: dW = dZ^T X is a small result of a long sum. Block z takes one part of the sum and stores its result in a
place of its own; whoever reads them adds them up in order, so the bits are the same from run to run.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..specs.activations import IDENTITY, RELU
from .activations import activate, slope
from .arguments import ALONG_LONG, VECTOR_BYTES, VECTORS
from .device import SIMULATED, cuda, device, kernel
from .register_tile import loader, outer, row_of, storer


class BlockTile(NamedTuple):
    """A block's tile of C (m, n), its steps k through the sum, a thread's tile (tm, tn), elements of 16 bytes."""

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


SIDE = 4 if SIMULATED else 16
"""Rows and columns of a block of the naive and the tiled variant."""


# ------------------------------------------------------------------------------------------ epilogue


@device
def store_epilogue(args: Any, i: int, n: int, total: Any, a: Any, b: Any, c: Any, part: int) -> None:
    """Store one element of C with its epilogue: bias, Z, gate, activation.

    Called by the thread that holds the element, in registers; it neither synchronises nor uses shared memory.

    Parameters
    ----------
    args : GemmArgs or record GEMM_ARGS
        Offsets of C and of what the epilogue reads and writes; negative: absent.
    i, n : int
        Row and column of C.
    total : float32 or float64
        The element of A B, or one part's share of it.
    a, b, c : vectors of the same dtype
        The arrays of A, B and C: the gate's A and Z are in the first, the bias in the second, Z in the third.
    part : int
        Which part ``total`` is: it is stored ``part * args.split_step`` elements behind C.
    """
    if args.bias >= 0:
        total += b[args.bias + n]
    place = i * args.c_row + n
    if args.z >= 0:
        c[args.z + place] = total
    code = args.gate_code
    if code > 0:
        z = a[args.gate_z + place] if args.gate_z >= 0 else total
        total *= slope(code, a[args.gate_a + place], z)
    c[args.c + part * args.split_step + place] = activate(args.code, total)


@device
def size_or_batch_rows(size: int, progress: Any) -> int:
    """Return a size of `GemmArgs`: as it is, or, where it is negative, the rows of the present batch."""
    return progress[0].batch_rows if size < 0 else size


# ------------------------------------------------------------------------------------------ the variants


@kernel(SIDE * SIDE)
def naive(args: Any, progress: Any, a: Any, b: Any, c: Any) -> None:
    """C = A B, a thread an element. What every kernel of a product is given, and must do.

    Launched with SIDE * SIDE threads a block, over a grid of (columns, rows, parts) that covers C at least; threads
    beyond its edges return. Block z adds the terms of the sum from ``z * args.split`` on, at most ``args.split`` of
    them, and stores every element of C as part z, by `store_epilogue`. No shared memory, no barrier.

    Parameters
    ----------
    args : GemmArgs
        Sizes, and offsets and strides of any size, in elements; an M or K of -1 is the rows of the present batch.
    progress : vector of one DEVICE_PROGRESS
        Holds the rows of the present batch; read only where a size is -1.
    a, b, c : vectors of float32 or float64
        What the offsets refer to; they may be one buffer.
    """
    n = cuda.blockIdx.x * SIDE + cuda.threadIdx.x % SIDE
    m = cuda.blockIdx.y * SIDE + cuda.threadIdx.x // SIDE
    depth = size_or_batch_rows(args.k, progress)
    if m >= size_or_batch_rows(args.m, progress) or n >= args.n:
        return
    total = c.dtype.type(0)
    top = cuda.blockIdx.z * args.split
    for k in range(top, min(depth, top + args.split)):
        left = a[args.a + m * args.a_long + k * args.a_k]
        total += left * b[args.b + n * args.b_long + k * args.b_k]
    store_epilogue(args, m, n, total, a, b, c, cuda.blockIdx.z)


@cache
def tiled(dtype: Any) -> Any:
    """Make the kernel whose blocks share tiles of SIDE x SIDE of A and B in shared memory.

    Source: CUDA C++ Programming Guide, "Shared Memory": its matrix multiplication.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.

    Returns
    -------
    dispatcher
        A kernel of SIDE * SIDE threads a block, with the parameters of `naive`.
    """
    size = SIDE * SIDE
    real = np.dtype(dtype).type

    def cuda_tiled(args: Any, progress: Any, a: Any, b: Any, c: Any) -> None:
        """C = A B, as `naive`. Two barriers a tile, which all threads of a block reach, also those beyond C's edges."""
        left = cuda.shared.array(size, dtype)  # on lines of their own: the simulator tells arrays apart by lines
        right = cuda.shared.array(size, dtype)
        x, y = cuda.threadIdx.x % SIDE, cuda.threadIdx.x // SIDE
        n, m = cuda.blockIdx.x * SIDE + x, cuda.blockIdx.y * SIDE + y
        rows, columns = size_or_batch_rows(args.m, progress), args.n
        top = cuda.blockIdx.z * args.split
        bottom = min(size_or_batch_rows(args.k, progress), top + args.split)
        total = real(0)
        for k in range(top, bottom, SIDE):
            left[y * SIDE + x] = real(0)
            right[y * SIDE + x] = real(0)
            if m < rows and k + x < bottom:
                left[y * SIDE + x] = a[args.a + m * args.a_long + (k + x) * args.a_k]
            if n < columns and k + y < bottom:
                right[y * SIDE + x] = b[args.b + n * args.b_long + (k + y) * args.b_k]
            cuda.syncthreads()
            for i in range(SIDE):
                total += left[y * SIDE + i] * right[i * SIDE + x]
            cuda.syncthreads()
        if m < rows and n < columns:
            store_epilogue(args, m, n, total, a, b, c, cuda.blockIdx.z)

    cuda_tiled.__name__ = f"cuda_{np.dtype(dtype).name}_tiled"
    return kernel(size)(cuda_tiled)


@device
def _piece2(flat: Any, at: int, step: int, left: int) -> Any:
    """Return two elements, ``step`` apart, as a tuple; those from the ``left``-th on are 0 and not read."""
    zero = flat.dtype.type(0)
    return flat[at] if left > 0 else zero, flat[at + step] if left > 1 else zero


@device
def _piece4(flat: Any, at: int, step: int, left: int) -> Any:
    """Return four elements as `_piece2` does two."""
    return _piece2(flat, at, step, left) + _piece2(flat, at + 2 * step, step, left - 2)


class _Moved(NamedTuple):
    """What a thread moves of a panel: one or two pieces of 16 bytes, the second so far from the first."""

    by_long: Any  # strides of the factor in memory, and how it is read
    by_k: Any
    mode: Any
    left: Any  # rows, or columns, from the first piece until the edge
    k: Any  # of the first piece, in the panel
    far: Any  # from the first piece to the second, along M or N and along k: one of them is 0
    deep: Any
    spot: Any  # of the first piece in shared memory, and from there to the second
    next_spot: Any


def _panel(size: int, depth: int, side: int, lanes: int, threads: int) -> tuple[Any, ...]:
    """Say how a block moves a panel (depth, size) of a factor into registers, and from there into shared memory.

    The panel lies in shared memory with k as its slow index, whatever its layout was, so that rows of it are
    contiguous, ``stride`` elements apart. A thread's ``side`` elements of a row come in one or two pieces of 16 bytes,
    size / pieces apart.

    Parameters
    ----------
    size, depth : int
        Rows of A or columns of B, and terms of the sum, in a panel.
    side : int
        Elements of a row that a thread multiplies: the height or width of its tile.
    lanes : int
        Elements of 16 bytes.
    threads : int
        Threads of the block: each moves one or two pieces of every panel.

    Returns
    -------
    start, take, put, row : device functions
        As below; ``row(shared, at)`` gives a thread's ``side`` elements of a row, a tuple in registers. All threads of
        a block call them. None synchronises: the kernel has a barrier between ``put`` and ``row``.
    stride : int
        Elements from a row of the panel to the next in shared memory.
    """
    load, store = loader(lanes), storer(lanes)
    piece = _piece4 if lanes == 4 else _piece2
    stride = size + lanes  # rows that begin 16 bytes apart, modulo the banks
    across, down = size // lanes, depth // lanes
    next_k, next_long = threads // across, threads // down
    two = across * depth // threads > 1
    assert across * depth // threads <= 2, "a thread moves at most two pieces of each factor"

    @device
    def start(factor: Any, begin: int, end: int, top: int, t: int) -> Any:
        """Say where thread ``t`` begins, for all panels of a product; nothing is read.

        Parameters
        ----------
        factor : tuple of int
            Offset, strides by M or N and by K, and mode, as in `GemmArgs`.
        begin, end : int
            First row of A, or column of B, of the block; and how many the matrix has.
        top : int
            First term of the block's part of the sum.

        Returns
        -------
        at, moved : int, _Moved
            Where its first piece is, to which the caller adds ``depth`` strides by K a panel; and how it goes on.
        """
        at, by_long, by_k, mode = factor
        if mode & ALONG_LONG:
            i, k, far, deep = np.int32(t % across * lanes), np.int32(t // across), np.int32(0), np.int32(next_k)
        else:
            i, k, far, deep = np.int32(t // down), np.int32(t % down * lanes), np.int32(next_long), np.int32(0)
        spots = np.int32(k * stride + i), np.int32(deep * stride + far)
        moved = _Moved(by_long, by_k, mode, np.int32(end - begin - i), k, far, deep, *spots)
        return at + (begin + i) * by_long + (top + k) * by_k, moved

    @device
    def take_piece(flat: Any, at: int, moved: Any, left_long: int, left_k: int) -> Any:
        """Load one piece from global memory: ``lanes`` elements in registers, 0 for what is beyond the matrix.

        Parameters
        ----------
        flat : vector of float32 or float64
            The factor's array.
        at : int
            The piece's first element; a multiple of ``lanes`` where the mode has VECTORS.
        moved : _Moved
            Strides and mode.
        left_long, left_k : int
            Rows or columns, and terms, from the first element until the edges; below 1: nothing is read.
        """
        step, left = moved.by_k, left_k if left_long > 0 else 0
        if moved.mode & ALONG_LONG:
            step, left = moved.by_long, left_long if left_k > 0 else 0
        if moved.mode & VECTORS and left >= lanes:
            return load(flat, at)
        return piece(flat, at, step, left)

    @device
    def take(flat: Any, at: int, moved: Any, k: int) -> Any:
        """Load a thread's pieces of the panel, with k terms of the sum left from its first on; as `take_piece`."""
        left, left_k = moved.left, k - moved.k
        first = take_piece(flat, at, moved, left, left_k)
        second = first
        if two:
            at += moved.far * moved.by_long + moved.deep * moved.by_k
            second = take_piece(flat, at, moved, left - moved.far, left_k - moved.deep)
        return first, second

    @device
    def put_piece(shared: Any, at: int, mode: int, values: Any) -> None:
        """Store a piece in a panel, with its elements along M or N contiguous: as it is, or transposed."""
        if mode & ALONG_LONG:
            store(shared, at, values)
        else:  # a transposition
            for i in range(lanes):
                shared[at + i * stride] = row_of(values, i, 1)[0]

    @device
    def put(shared: Any, at: int, moved: Any, pieces: Any) -> None:
        """Store what `take` returned in the panel in shared memory that begins at ``at``; whole, edges included."""
        put_piece(shared, at + moved.spot, moved.mode, pieces[0])
        if two:
            put_piece(shared, at + moved.spot + moved.next_spot, moved.mode, pieces[1])

    @device
    def two_pieces(shared: Any, at: int) -> Any:
        """A thread's elements of a row in shared memory."""
        return load(shared, at) + load(shared, at + size // 2)

    return start, take, put, load if side == lanes else two_pieces, stride


@cache
def fast(dtype: Any, tile: BlockTile) -> Any:
    """Make the kernel of variant ``cuda``, with block, warp and thread tiles; see the module's docstring.

    Source: NVIDIA, "CUTLASS: Fast Linear Algebra in CUDA C++" (2017), for the hierarchy of tiles.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    tile : BlockTile
        ``tile.threads`` threads a block, at least one warp outside the simulator.

    Returns
    -------
    dispatcher
        A kernel with the parameters of `naive`, whose block computes a tile of C.
    """
    real = np.dtype(dtype).type
    bm, bn, bk, tm, tn, lanes = tile
    threads = tile.threads
    start_a, take_a, put_a, row_of_a, a_stride = _panel(bm, bk, tm, lanes, threads)
    start_b, take_b, put_b, row_of_b, b_stride = _panel(bn, bk, tn, lanes, threads)
    store = storer(lanes)
    a_size, b_size = bk * a_stride, bk * b_stride
    a_buffer, b_buffer = 2 * a_size, 2 * b_size
    # A warp is 4 threads high and 8 wide; a thread's rows and columns come in pieces of 16 bytes, step_m apart.
    across = bn // tn
    wide = min(8, across)
    high = max(1, min(32, threads) // wide)
    warps_across = across // wide
    pieces_n, step_m, step_n = tn // lanes, bm * lanes // tm, bn * lanes // tn
    count = tm * tn
    zeros = (real(0),) * count

    def cuda_fast(args: Any, progress: Any, a: Any, b: Any, c: Any) -> None:
        """C = A B, as `naive`. Sums and the next tile are in registers, two tiles of A and of B in shared memory.

        One barrier for every bk terms, which all threads of a block reach: a block beyond C's edges returns as a whole.
        """
        if SIMULATED:  # which knows no alignment; elsewhere this branch is not compiled
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

        warp, lane = t // 32, t % 32
        y = warp // warps_across * high + lane // wide
        x = warp % warps_across * wide + lane % wide
        sums = zeros
        a_at, a_moved = start_a((args.a, args.a_long, args.a_k, args.a_mode), m0, rows, top, t)
        b_at, b_moved = start_b((args.b, args.b_long, args.b_k, args.b_mode), n0, columns, top, t)
        half = np.int32(0)
        depth = np.int32(max(0, bottom - top))
        k = depth  # terms that are left
        while k > -bk:
            # Beyond the sum's end these are zeros, which are stored where they are never read.
            a_pieces, b_pieces = take_a(a, a_at, a_moved, k), take_b(b, b_at, b_moved, k)
            if k < depth:  # there is a tile in shared memory
                from_a, from_b = half * a_size + y * lanes, half * b_size + x * lanes
                for _ in range(0, bk, 2):
                    sums = outer(sums, row_of_a(left, from_a), row_of_b(right, from_b))
                    sums = outer(sums, row_of_a(left, from_a + a_stride), row_of_b(right, from_b + b_stride))
                    from_a += 2 * a_stride
                    from_b += 2 * b_stride
                half = np.int32(1 - half)
            put_a(left, half * a_size, a_moved, a_pieces)
            put_b(right, half * b_size, b_moved, b_pieces)
            cuda.syncthreads()
            k = np.int32(k - bk)
            a_at += bk * args.a_k
            b_at += bk * args.b_k

        # Out: Z, bias and the cheap activations included, 16 bytes at a time where C allows; then, from there, what
        # needs exponentials: in the same loop its code would be there once for each of the 64 sums.
        code, gate, gate_a = args.code, args.gate_code, args.gate_a
        to, c_row, z_at, bias = args.c + part * args.split_step, args.c_row, args.z, args.bias
        aligned = c_row % lanes == 0 and to % lanes == 0
        for i in range(tm):
            m = m0 + i // lanes * step_m + y * lanes + i % lanes
            if m < rows:
                row = row_of(sums, i, tn)
                for piece in range(pieces_n):
                    n = n0 + piece * step_n + x * lanes
                    values = row_of(row, piece, lanes)
                    if z_at < 0 and bias < 0 and aligned and n + lanes <= columns:
                        store(c, to + m * c_row + n, values)
                    else:
                        for e in range(lanes):
                            if n + e < columns:
                                value = row_of(values, e, 1)[0]
                                if bias >= 0:
                                    value += b[bias + n + e]
                                if z_at >= 0:
                                    c[z_at + m * c_row + n + e] = value
                                if code == RELU and value < real(0):
                                    value = real(0)
                                c[to + m * c_row + n + e] = value
        if gate > IDENTITY or code > RELU:
            for i in range(count):
                row_i, column = i // tn, i % tn
                m = m0 + row_i // lanes * step_m + y * lanes + row_i % lanes
                n = n0 + column // lanes * step_n + x * lanes + column % lanes
                if m < rows and n < columns:
                    place = m * c_row + n
                    value = c[to + place]
                    if gate > IDENTITY:
                        z = a[args.gate_z + place] if args.gate_z >= 0 else value
                        value *= slope(gate, a[gate_a + place], z)
                    c[to + place] = activate(code, value) if code > RELU else value

    cuda_fast.__name__ = f"cuda_{np.dtype(dtype).name}_{bm}x{bn}x{bk}"
    return kernel(threads, 2 if threads >= 256 else 4)(cuda_fast)
