"""A training step in parts: the very functions of `epoch`, one layer at a time, over and over.

Imports `epoch`, whose functions for rows and for weights these loops call, `losses`, `plan` and `_jit`. For the
profiler alone, which holds them against a step before it times them: called once each, in order, on one thread, they
leave its bits. Each takes the book of an `Engine` that has just trained a batch of at most SLICE_ROWS rows in the order
they lie in, so that the addresses and the workspace in it are of that batch; and, for one layer, a table of one or two.
"""

from typing import Any

import numpy as np

from . import losses
from ._jit import call, jit
from .epoch import _backward, _forward, _matrix, _vector, _weights_piece
from .plan import (
    LAYER_COUNT,
    LOSS,
    LOSS_KERNEL,
    LOSSES_OF_ROWS,
    PIECE_ROWS,
    RIGHT_KERNEL,
    RIGHTS,
    SCRATCH,
    SCRATCH_PLACE,
    SHARES,
    TRUTH,
    WORKSPACE,
    A,
    D,
    K,
)


@jit
def forward(dtype: Any, book: Any, layers: Any, x: int, rows: int, times: int) -> None:
    """A and Z of the table's layers from the inputs at x, so many times over."""
    pieces = -(-rows // book[PIECE_ROWS])
    for _ in range(times):
        for piece in range(pieces):
            top, bottom = rows * piece // pieces, rows * (piece + 1) // pieces
            _forward(dtype, book, layers, x, top, bottom, book[SCRATCH_PLACE])


@jit
def loss(dtype: Any, book: Any, layers: Any, truth_rows: int, rows: int, times: int) -> None:
    """Losses, dL/dA and right answers from the outputs of the table's last layer; labels where truth_rows is 0."""
    pieces = -(-rows // book[PIECE_ROWS])
    last = layers.shape[0] - 1
    k = layers[last, K]
    item = np.empty(0, dtype).itemsize
    outputs = _matrix(dtype, book[WORKSPACE] + layers[last, A] * item, rows, k)
    dl_da = _matrix(dtype, book[WORKSPACE] + layers[last, D] * item, rows, k)
    labels = _vector(np.dtype(np.int64), book[TRUTH], rows)
    targets = _matrix(dtype, book[TRUTH], truth_rows, k)
    shares, of_rows = _vector(dtype, book[SHARES], rows), _vector(np.dtype(np.float64), book[LOSSES_OF_ROWS], rows)
    work = _vector(dtype, book[SCRATCH_PLACE], book[SCRATCH])
    rights = _vector(np.dtype(np.int64), book[RIGHTS], pieces)
    for _ in range(times):
        for piece in range(pieces):
            top, bottom = rows * piece // pieces, rows * (piece + 1) // pieces
            given = (book[LOSS], labels, targets, outputs, shares, dl_da, of_rows, work, top, bottom)
            call(losses.loss_rows, book[LOSS_KERNEL], dtype, given)
            if book[RIGHT_KERNEL] != 0:
                counted = (book[LOSS], labels, targets, outputs, top, bottom, rights, piece)
                call(losses.right_rows, book[RIGHT_KERNEL], dtype, counted)


@jit
def backward(dtype: Any, book: Any, layers: Any, rows: int, times: int) -> None:
    """DZ of the table's layers but the last, from that one's."""
    pieces = -(-rows // book[PIECE_ROWS])
    for _ in range(times):
        for piece in range(pieces):
            top, bottom = rows * piece // pieces, rows * (piece + 1) // pieces
            _backward(dtype, book, layers, top, bottom, book[SCRATCH_PLACE])


@jit
def weights(dtype: Any, book: Any, numbers: Any, x: int, rows: int, rate: float, times: int) -> None:
    """dW, db, the update and W^T of the plan's pieces of these numbers; x is the address of the batch."""
    for _ in range(times):
        for piece in numbers:
            _weights_piece(piece, dtype, book, x, rows, True, True, 0.0, rate, 1.0)


def one_layer(book: Any, count: int) -> Any:
    """A book about so many layers only."""
    cut = book.copy()
    cut[LAYER_COUNT] = count
    return cut
