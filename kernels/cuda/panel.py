"""Moves a block's panels of a factor: from memory to registers, from there to shared memory, and back row by row.

A panel is ``depth`` terms of the sum for ``size`` rows of A, or columns of B. In shared memory k is always the slow
index, whatever the factor's layout, so that the panel's rows are contiguous, and ``stride`` elements apart. Each thread
moves one or two pieces of 16 bytes.

Factors whose pieces are all whole and aligned have specialized kernels (``mode``, see `GemmArgs`). These do not read
strides that are 1, keep offsets in 32 bits, and load a panel without a branch: instead of rows beyond the matrix they
read a row inside it, since those results are not stored, and terms beyond the sum are zeros.
"""

from typing import Any, NamedTuple

import numpy as np

from .arguments import ALONG_LONG, VECTORS
from .device import device
from .register_tile import loader, masked_loader, row_of, storer

ANY_MODE = -1
"""The mode of a kernel that reads the modes of its factors from its arguments at run time."""


class Panels(NamedTuple):
    """Device functions that move panels of one factor; all threads of a block call them, and they do not synchronise.

    Attributes
    ----------
    start : device function
        ``((offset, stride by M or N, stride by K, mode), begin, end, top, t) -> at, moved``: prepares thread ``t``
        for all panels; ``begin``, ``end``: the block's first row of A, or column of B, and how many the matrix has;
        ``top``: the first term of the block's part of the sum; ``at``: the offset of the thread's first piece. It reads
        no memory.
    advance : device function
        ``(at, moved) -> at``: the offset in the next panel.
    take : device function
        ``(flat, at, moved, k) -> pieces``: loads into registers; ``k``: terms of the sum from the panel's first on.
        Elements beyond the sum are 0; nothing beyond the factor is read.
    put : device function
        ``(shared, at, moved, pieces)``: stores all of the panel that begins at ``at``, edges included.
    row : device function
        ``(shared, at) -> tuple``: a thread's elements of a row, in pieces that are ``size`` / pieces apart.
    stride : int
        Elements from a row of the panel to the next in shared memory.
    """

    start: Any
    advance: Any
    take: Any
    put: Any
    row: Any
    stride: int


class _Moved(NamedTuple):
    """A thread's share of a panel: one or two pieces of 16 bytes, and the distance between them."""

    by_long: Any  # strides of the factor in memory, and how it is read
    by_k: Any
    mode: Any
    left: Any  # rows, or columns, from the first piece until the edge
    k: Any  # of the first piece, in the panel
    far: Any  # from the first piece to the second, along M or N and along k: one of them is 0
    deep: Any
    hop: Any  # from the first piece to the second in memory
    spot: Any  # of the first piece in shared memory, and from there to the second
    next_spot: Any


@device
def _piece2(flat: Any, at: int, step: int, left: int) -> Any:
    """Return two elements, ``step`` apart, as a tuple; those from the ``left``-th on are 0 and not read."""
    zero = flat.dtype.type(0)
    return flat[at] if left > 0 else zero, flat[at + step] if left > 1 else zero


@device
def _piece4(flat: Any, at: int, step: int, left: int) -> Any:
    """Return four elements as `_piece2` does two."""
    return _piece2(flat, at, step, left) + _piece2(flat, at + 2 * step, step, left - 2)


PIECES = {2: _piece2, 4: _piece4}
"""Device functions ``(flat, at, step, left)``, by the elements of a piece."""


def panels(size: int, depth: int, side: int, lanes: int, threads: int, mode: int) -> Panels:
    """Make the functions that move panels (depth, size) of one factor.

    Parameters
    ----------
    size, depth : int
        Rows of A or columns of B, and terms of the sum, in a panel.
    side : int
        Elements of a row that a thread multiplies: the height or width of its tile.
    lanes : int
        Elements in 16 bytes.
    threads : int
        Threads of the block: each moves one or two pieces of every panel.
    mode : int
        How every factor is read, with VECTORS; otherwise ANY_MODE.

    Returns
    -------
    Panels
    """
    load, masked, store, piece = loader(lanes), masked_loader(lanes), storer(lanes), PIECES[lanes]
    stride = size + lanes  # rows begin 16 bytes apart, modulo the banks
    across, down = size // lanes, depth // lanes
    next_k, next_long = threads // across, threads // down
    two = across * depth // threads > 1
    known = mode != ANY_MODE
    offset = np.int32 if known else np.int64
    assert across * depth // threads <= 2, "a thread moves at most two pieces of each factor"

    @device
    def start(factor: Any, begin: int, end: int, top: int, t: int) -> Any:
        """See `Panels`."""
        at, by_long, by_k, how = factor
        if known:
            how = mode
            if mode & ALONG_LONG:
                by_long = 1
            else:
                by_k = 1
        if how & ALONG_LONG:
            i, k, far, deep = np.int32(t % across * lanes), np.int32(t // across), np.int32(0), np.int32(next_k)
        else:
            i, k, far, deep = np.int32(t // down), np.int32(t % down * lanes), np.int32(next_long), np.int32(0)
        spots = np.int32(k * stride + i), np.int32(deep * stride + far)
        left = np.int32(end - begin - i)
        hop = far * by_long + deep * by_k
        if known:
            hop = hop if left > far else 0
            i = i if left > 0 else np.int32(0)
        at += (begin + i) * by_long + (top + k) * by_k
        return offset(at), _Moved(by_long, by_k, how, left, k, far, deep, offset(hop), *spots)

    @device
    def advance(at: int, moved: Any) -> Any:
        """See `Panels`."""
        return offset(at + depth * moved.by_k)

    @device
    def take_piece(flat: Any, at: int, moved: Any, left_long: int, left_k: int) -> Any:
        """Load a piece that begins ``left_long`` rows or columns, and ``left_k`` terms, before the edges."""
        step, left = moved.by_k, left_k if left_long > 0 else 0
        if moved.mode & ALONG_LONG:
            step, left = moved.by_long, left_long if left_k > 0 else 0
        if moved.mode & VECTORS and left >= lanes:
            return load(flat, at)
        return piece(flat, at, step, left)

    @device
    def take_any(flat: Any, at: int, moved: Any, k: int) -> Any:
        """See `Panels`; for any layout of the factor."""
        left, left_k = moved.left, k - moved.k
        first = take_piece(flat, at, moved, left, left_k)
        second = first
        if two:
            second = take_piece(flat, at + moved.hop, moved, left - moved.far, left_k - moved.deep)
        return first, second

    @device
    def take_vectors(flat: Any, at: int, moved: Any, k: int) -> Any:
        """See `Panels`; for whole pieces only. For a piece beyond the sum it reads the array's first and returns 0."""
        left_k = k - moved.k
        first = masked(flat, at, left_k > 0)
        second = first
        if two:
            second = masked(flat, offset(at + moved.hop), left_k > moved.deep)
        return first, second

    @device
    def put_piece(shared: Any, at: int, how: int, values: Any) -> None:
        """Store a piece in a panel, where elements along M or N are contiguous: unchanged, or transposed."""
        if how & ALONG_LONG:
            store(shared, at, values)
        else:  # transpose
            for i in range(lanes):
                shared[at + i * stride] = row_of(values, i, 1)[0]

    @device
    def put(shared: Any, at: int, moved: Any, pieces: Any) -> None:
        """See `Panels`."""
        put_piece(shared, at + moved.spot, moved.mode, pieces[0])
        if two:
            put_piece(shared, at + moved.spot + moved.next_spot, moved.mode, pieces[1])

    take = take_vectors if known else take_any
    return Panels(start, advance, take, put, _row(load, side // lanes, size * lanes // side), stride)


def _row(load: Any, pieces: int, apart: int) -> Any:
    """Make ``(shared, at) -> tuple``: loads ``pieces`` pieces, a power of two, that start ``apart`` elements apart."""
    if pieces == 1:
        return load
    half, far = _row(load, pieces // 2, apart), pieces // 2 * apart

    @device
    def row(shared: Any, at: int) -> Any:
        """Load a thread's elements of a row in shared memory."""
        return half(shared, at) + half(shared, at + far)

    return row
