"""A network and its training as flat arrays and integer codes: what the compiled epoch and its NumPy twin work on.

Imports `elementwise` for the codes. One flat parameter vector and a table of layers, not a tuple of arrays: so one
compilation serves networks of every shape and depth.

Layout. Parameters, gradient and each state vector of the optimizer are flat (P,): W1, b1, W2, b2, ..., row-major, no
padding. The workspace holds, one behind the other, what a slice of rows needs: its inputs where they are gathered,
and of every layer A, Z where a derivative needs that, and dZ, each (rows, k).

**Slices.** A batch of more than SLICE_ROWS rows is worked through in slices of that many, the gradient added up over
them, so that memory does not grow with the batch. The rule depends on the batch size alone, so the bits depend on
neither threads nor machine.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..specs import losses as specs
from ..specs.codes import GELU, IDENTITY, RELU, SILU

Array = NDArray[Any]

LINE = 64
"""Bytes of a cache line, and of the longest vectors."""

MICRO_BATCH_ROWS = 1024
"""Rows worked through at a time, and the longest chain of one sum of the gradient."""

LOSSES = {name: spec.code for name, spec in specs.LOSSES.items()}
"""Code of every loss."""

MEANS_OVER_OUTPUTS = tuple(spec.code for spec in specs.LOSS_BY_CODE if spec.mean_over_outputs)
"""Losses that are reported as means over all elements; the objective is the sum over a row's outputs."""

NONE, PLAIN_SGD, MOMENTUM, NESTEROV, ADAM = range(5)
"""Codes of the optimizers; NONE leaves the gradient and changes nothing."""

# Columns of the table of layers: sizes, a code, and where in their arrays things begin.
N, K, ACTIVATION, W, B, T, A, Z, D, NEURONS, ACTIVATE, DERIVE = range(12)
LAYER_COLUMNS = 12

# Places in `Plan.hyper`. BETA1 is the momentum of SGD; no CLIP is infinity.
BETA1, BETA2, EPSILON, DECAY, L2, CLIP = range(6)

# Places in `Plan.progress`: rows behind, the same with the slices of an unfinished step, right answers, the number and
# the rows of the epoch that this is about; and the steps behind, of all epochs.
ROW, DONE, CORRECT, PARTIAL_CORRECT, EPOCH, ROWS, STEP = range(7)
PROGRESS_SIZE = 7

# Places in `Plan.totals`: weighted losses and weights of the rows behind, and of an unfinished step.
LOSS_SUM, WEIGHT_SUM, PARTIAL_LOSS, PARTIAL_WEIGHT, BATCH_WEIGHT = range(5)
TOTALS_SIZE = 5

# Places in `Plan.objective_terms`. Given: an l2 that each batch divides by its weight, and the largest loss that a row may
# count for. Summed over the batches, times their rows: the mean loss, and the penalty of that l2. From SQUARES on,
# a place for every neuron: sums of squared weights before the update, of as many rows of W as a vector has lanes.
L2_PER_BATCH, MAX_ROW_LOSS, MEAN_LOSS, PENALTY, SQUARES = range(5)

# Places in `Plan.book`: codes and sizes,
LOSS, OPTIMIZER, BATCH, LAYER_COUNT, TASK_COUNT, INPUTS, TARGETS, SCRATCH, TASK_ROWS, FLOPS = range(10)
# addresses of the plan's arrays, in its order,
LAYERS, TASKS, HYPER, PARAMETERS, GRADIENT, STATE, PACKED_WEIGHTS, WORKSPACE = range(10, 18)
LABELS, LOSSES_OF_ROWS, ROW_WEIGHTS, NORMS, CORRECT_OF_TASKS, PROGRESS, TOTALS, SCRATCH_PLACE, OBJECTIVE_TERMS = range(
    18, 27
)
# of the optimizer's second vector, of compiled kernels,
SECOND_STATE, PRODUCT, LOSS_KERNEL, CORRECT_KERNEL, _, _, UPDATE = range(27, 34)
ROWS_KERNEL, WEIGHTS_KERNEL = range(34, 36)
# and what one call is about.
PURPOSE, X, TARGETS_ADDRESS, WEIGHTS, ORDER, OUT, RATES, RATE_COUNT, FIRST_ROW, STOP_ROW, EPOCH_ROWS = range(36, 47)
BOOK_SIZE = 47

TRAIN, EVALUATE, PREDICT = range(3)
"""Purposes of a call."""


class Plan(NamedTuple):
    """Everything that an epoch reads and writes besides the data.

    Attributes
    ----------
    book : int64, shape (BOOK_SIZE,)
        Codes, sizes, and for compiled code the addresses of the arrays below, of kernels, and of a call's data: one
        argument instead of sixteen arrays, whose hundred words every function would hand on.
    layers : int64, shape (L, LAYER_COLUMNS)
        Sizes n and k, the activation's code, the offsets of W and b in ``parameters``, of W^T in ``transposed``, of A,
        Z and dZ in ``workspace``, and the number of neurons in the layers before.
    pieces : int64, shape (pieces, 3)
        A layer and a range of its rows of W: what one thread takes of an update. Never decides about bits.
    hyper : float64
        Hyper-parameters of the optimizer, l2, the norm to clip at.
    parameters, gradient : shape (P,)
    state : shape (vectors, P)
        Of the optimizer: velocity, or running mean and square.
    transposed : ndarray
        W^T of every layer, in panels of NR columns whose rows are padded to whole vectors; written by who uses it.
    workspace : ndarray
        See above.
    labels : int64, shape (rows,)
        Of a slice, gathered.
    losses, shares : shape (rows,)
        Of a slice's rows: their loss in float64, and what they count in the objective.
    norms : float64, shape (neurons,)
        Squared length of the gradient of every row of every W with its b.
    rights : int64, shape (rows,)
        Right answers of every piece of a slice.
    progress : int64
        Where the epoch stands, written by who trains: a KeyboardInterrupt may come before it returns.
    totals : float64
        The sums so far.
    scratch : ndarray
        Room for packing, where there is one thread; else empty.
    terms : float64, shape (SQUARES + neurons,)
        What scikit-learn's objective needs besides; see the places above.
    """

    book: Array
    layers: Array
    tasks: Array
    hyper: Array
    parameters: Array
    gradient: Array
    state: Array
    packed_weights: Array
    workspace: Array
    labels: Array
    losses: Array
    row_weights: Array
    norms: Array
    correct: Array
    progress: Array
    totals: Array
    scratch: Array
    objective_terms: Array

    def bind_arrays(self) -> None:
        """Write into the book where the arrays are."""
        for place, array in zip(range(LAYERS, OBJECTIVE_TERMS + 1), self[1:], strict=True):  # in the same order
            self.book[place] = address(array) if array.size else 0
        self.book[SECOND_STATE] = address(self.state[1]) if len(self.state) > 1 else 0


def aligned(size: int, dtype: Any) -> Array:
    """An uninitialised vector that begins a cache line.

    Vectors that straddle two lines take twice the loads and stores: Adam's update of 26000 parameters 22 us, not 8.
    """
    item = np.dtype(dtype).itemsize
    raw = np.empty(size + LINE // item, dtype)
    start = -address(raw) % LINE // item
    return raw[start : start + size]


def aligned_zeros(rows: int, size: int, dtype: Any) -> Array:
    """An array (rows, size) of zeros, each of whose rows begins a cache line."""
    step = padded(size, LINE // np.dtype(dtype).itemsize)
    found = aligned(rows * step, dtype).reshape(rows, step)
    found[:] = 0
    return found[:, :size]


def address(array: Array | None) -> int:
    """Where an array's data begin; 0 for None."""
    return 0 if array is None else int(array.__array_interface__["data"][0])


def parameter_count(layer_sizes: Sequence[int]) -> int:
    """Number of weights and biases."""
    return sum((n + 1) * k for n, k in pairwise(layer_sizes))


def layer_views(flat: Array, layer_sizes: Sequence[int]) -> list[tuple[Array, Array]]:
    """Views (W (k, n), b (k,)) of every layer into a flat vector."""
    views = []
    start = 0
    for n, k in pairwise(layer_sizes):
        views.append((flat[start : start + k * n].reshape(k, n), flat[start + k * n : start + k * n + k]))
        start += k * n + k
    return views


def micro_batch_rows(batch: int) -> int:
    """Rows of a batch that are worked through at a time."""
    return min(batch, MICRO_BATCH_ROWS)


def layer_table(
    layer_sizes: Sequence[int], activations: Sequence[int], rows: int, lanes: int, nr: int
) -> tuple[Array, int]:
    """``Plan.layers`` for slices of so many rows, and the size of the workspace without inputs and targets."""
    table = np.zeros((len(layer_sizes) - 1, LAYER_COLUMNS), np.int64)
    parameters = packed_weights = workspace = neurons = 0
    for row, (n, k), activation in zip(table, pairwise(layer_sizes), activations, strict=True):
        row[[N, K, ACTIVATION]] = n, k, activation
        row[[W, B]] = parameters, parameters + n * k
        parameters += (n + 1) * k
        row[T], row[NEURONS] = packed_weights, neurons
        neurons += k
        packed_weights += padded(n, lanes) * padded(k, nr)
        size = padded(rows * k, lanes)
        row[A], row[D] = workspace, workspace + size
        # Z in dZ's place, which is free until then: in A's, LLVM finds that source and target overlap, and takes the
        # loop without vectors (tanh 3.5 ns an element, not 0.4).
        row[Z] = row[A] if activation in (IDENTITY, RELU) else row[D]
        workspace += 2 * size
        if activation in (GELU, SILU):  # whose derivatives cannot be had from A
            row[Z] = workspace
            workspace += size
    return table, workspace


def packed_weights_size(layer_sizes: Sequence[int], lanes: int, nr: int) -> int:
    """Elements of ``Plan.transposed``."""
    return sum(padded(n, lanes) * padded(k, nr) for n, k in pairwise(layer_sizes))


def padded(size: int, lanes: int) -> int:
    """The next whole number of vectors."""
    return -(-size // lanes) * lanes


def partition_weights(layer_sizes: Sequence[int], tasks: int, unit: int) -> Array:
    """``Plan.pieces``: each layer's rows of W in about so many pieces in all, the largest layers first.

    Cuts are at multiples of ``unit`` rows.
    """
    total = parameter_count(layer_sizes)
    found: list[tuple[int, int, int, int]] = []
    for layer, (n, k) in enumerate(pairwise(layer_sizes)):
        units = -(-k // unit)
        parts = min(units, max(1, round(tasks * (n + 1) * k / total)))
        edges = [min(k, units * i // parts * unit) for i in range(parts + 1)]
        found += [(layer, top, bottom, n * (bottom - top)) for top, bottom in pairwise(edges)]
    found.sort(key=lambda task: -task[3])
    return np.array([task[:3] for task in found], np.int64)
