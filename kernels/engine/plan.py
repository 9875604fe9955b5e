"""A network and its training as flat arrays and records: the data structures of the compiled training step.

With one flat parameter vector and a table of layers, instead of a tuple of arrays, one compilation serves networks of
every shape and depth. Parameters, gradient and each state vector of the optimizer are flat (P,): W1, b1, W2, b2, ...,
row-major, without padding.

**Micro-batches.** A batch of more than MICRO_BATCH_ROWS rows is processed in micro-batches of that many rows, and the
gradient is summed over them, so that memory does not grow with the batch. Where a batch is cut depends on its size
alone, not on threads or the machine (between CPUs bits still differ: see `gemm`).
"""

import ctypes
import weakref
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..cpu.gemm.blocking import B_BYTES, B_IN_PLACE_BYTES, FEW_ROWS, WIDE
from ..llvm.builder import LINE, VECTOR
from ..specs import dropout
from ..specs.activations import ACTIVATION_BY_CODE, IDENTITY, RELU
from ..specs.batches import MICRO_BATCH_ROWS
from .backend import Array, record

LAYER = record(
    "n_in n_out activation weights biases packed panels output preactivation gradient first_neuron activate derive",
    "dropped drop_kernel threshold",
    floats="scale",
)
"""One row of the table of layers. Offsets are in elements.

- n_in, n_out: columns and rows of W
- activation: code of the ActivationSpec
- weights, biases: offsets of W (n_out, n_in) and b (n_out,) in `parameters` and `gradient`
- packed: offset of W^T in `packed_weights`
- panels: offset of the packed inputs in `workspace`, in micro-panels as W^T; 0 if they are not packed
- output: offset of A (rows, n_out) in `workspace`
- preactivation: offset of Z (rows, n_out), which may share the memory of A or of dZ
- gradient: offset of dL/dA, later dZ (rows, n_out)
- first_neuron: number of neurons in the layers before
- activate: address of the activation's kernel (Z, A)
- derive: address of the kernel (A, Z, dZ) that multiplies dZ by the derivative
- dropped: offset of A (rows, n_out) after dropout, which the next layer reads in training; equal to ``output`` without
  dropout, or if no derivative needs A from before dropout
- drop_kernel, threshold, scale: address of dropout's kernel, 0 without dropout, and its constants
"""

WEIGHT_TASK = record("layer row_begin row_end")
"""A layer and a range of rows of its W, which one thread updates at a time. The division does not affect bits."""


class Plan(NamedTuple):
    """The arrays that a training step reads and writes, besides the data.

    Attributes
    ----------
    context : CONTEXT, shape ()
        Sizes, codes, and the addresses of the arrays below, of kernels and of a call's data.
    layers : LAYER, shape (L,)
    weight_tasks : WEIGHT_TASK, shape (tasks,)
    hyper : float64, shape (8,)
        The optimizer's hyper-parameters.
    parameters, gradient : shape (P,)
    gradient_sum : shape (P,), only for batches of more than GROUP_ROWS rows
        Sum over groups of micro-batches.
    state : shape (vectors, P)
    packed_weights : vector
        W^T of every layer, in micro-panels of NR columns whose rows are padded to whole vectors; written by the step.
    workspace : vector
        For a micro-batch: its inputs and targets, if they are gathered; for every layer A, dZ and, if a derivative
        needs it, Z, each (rows, n_out), and, if that pays, its inputs in micro-panels.
    labels : int64, shape (rows,)
        Gathered labels of a micro-batch.
    row_losses : float64, shape (rows,)
    row_weights : shape (rows,)
        Weights of a micro-batch's rows in the objective.
    row_norms, squared_weights : float64, shape (neurons,)
        Squared norm of the gradient of each row of every W, with its b; sum of squares of each row's weights before
        the update.
    correct : int64, shape (rows,), one element used per row task
    progress : PROGRESS, shape ()
    totals : TOTALS, shape ()
    objective : OBJECTIVE, shape ()
    scratch : vector
        For packing and for the loss; a slot of scratch_size elements for each thread. Tasks allocate nothing, since a
        lack of memory must not end a step after some weights have changed.
    """

    context: Array
    layers: Array
    weight_tasks: Array
    hyper: Array
    parameters: Array
    gradient: Array
    gradient_sum: Array
    state: Array
    packed_weights: Array
    workspace: Array
    labels: Array
    row_losses: Array
    row_weights: Array
    row_norms: Array
    squared_weights: Array
    correct: Array
    progress: Array
    totals: Array
    objective: Array
    scratch: Array

    def bind_arrays(self) -> None:
        """Write the arrays' addresses into the context."""
        for name, array in zip(self._fields[1:], self[1:], strict=True):
            if name != "state":
                self.context[name] = address_of(array) if array.size else 0
        for name, vector in zip(("state0", "state1"), self.state, strict=False):
            self.context[name] = address_of(vector)


CONTEXT = record(
    "takes_labels optimizer batch_rows layer_count weight_task_count gathered_inputs gathered_targets scratch_size",
    "scratch_threads task_rows flops_per_row rank ranks",
    *(name for name in Plan._fields if name not in ("context", "state")),
    "state0 state1",
    "gemm loss_kernel correct_kernel update_kernel rows_task weights_task norms_task dropout_key",
    "trains packs threads X targets sample_weights order rates rate_count first_row stop_row epoch_rows",
    "start rows inputs is_first is_last is_group_first is_group_last group",
    "row_begin row_end correct_count stage paused",
    floats="l2 clip_norm step_l2 rate gradient_scale",
)
"""All arguments and state of the compiled step, in one record instead of some hundred words.

The network and its training:

- takes_labels: 1 if a call's targets are labels int64 (rows,), otherwise 0
- optimizer: code of the OptimizerSpec
- batch_rows: rows of a step
- gathered_inputs, gathered_targets: offsets in `workspace` of a micro-batch's inputs and targets, if rows are gathered
- scratch_size, scratch_threads: elements of scratch that a task needs, and number of slots
- task_rows: rows that go through all layers together
- flops_per_row: floating-point operations of a step per row
- l2: adds l2/2 times the sum of squared weights to the objective
- clip_norm: largest Euclidean norm of the gradient
- rank, ranks: index and number of the engines that train one network together (`DistributedEngine`); otherwise 0 and 1

Addresses of the arrays of `Plan`, 0 if an array is empty; state0 and state1: the optimizer's state vectors.

Addresses of kernels; correct_kernel is 0 if the loss counts no correct answers, norms_task without l2 and clipping.
dropout_key: the key that `specs.dropout.seed_key` makes of the seed.

One call of the loop, and addresses of its data:

- trains: 1 to train, 0 to evaluate; packs: 1 if W^T is packed first; threads: those that work. The loop writes the
  last two
- X (rows, n_in); targets: labels or (rows, n_out)
- sample_weights: float64 (epoch_rows,), or 0; order: int64 (epoch_rows,), or 0
- rates: float64 (rate_count,), learning rates
- first_row: index within the epoch of X's first row
- stop_row: index within the epoch of the row before which the call returns

The current micro-batch, written by the loop:

- start: index within the epoch of its first row
- rows: number of its rows; 0 while weights are packed or a clipped step is finished
- inputs: address of its inputs (rows, n_in)
- is_first, is_last: whether it is the first or the last of its batch
- is_group_first, is_group_last, group: the same for its group of micro-batches, and the group's index in the batch
- row_begin, row_end: those of its rows that this rank takes through the network
- correct_count: correct answers among these rows; among all ranks' rows once the caller has added them
- stage, paused: a parallel region of `run`; whether `run` has returned after it
- step_l2, rate: l2 and learning rate of this step
- gradient_scale: the factor of clipping, 1 for none; below 0 if weights are only packed
"""


def aligned(size: int, dtype: Any) -> Array:
    """Return an uninitialised vector that is aligned to a cache line.

    Vector loads and stores that straddle two lines take twice as long.
    """
    item = np.dtype(dtype).itemsize
    raw = np.empty(size + LINE // item, dtype)
    start = -address_of(raw) % LINE // item
    return raw[start : start + size]


def aligned_zeros(rows: int, size: int, dtype: Any) -> Array:
    """Return an array (rows, size) of zeros, with each row aligned to a cache line."""
    step = padded(size, LINE // np.dtype(dtype).itemsize)
    found = aligned(rows * step, dtype).reshape(rows, step)
    found[:] = 0
    return found[:, :size]


def owner(array: Array) -> Array:
    """Return the array that owns an array's memory.

    While a weak reference to it exists, NumPy does not resize it in place; otherwise ``resize(..., refcheck=False)``
    would free memory that views and compiled code still read.
    """
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def hold(array: Array) -> None:
    """Keep NumPy from resizing an array's memory in place, for as long as the array lives."""
    weakref.finalize(owner(array), int).atexit = False


def address_of(array: Array | None) -> int:
    """Return the address of an array's first element; 0 for None."""
    if array is None:
        return 0
    # View a record as bytes: NumPy would describe all its fields, which takes longer than a small epoch.
    plain: Any = array if array.dtype.names is None else array.view(("V", array.itemsize))
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(plain))  # takes a third of the time of NumPy's interface
    except (TypeError, ValueError):  # read-only, empty or not contiguous
        return int(plain.__array_interface__["data"][0])


def parameter_count(layer_sizes: Sequence[int]) -> int:
    """Return the number of weights and biases."""
    return sum((n + 1) * k for n, k in pairwise(layer_sizes))


def layer_views(flat: Array, layer_sizes: Sequence[int]) -> list[tuple[Array, Array]]:
    """Return views (W (k, n), b (k,)) of every layer into a flat vector."""
    views = []
    start = 0
    for n, k in pairwise(layer_sizes):
        views.append((flat[start : start + k * n].reshape(k, n), flat[start + k * n : start + k * n + k]))
        start += k * n + k
    return views


def micro_batch_rows(batch: int) -> int:
    """Return the rows of a batch that are processed at a time."""
    return min(batch, MICRO_BATCH_ROWS)


def drops_in_place(activation: int) -> bool:
    """Whether dropout may work in place: no derivative reads the outputs but ReLU's, for which a dropped 0 is right."""
    return activation == RELU or ACTIVATION_BY_CODE[activation].derivative_from_output is None


def layer_table(
    layer_sizes: Sequence[int], activations: Sequence[int], rates: Sequence[float], rows: int, lanes: int, nr: int
) -> tuple[Array, int]:
    """Return the table of layers for micro-batches of ``rows`` rows, and the workspace's size without gathered rows.

    ``rates`` are the dropout rates of the hidden layers, or empty; ``lanes`` is the number of elements of a vector,
    ``nr`` that of a micro-panel's row.
    """
    rates = [*rates, *[0.0] * (len(activations) - len(rates))]
    layers = []  # in the order of LAYER's fields: assigning a record field by field takes ten times as long
    weights = packed = output = neurons = 0
    for (n, k), activation, rate in zip(pairwise(layer_sizes), activations, rates, strict=True):
        size = padded(rows * k, lanes)
        gradient, end = output + size, output + 2 * size
        # Z uses the memory of dZ, which is still free then. In A's memory, source and target would overlap, and LLVM's
        # run-time check would select the scalar loop.
        preactivation = output if activation in (IDENTITY, RELU) else gradient
        if ACTIVATION_BY_CODE[activation].needs_z:
            preactivation, end = end, end + size
        dropped = output
        if rate > 0 and not drops_in_place(activation):
            dropped, end = end, end + size
        biases, panels = weights + n * k, 0
        if inputs_are_packed(rows, n, k, VECTOR // lanes):
            panels = padded(end, LINE * lanes // VECTOR)
            end = panels + padded(rows, lanes) * padded(n, nr)
        dropping = dropped, 0, dropout.threshold(rate), dropout.scale(rate)
        places = weights, biases, packed, panels, output, preactivation, gradient
        layers.append((n, k, activation, *places, neurons, 0, 0, *dropping))
        weights, packed, output = biases + k, packed + padded(n, lanes) * padded(k, nr), end
        neurons += k
    return np.array(layers, LAYER), output


def inputs_are_packed(rows: int, n: int, k: int, item: int) -> bool:
    """Whether a step packs a layer's X (rows, n) for all tasks of its W (k, n), as one block of the product.

    With AVX-512, where blocks of B are in L2, each task packs for itself: nothing else has been measured there.
    """
    return not WIDE and k >= FEW_ROWS and B_IN_PLACE_BYTES < rows * n * item <= B_BYTES


def packed_weights_size(layer_sizes: Sequence[int], lanes: int, nr: int) -> int:
    """Return the elements of ``Plan.packed_weights``."""
    return sum(padded(n, lanes) * padded(k, nr) for n, k in pairwise(layer_sizes))


def padded(size: int, lanes: int) -> int:
    """Round up to a whole number of vectors."""
    return -(-size // lanes) * lanes


def rank_share(rows: int, ranks: int, unit: int = 1) -> int:
    """Return how many rows each of several ranks computes, in whole units; rank i begins at i times this number.

    The last ranks have fewer rows or none. This takes as long as an even division, and the results of all ranks form an
    array of equal blocks.
    """
    return -(-rows // (ranks * unit)) * unit
