"""A network and its training as flat arrays and records: what the compiled training step reads and writes.

One flat parameter vector and a table of layers, not a tuple of arrays: so one compilation serves networks of every
shape and depth. Parameters, gradient and each state vector of the optimizer are flat (P,): W1, b1, W2, b2, ...,
row-major, without padding.

**Micro-batches.** A batch of more than MICRO_BATCH_ROWS rows is processed in micro-batches of that many, the gradient
summed over them, so that memory does not grow with the batch. The rule depends on the batch size alone, so the bits
depend on neither threads nor machine.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..specs.activations import ACTIVATION_BY_CODE, IDENTITY, RELU
from .backend import Array

LINE = 64
"""Bytes of a cache line, and of the longest vectors."""

MICRO_BATCH_ROWS = 1024
"""Rows processed at a time, and the longest chain of one sum of the gradient."""

TRAIN, EVALUATE, PREDICT = range(3)
"""Purposes of a call of the compiled loop."""

LAYER = np.dtype(
    [
        ("n_in", "i8"),  # columns of W
        ("n_out", "i8"),  # rows of W
        ("activation", "i8"),  # code of its ActivationSpec
        ("weights", "i8"),  # offset of W (n_out, n_in) in `parameters` and `gradient`, in elements
        ("biases", "i8"),  # offset of b (n_out,)
        ("packed", "i8"),  # offset of W^T in `packed_weights`
        ("output", "i8"),  # offset of A (rows, n_out) in `workspace`
        ("preactivation", "i8"),  # offset of Z (rows, n_out), which may share the memory of A or of dZ
        ("gradient", "i8"),  # offset of dL/dA, later dZ (rows, n_out)
        ("first_neuron", "i8"),  # neurons in the layers before
        ("activate", "i8"),  # address of the activation's kernel (Z, A)
        ("derive", "i8"),  # address of the kernel (A, Z, dZ) that multiplies dZ by the derivative
    ],
    align=True,
)
"""One row of the table of layers."""

WEIGHT_TASK = np.dtype([("layer", "i8"), ("row_begin", "i8"), ("row_end", "i8")], align=True)
"""A layer and a range of rows of its W: what one thread updates at a time. Never affects bits."""

CONTEXT = np.dtype(
    [
        # The network and its training.
        ("takes_labels", "i8"),  # 1 where targets are labels int64 (rows,), otherwise 0
        ("optimizer", "i8"),  # code of the OptimizerSpec
        ("batch_rows", "i8"),  # rows of a step
        ("layer_count", "i8"),
        ("weight_task_count", "i8"),
        ("gathered_inputs", "i8"),  # offset of a micro-batch's inputs in `workspace`, where rows are gathered
        ("gathered_targets", "i8"),  # offset of its targets
        ("scratch_size", "i8"),  # elements of scratch that a task needs
        ("task_rows", "i8"),  # rows that go through all layers together
        ("flops_per_row", "i8"),  # floating-point operations of a step, a row
        ("l2", "f8"),  # adds l2/2 times the sum of squared weights to the objective
        ("clip_norm", "f8"),  # largest Euclidean norm of the gradient
        # Addresses of arrays; 0 where an array has no elements.
        ("layers", "i8"),  # LAYER (layer_count,)
        ("weight_tasks", "i8"),  # WEIGHT_TASK (weight_task_count,)
        ("hyper", "i8"),  # float64 (8,), the optimizer's hyper-parameters
        ("parameters", "i8"),  # (P,)
        ("gradient", "i8"),  # (P,)
        ("state0", "i8"),  # (P,), the optimizer's state vectors
        ("state1", "i8"),
        ("packed_weights", "i8"),  # W^T of every layer in micro-panels
        ("workspace", "i8"),  # A, Z, dZ of every layer, gathered rows
        ("labels", "i8"),  # int64 (rows,), gathered
        ("row_losses", "i8"),  # float64 (rows,)
        ("row_weights", "i8"),  # (rows,), the rows' weights in the objective
        ("row_norms", "i8"),  # float64 (neurons,), squared norm of the gradient of each row of every W with its b
        ("squared_weights", "i8"),  # float64 (neurons,), sums of squares of the weights before the update
        ("correct", "i8"),  # int64 (tasks,), correct answers of each task of rows
        ("progress", "i8"),  # PROGRESS
        ("totals", "i8"),  # TOTALS
        ("objective", "i8"),  # OBJECTIVE
        ("scratch", "i8"),  # (scratch_size,) on one thread; otherwise each task allocates its own
        # Addresses of kernels.
        ("gemm", "i8"),
        ("loss_kernel", "i8"),
        ("correct_kernel", "i8"),  # 0 where the loss counts no correct answers
        ("update_kernel", "i8"),
        ("rows_task", "i8"),
        ("weights_task", "i8"),
        # One call of the loop; addresses of its data.
        ("purpose", "i8"),  # TRAIN, EVALUATE or PREDICT
        ("X", "i8"),  # (rows, n_in)
        ("targets", "i8"),  # labels or (rows, n_out)
        ("sample_weights", "i8"),  # float64 (epoch_rows,), or 0
        ("order", "i8"),  # int64 (epoch_rows,), or 0
        ("out", "i8"),  # (rows, n_out), predictions
        ("rates", "i8"),  # float64 (rate_count,), learning rates
        ("rate_count", "i8"),
        ("first_row", "i8"),  # row of the epoch that X begins with
        ("stop_row", "i8"),  # row of the epoch before which the call returns
        ("epoch_rows", "i8"),
        # The micro-batch at hand, written by the loop.
        ("start", "i8"),  # its first row in the epoch
        ("rows", "i8"),  # its rows; 0 while weights are packed or a clipped step is finished
        ("inputs", "i8"),  # address of its inputs (rows, n_in)
        ("is_first", "i8"),  # whether it is its batch's first, and last
        ("is_last", "i8"),
        ("step_l2", "f8"),  # l2 of this step
        ("rate", "f8"),  # learning rate of this step
        ("gradient_scale", "f8"),  # by clipping; 1 for none, below 0 where weights are only packed
    ],
    align=True,
)
"""Everything the compiled step knows: one argument instead of some hundred words."""


class Plan(NamedTuple):
    """The arrays that a training step reads and writes besides the data.

    Attributes
    ----------
    context : CONTEXT, shape ()
        Sizes, codes, and the addresses of the arrays below, of kernels and of a call's data.
    layers : LAYER, shape (L,)
    weight_tasks : WEIGHT_TASK, shape (tasks,)
    hyper : float64, shape (8,)
        The optimizer's hyper-parameters.
    parameters, gradient : shape (P,)
    state : shape (vectors, P)
    packed_weights : vector
        W^T of every layer, in micro-panels of NR columns whose rows are padded to whole vectors; written by the step.
    workspace : vector
        For a micro-batch: its inputs and targets where they are gathered, and of every layer A, dZ, and Z where a
        derivative needs it, each (rows, n_out).
    labels : int64, shape (rows,)
        Of a micro-batch, gathered.
    row_losses : float64, shape (rows,)
    row_weights : shape (rows,)
        What the rows of a micro-batch count in the objective.
    row_norms, squared_weights : float64, shape (neurons,)
    correct : int64, shape (rows,), one used for each task of rows
    progress : PROGRESS, shape ()
    totals : TOTALS, shape ()
    objective : OBJECTIVE, shape ()
    scratch : vector
        For packing and for the loss, where there is one thread; otherwise empty.
    """

    context: Array
    layers: Array
    weight_tasks: Array
    hyper: Array
    parameters: Array
    gradient: Array
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


def aligned(size: int, dtype: Any) -> Array:
    """Return an uninitialised vector that begins a cache line.

    Vectors that straddle two lines take twice the loads and stores.
    """
    item = np.dtype(dtype).itemsize
    raw = np.empty(size + LINE // item, dtype)
    start = -address_of(raw) % LINE // item
    return raw[start : start + size]


def aligned_zeros(rows: int, size: int, dtype: Any) -> Array:
    """Return an array (rows, size) of zeros, each of whose rows begins a cache line."""
    step = padded(size, LINE // np.dtype(dtype).itemsize)
    found = aligned(rows * step, dtype).reshape(rows, step)
    found[:] = 0
    return found[:, :size]


def address_of(array: Array | None) -> int:
    """Return the address of an array's first element; 0 for None."""
    if array is None:
        return 0
    # Of a record, as bytes: NumPy would describe all fields, which takes longer than a small epoch.
    plain = array if array.dtype.names is None else array.view(("V", array.itemsize))
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


def layer_table(
    layer_sizes: Sequence[int], activations: Sequence[int], rows: int, lanes: int, nr: int
) -> tuple[Array, int]:
    """Return the table of layers for micro-batches of ``rows`` rows, and the workspace's size without gathered rows.

    ``lanes`` are the elements of a vector, ``nr`` those of a micro-panel's row.
    """
    layers = []  # in the order of LAYER's fields: assigning a record field by field takes ten times as long
    weights = packed = output = neurons = 0
    for (n, k), activation in zip(pairwise(layer_sizes), activations, strict=True):
        size = padded(rows * k, lanes)
        gradient, end = output + size, output + 2 * size
        # Z in the memory of dZ, which is free until then: in A's, LLVM finds that source and target overlap and takes
        # the loop without vectors.
        preactivation = output if activation in (IDENTITY, RELU) else gradient
        if ACTIVATION_BY_CODE[activation].needs_z:
            preactivation, end = end, end + size
        biases = weights + n * k
        layers.append((n, k, activation, weights, biases, packed, output, preactivation, gradient, neurons, 0, 0))
        weights, packed, output = biases + k, packed + padded(n, lanes) * padded(k, nr), end
        neurons += k
    return np.array(layers, LAYER), output


def packed_weights_size(layer_sizes: Sequence[int], lanes: int, nr: int) -> int:
    """Return the elements of ``Plan.packed_weights``."""
    return sum(padded(n, lanes) * padded(k, nr) for n, k in pairwise(layer_sizes))


def padded(size: int, lanes: int) -> int:
    """Round up to a whole number of vectors."""
    return -(-size // lanes) * lanes


def partition_weights(layer_sizes: Sequence[int], tasks: int, unit: int) -> Array:
    """Divide each layer's rows of W into about ``tasks`` tasks in all, at multiples of ``unit`` rows; largest first."""
    total = parameter_count(layer_sizes)
    found: list[tuple[int, int, int, int]] = []
    for layer, (n, k) in enumerate(pairwise(layer_sizes)):
        units = -(-k // unit)
        parts = min(units, max(1, round(tasks * (n + 1) * k / total)))
        edges = [min(k, units * i // parts * unit) for i in range(parts + 1)]
        found += [(layer, begin, end, n * (end - begin)) for begin, end in pairwise(edges)]
    found.sort(key=lambda task: -task[3])
    return np.array([task[:3] for task in found], WEIGHT_TASK)
