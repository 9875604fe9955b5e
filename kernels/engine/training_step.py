"""The compiled training loop: one call trains many steps, with no Python in between.

Imports `_jit`, `plan` for the layout, and the kernels: `simd`, `activations`, `losses`, `loops` for the updates,
`threads`. A step reads::

    rows     gather, forward, loss, dZ of every layer     each thread takes rows of the batch through all layers
    weights  dW, db, update, transpose                    each thread takes rows of W, over the whole batch

Two regions a step, with no barrier inside: what rows need of each other is only W, and what weights need of each other
is only dZ. Clipping needs the gradient's norm before any update, hence a third region.

**Same bits** for any number of threads. A row's outputs and dZ depend on the row; an element of dW and db is one chain
over the rows of the slice in their order, whoever computes it (see `simd`); what is summed over rows or over
weights, the loss and the norm, is stored by row and added by `tree_sum`.

W^T is kept beside W, packed in panels as the micro-kernel reads them: who updates rows of W transposes them, a block of
vectors at a time, while they are in cache. Packing W in every product instead costs each thread the whole of it. By
rows, not in panels, the stores of a block fall into one set of L1 (512-1024-1024-10: 0.78 of the limit, with panels
0.82).

Plain SGD: W <- W - rate dW happens on the sums in registers, and dW never exists, where a batch is one slice. The
product stores an FMA of what it would have stored otherwise, so the bits are those of the update after it. The first
layer's dX is nobody's.

Everything arrives in one array of integers, ``Plan.book``, addresses included; kernels are called by address. With
arrays as arguments and kernels linked in, this file took 16 s to compile.
"""

import math
from typing import Any

import numpy as np
from numba import types

from ..cpu import activations, losses, optimizers
from ..cpu.gemm import gemm
from ..cpu.gemm.microkernel import NV, sum_rows
from ..cpu.gemm.transpose import transpose_panel
from ..cpu.softmax import tree_sum
from ..cpu.threads.pool import parallel_for
from ..jit.call_by_address import by_address, call
from ..jit.decorator import jit
from ..llvm.builder import VECTOR
from ..llvm.memory import (
    address_and_strides,
    allocate,
    array_at,
    copy_bytes,
    copy_vector,
    item_bytes,
    optimize_for_size,
    release,
)
from ..specs.codes import CROSS_ENTROPY, IDENTITY, RELU
from .plan import (
    ACTIVATE,
    ACTIVATION,
    BATCH,
    BATCH_WEIGHT,
    CLIP,
    CORRECT,
    CORRECT_KERNEL,
    CORRECT_OF_TASKS,
    DERIVE,
    DONE,
    EPOCH_ROWS,
    FIRST_ROW,
    FLOPS,
    GRADIENT,
    HYPER,
    INPUTS,
    L2,
    L2_PER_BATCH,
    LABELS,
    LAYER_COLUMNS,
    LAYER_COUNT,
    LAYERS,
    LOSS,
    LOSS_KERNEL,
    LOSS_SUM,
    LOSSES_OF_ROWS,
    MAX_ROW_LOSS,
    MEAN_LOSS,
    MICRO_BATCH_ROWS,
    NEURONS,
    NONE,
    NORMS,
    OBJECTIVE_TERMS,
    OPTIMIZER,
    ORDER,
    OUT,
    PACKED_WEIGHTS,
    PARAMETERS,
    PARTIAL_CORRECT,
    PARTIAL_LOSS,
    PARTIAL_WEIGHT,
    PENALTY,
    PLAIN_SGD,
    PREDICT,
    PRODUCT,
    PROGRESS,
    PROGRESS_SIZE,
    PURPOSE,
    RATE_COUNT,
    RATES,
    ROW,
    ROW_WEIGHTS,
    ROWS_KERNEL,
    SCRATCH,
    SCRATCH_PLACE,
    SECOND_STATE,
    SQUARES,
    STATE,
    STEP,
    STOP_ROW,
    TARGETS,
    TARGETS_ADDRESS,
    TASK_COUNT,
    TASK_ROWS,
    TASKS,
    TOTALS,
    TOTALS_SIZE,
    TRAIN,
    UPDATE,
    WEIGHT_SUM,
    WEIGHTS,
    WEIGHTS_KERNEL,
    WORKSPACE,
    A,
    B,
    D,
    K,
    N,
    T,
    W,
    X,
    Z,
)

_LANES = 32
"""Partial sums of squares that are added at once."""

_INT, _DOUBLE = np.dtype(np.int64), np.dtype(np.float64)


@jit(inline=True)
def vector(dtype: Any, start: int, size: int) -> Any:
    """The array (size,) at an address."""
    return array_at(dtype, start, (size,))


@jit(inline=True)
def matrix(dtype: Any, start: int, rows: int, columns: int) -> Any:
    """The array (rows, columns) at an address."""
    return array_at(dtype, start, (rows, columns))


# ---------------------------------------------------------------------------------------------- rows


@jit(inline=True)
def forward(dtype: Any, book: Any, layers: Any, x: int, row_begin: int, row_end: int, work: int) -> None:
    """A, and where needed Z, of rows top to bottom; x is the address of the slice's inputs."""
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    given = book[SCRATCH] * item
    one = dtype.type(1)
    none = (np.intp(0), np.intp(0))
    for i in range(book[LAYER_COUNT]):
        n, k, code = layers[i, N], layers[i, K], layers[i, ACTIVATION]
        a = (x + row_begin * n * item, n * item, item)
        w = (book[PACKED_WEIGHTS] + layers[i, T] * item, nr * item, item, -(-n // lanes) * lanes * nr * item)
        if k == 1:  # a single row of W is a column of W^T as it is
            w = (book[PARAMETERS] + layers[i, W] * item, item, item, nr * item)
        bias = (book[PARAMETERS] + layers[i, B] * item, np.intp(0))
        z = (book[WORKSPACE] + (layers[i, Z] + row_begin * k) * item, k * item)
        relu = z if code == RELU else none
        call(
            gemm.gemm,
            book[PRODUCT],
            dtype,
            (dtype, row_end - row_begin, k, n, a, w, z, bias, relu, none, one, work, given),
        )
        x = book[WORKSPACE] + layers[i, A] * item
        if code != RELU and code != IDENTITY:
            size = (row_end - row_begin) * k
            source, target = vector(dtype, z[0], size), vector(dtype, x + row_begin * k * item, size)
            call(activations.apply_activation, layers[i, ACTIVATE], dtype, (source, target))


@jit(inline=True)
def backward(dtype: Any, book: Any, layers: Any, row_begin: int, row_end: int, work: int) -> None:
    """From dL/dA of the last layer, in its place of dZ: dZ of all layers, in rows top to bottom."""
    item = item_bytes(dtype)
    nr = NV * (VECTOR // item)
    given = book[SCRATCH] * item
    one = dtype.type(1)
    none = (np.intp(0), np.intp(0))
    workspace = book[WORKSPACE]
    last = book[LAYER_COUNT] - 1
    for i in range(last, -1, -1):
        n, k, code = layers[i, N], layers[i, K], layers[i, ACTIVATION]
        d = workspace + (layers[i, D] + row_begin * k) * item

        # dZ = dL/dA * activation'(Z), from A where it can be had from that. ReLU's happened on the sums below.
        if code != IDENTITY and (code != RELU or i == last):
            size = (row_end - row_begin) * k
            a = vector(dtype, workspace + (layers[i, A] + row_begin * k) * item, size)
            z = vector(dtype, workspace + (layers[i, Z] + row_begin * k) * item, size)
            call(activations.times_derivative, layers[i, DERIVE], dtype, (a, z, vector(dtype, d, size)))

        if i > 0:
            c = (workspace + (layers[i - 1, D] + row_begin * n) * item, n * item)
            relu_mask = none
            if layers[i - 1, ACTIVATION] == RELU:
                relu_mask = (workspace + (layers[i - 1, A] + row_begin * n) * item, n * item)
            a_of_product = (d, k * item, item)
            w = (book[PARAMETERS] + layers[i, W] * item, n * item, item, nr * item)
            call(
                gemm.gemm,
                book[PRODUCT],
                dtype,
                (dtype, row_end - row_begin, n, k, a_of_product, w, c, none, none, relu_mask, one, work, given),
            )


@jit(inline=True)
def _gather(dtype: Any, source: int, chosen: Any, target: int, size: int, row_begin: int, row_end: int) -> None:
    """Copy the rows of so many elements that are chosen for the slice's rows top to bottom."""
    row = size * item_bytes(dtype)
    for i in range(row_begin, row_end):
        copy_bytes(target + i * row, source + chosen[i] * row, row)


@jit(inline=True)
def _weight(book: Any, row: int) -> float:
    """The sample weight of an epoch's row."""
    at = row
    if book[ORDER] != 0:
        at = vector(_INT, book[ORDER] + row * 8, 1)[0]
    return vector(_DOUBLE, book[WEIGHTS] + at * 8, 1)[0]


_BOOK = types.Array(types.int64, 1, "C")


@by_address(lambda real: (types.intp, types.DType(real), _BOOK, *[types.intp] * 2))
@jit(internal=True)
def rows_task(task: int, dtype: Any, book: Any, start: int, rows: int) -> None:
    """A piece of a slice's rows, which begins at the epoch's row ``start``, through all layers and back."""
    optimize_for_size()
    tasks = -(-rows // book[TASK_ROWS])
    row_begin, row_end = rows * task // tasks, rows * (task + 1) // tasks
    item = item_bytes(dtype)
    layers = matrix(_INT, book[LAYERS], book[LAYER_COUNT], LAYER_COLUMNS)
    last = book[LAYER_COUNT] - 1
    n, k, loss, purpose = layers[0, N], layers[last, K], book[LOSS], book[PURPOSE]
    takes_labels = loss == CROSS_ENTROPY

    # The slice's inputs and truths: where they are, or gathered.
    x, truth = book[X], book[TARGETS_ADDRESS]
    if book[ORDER] == 0:
        x += (start - book[FIRST_ROW]) * n * item
        truth += (start - book[FIRST_ROW]) * (8 if takes_labels else k * item)
    else:
        chosen = vector(_INT, book[ORDER] + start * 8, rows)
        gathered = book[WORKSPACE] + book[INPUTS] * item
        _gather(dtype, x, chosen, gathered, n, row_begin, row_end)
        x = gathered
        if takes_labels:
            _gather(_INT, truth, chosen, book[LABELS], 1, row_begin, row_end)
            truth = book[LABELS]
        else:
            gathered = book[WORKSPACE] + book[TARGETS] * item
            _gather(dtype, truth, chosen, gathered, k, row_begin, row_end)
            truth = gathered

    buffer_bytes = book[SCRATCH_PLACE]
    if buffer_bytes == 0:  # of several threads each needs its own
        buffer_bytes = allocate(book[SCRATCH] * item)
    work = vector(dtype, buffer_bytes, book[SCRATCH])
    forward(dtype, book, layers, x, row_begin, row_end, buffer_bytes)
    outputs = matrix(dtype, book[WORKSPACE] + layers[last, A] * item, rows, k)
    if purpose == PREDICT:
        result = matrix(dtype, book[OUT] + (start - book[FIRST_ROW]) * k * item, rows, k)
        for i in range(row_begin, row_end):
            for j in range(k):
                result[i, j] = outputs[i, j]
    else:
        labels, targets = vector(_INT, truth, rows), matrix(dtype, truth, rows, k)
        dl_da = matrix(dtype, book[WORKSPACE] + layers[last, D] * item, rows if purpose == TRAIN else 0, k)
        row_weights, losses_of_rows = (
            vector(dtype, book[ROW_WEIGHTS], rows),
            vector(_DOUBLE, book[LOSSES_OF_ROWS], rows),
        )
        loss_rows = losses.LossRows(labels, targets, outputs, row_weights, dl_da, losses_of_rows, work)
        call(losses.loss_rows, book[LOSS_KERNEL], dtype, (loss_rows, row_begin, row_end))
        cap = vector(_DOUBLE, book[OBJECTIVE_TERMS], SQUARES)[MAX_ROW_LOSS]
        if cap < math.inf:
            for i in range(row_begin, row_end):
                losses_of_rows[i] = cap if losses_of_rows[i] > cap else losses_of_rows[i]
        if book[WEIGHTS] != 0:
            for i in range(row_begin, row_end):
                losses_of_rows[i] *= _weight(book, start + i)
        if book[CORRECT_KERNEL] != 0:
            correct = vector(_INT, book[CORRECT_OF_TASKS], rows)
            call(losses.correct_rows, book[CORRECT_KERNEL], dtype, (loss_rows, row_begin, row_end, correct, task))
        if purpose == TRAIN:
            backward(dtype, book, layers, row_begin, row_end, buffer_bytes)
    if book[SCRATCH_PLACE] == 0:
        release(buffer_bytes)


# -------------------------------------------------------------------------------------------- weights


@jit(internal=True)
def _square_sum(values: Any, lanes: Any) -> float:
    """Sum of squares in float64; the lanes (_LANES,) are overwritten."""
    for j in range(_LANES):
        lanes[j] = 0
    whole = values.size // _LANES * _LANES
    for i in range(0, whole, _LANES):
        part = values[i : i + _LANES]
        for j in range(_LANES):
            lanes[j] += np.float64(part[j]) * np.float64(part[j])
    for i in range(whole, values.size):
        lanes[i - whole] += np.float64(values[i]) * np.float64(values[i])
    return tree_sum(lanes)


@jit(internal=True)
def _multiply(values: Any, factor: Any) -> None:
    """Values *= factor."""
    for i in range(values.size):
        values[i] *= factor


@jit(internal=True)
def _add_decay(gradient: Any, weights: Any, l2: float, lanes: Any) -> float:
    """Gradient += l2 weights; gives the sum of the weights' squares as `_square_sum` does. One pass, not two."""
    decay = gradient.dtype.type(l2)
    for j in range(_LANES):
        lanes[j] = 0
    whole = weights.size // _LANES * _LANES
    for i in range(0, whole, _LANES):
        g, w = gradient[i : i + _LANES], weights[i : i + _LANES]
        for j in range(_LANES):
            g[j] += decay * w[j]
            lanes[j] += np.float64(w[j]) * np.float64(w[j])
    for i in range(whole, weights.size):
        gradient[i] += decay * weights[i]
        lanes[i - whole] += np.float64(weights[i]) * np.float64(weights[i])
    return tree_sum(lanes)


@jit(inline=True)
def _update(dtype: Any, book: Any, hyper: Any, start: int, size: int, step: int, rate: float) -> None:
    """The optimizer's step on a range of parameters."""
    optimizer = book[OPTIMIZER]
    offset = start * item_bytes(dtype)
    parameters, gradient = (
        vector(dtype, book[PARAMETERS] + offset, size),
        vector(dtype, book[GRADIENT] + offset, size),
    )
    if optimizer != NONE:
        # Of the states that the rule lacks, the address is not read.
        first, second = vector(dtype, book[STATE] + offset, size), vector(dtype, book[SECOND_STATE] + offset, size)
        given = (parameters, gradient, first, second, hyper, rate, step)
        call(optimizers.update, book[UPDATE], dtype, given)


@jit(internal=True)
def _transpose(dtype: Any, w: int, t: int, n: int, row_begin: int, row_end: int) -> None:
    """Rows top to bottom of the W (k, n) at w, transposed into the panels at t; top is a multiple of the lanes."""
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    panel = -(-n // lanes) * lanes * nr * item
    for j in range(row_begin, row_end, lanes):
        target = t + j // nr * panel + j % nr * item
        if n == 1:  # nothing to turn: 20 ns less
            copy_vector(dtype, target, w + j * item, row_end - j)
        else:
            transpose_panel(dtype, target, nr * item, w + j * n * item, n * item, min(lanes, row_end - j), n)


@by_address(
    lambda real: (
        *(types.intp, types.DType(real), _BOOK, *[types.intp] * 2),
        *[types.boolean] * 2,
        *[types.float64] * 3,
    )
)
@jit(internal=True)
def weights_task(
    task: int, dtype: Any, book: Any, x: int, rows: int, first: bool, last: bool, l2: float, rate: float, scale: float
) -> None:
    """Rows of one layer's W: dW and db over a slice, and after a batch's last slice the update and W^T.

    With ``rows`` 0 there is no slice: it is the rest of a step that waited for the norm, with the gradient times
    ``scale``, which may be NaN; or, with a scale below 0, nothing but W^T.
    """
    optimize_for_size()
    item = item_bytes(dtype)
    lanes = VECTOR // item
    layers = matrix(_INT, book[LAYERS], book[LAYER_COUNT], LAYER_COLUMNS)
    tasks = matrix(_INT, book[TASKS], book[TASK_COUNT], 3)
    hyper = vector(_DOUBLE, book[HYPER], 6)
    at, row_begin, row_end = tasks[task, 0], tasks[task, 1], tasks[task, 2]
    n, k, height = layers[at, N], layers[at, K], row_end - row_begin
    w_start, b_start = layers[at, W] + row_begin * n, layers[at, B] + row_begin
    none = (np.intp(0), np.intp(0))
    clips = hyper[CLIP] < math.inf
    fused = book[OPTIMIZER] == PLAIN_SGD and first and last and not clips and l2 == 0

    if rows > 0:
        inputs = x if at == 0 else book[WORKSPACE] + layers[max(0, at - 1), A] * item
        dz = (book[WORKSPACE] + (layers[at, D] + row_begin) * item, item, k * item)
        c = (book[PARAMETERS if fused else GRADIENT] + w_start * item, n * item)
        start = c if fused or not first else none
        factor = dtype.type(-rate) if fused else dtype.type(1)
        buffer_bytes = book[SCRATCH_PLACE]
        if buffer_bytes == 0:
            buffer_bytes = allocate(book[SCRATCH] * item)
        b = (inputs, n * item, item, NV * lanes * item)
        sizes = (height, n, rows)
        call(
            gemm.gemm,
            book[PRODUCT],
            dtype,
            (
                dtype,
                sizes[0],
                sizes[1],
                sizes[2],
                dz,
                b,
                c,
                start,
                none,
                none,
                factor,
                buffer_bytes,
                book[SCRATCH] * item,
            ),
        )
        if book[SCRATCH_PLACE] == 0:
            release(buffer_bytes)
        db, j = book[GRADIENT] + b_start * item, 0
        while j < height:
            sum_rows(dtype, db + j * item, dz[0] + j * item, dz[2], rows, height - j, 1 if first else 0)
            j += NV * lanes if height - j >= NV * lanes else lanes
    if last:
        parameters = vector(dtype, book[PARAMETERS] + w_start * item, height * n)
        gradient = vector(dtype, book[GRADIENT] + w_start * item, height * n)
        biases = vector(dtype, book[GRADIENT] + b_start * item, height)
        if rows > 0 and l2 != 0:
            objective_terms = vector(_DOUBLE, book[OBJECTIVE_TERMS], SQUARES + layers[at, NEURONS] + row_end)
            place = SQUARES + layers[at, NEURONS] + row_begin
            sums = np.empty(_LANES)
            for j in range(0, height, lanes):  # no piece is cut inside of these
                below = min(j + lanes, height)
                objective_terms[place + j] = _add_decay(
                    gradient[j * n : below * n], parameters[j * n : below * n], l2, sums
                )
                for i in range(j + 1, below):
                    objective_terms[place + i] = 0
        if rows > 0 and clips:
            norms = vector(_DOUBLE, book[NORMS], layers[at, NEURONS] + row_end)
            sums = np.empty(_LANES)
            for j in range(height):
                b_j = np.float64(biases[j])
                norms[layers[at, NEURONS] + row_begin + j] = (
                    _square_sum(gradient[j * n : (j + 1) * n], sums) + b_j * b_j
                )
        else:
            if not (scale < 0 or scale == 1):
                factor = dtype.type(scale)
                _multiply(gradient, factor)
                _multiply(biases, factor)
            if not scale < 0:
                step = vector(_INT, book[PROGRESS], PROGRESS_SIZE)[STEP] + 1
                if not fused:
                    _update(dtype, book, hyper, w_start, height * n, step, rate)
                _update(dtype, book, hyper, b_start, height, step, rate)
            if k > 1:
                w, t = book[PARAMETERS] + layers[at, W] * item, book[PACKED_WEIGHTS] + layers[at, T] * item
                _transpose(dtype, w, t, n, row_begin, row_end)


# ------------------------------------------------------------------------------------------- the loop


@jit(internal=True)
def call_rows_task(task: int, dtype: Any, book: Any, start: int, rows: int) -> None:
    """`rows_task` by its address: linked into `run`, it would be optimised once more, 0.4 s."""
    call(rows_task, book[ROWS_KERNEL], dtype, (task, dtype, book, start, rows))


@jit(internal=True)
def call_weights_task(
    task: int, dtype: Any, book: Any, x: int, rows: int, first: bool, last: bool, l2: float, rate: float, scale: float
) -> None:
    """`weights_task` by its address."""
    arguments = (task, dtype, book, x, rows, first, last, l2, rate, scale)
    call(weights_task, book[WEIGHTS_KERNEL], dtype, arguments)


@jit
def run(dtype: Any, book: Any, threads: int, pool: int) -> None:
    """From ``progress[DONE]`` to the book's STOP_ROW, slice by slice.

    Parameters
    ----------
    dtype : dtype
        Of inputs, targets, parameters and outputs: float32 or float64.
    book : ndarray of int64
        See `plan.Plan`.
    threads, shared : int
        As `threads.parallel_for` takes them.
    """
    optimize_for_size()
    item = item_bytes(dtype)
    # Without an owner, so that nobody counts references to it, which takes 30 ns a step of 1-16-1's 570.
    book = vector(_INT, address_and_strides(book)[0], book.size)
    progress, totals = vector(_INT, book[PROGRESS], PROGRESS_SIZE), vector(_DOUBLE, book[TOTALS], TOTALS_SIZE)
    layers = matrix(_INT, book[LAYERS], book[LAYER_COUNT], LAYER_COLUMNS)
    hyper, rates = vector(_DOUBLE, book[HYPER], 6), vector(_DOUBLE, book[RATES], max(1, book[RATE_COUNT]))
    neurons = layers[book[LAYER_COUNT] - 1, NEURONS] + layers[book[LAYER_COUNT] - 1, K]
    objective_terms = vector(_DOUBLE, book[OBJECTIVE_TERMS], SQUARES + neurons)
    batch, trains, first_row = book[BATCH], book[PURPOSE] == TRAIN, book[FIRST_ROW]
    inputs = book[X]
    stage, flops, tasks, rows, weight, rate, scale = 0, 0, book[TASK_COUNT], 0, 0.0, 0.0, -1.0
    batch_weight, l2 = 0.0, 0.0
    start = batch_start = batch_stop = progress[DONE]
    first, last = True, True
    # Stages, so that each region is compiled once: 0 W^T, 1 rows, 2 weights, 3 updates that waited for the norm.
    while stage != 1 or progress[DONE] < book[STOP_ROW]:
        if stage == 1:
            start = progress[DONE]
            batch_start = start // batch * batch
            batch_stop = min(batch_start + batch, book[EPOCH_ROWS])
            rows = min(MICRO_BATCH_ROWS, batch_stop - start)
            first, last = start == batch_start, start + rows == batch_stop
            flops = rows * book[FLOPS]

            weight, batch_weight = float(rows), float(batch_stop - batch_start)
            row_weights = vector(dtype, book[ROW_WEIGHTS], rows)
            if book[WEIGHTS] == 0:
                share = dtype.type(1) / dtype.type(batch_stop - batch_start)
                for i in range(rows):
                    row_weights[i] = share
            else:
                if first:
                    totals[BATCH_WEIGHT] = 0
                    for i in range(batch_start, batch_stop):
                        totals[BATCH_WEIGHT] += _weight(book, i)
                weight, batch_weight = 0.0, totals[BATCH_WEIGHT]
                for i in range(rows):
                    w = _weight(book, start + i)
                    weight += w
                    row_weights[i] = dtype.type(w / totals[BATCH_WEIGHT] if w > 0 else 0.0)

            tasks = -(-rows // book[TASK_ROWS])
            parallel_for(call_rows_task, tasks, threads, flops, pool, (dtype, book, start, rows))
            if book[PURPOSE] != PREDICT:
                totals[PARTIAL_LOSS] += tree_sum(vector(_DOUBLE, book[LOSSES_OF_ROWS], rows))
                totals[PARTIAL_WEIGHT] += weight
                correct = vector(_INT, book[CORRECT_OF_TASKS], tasks)
                for task in range(tasks):
                    progress[PARTIAL_CORRECT] += correct[task]
        else:
            arguments = (dtype, book, inputs, rows, first, last, l2, rate, scale)
            parallel_for(call_weights_task, book[TASK_COUNT], threads, flops, pool, arguments)

        if stage == 0:
            stage = 1
            continue
        if stage == 1 and trains:
            inputs = book[X] + (start - first_row) * layers[0, N] * item
            if book[ORDER] != 0:
                inputs = book[WORKSPACE] + book[INPUTS] * item
            rate, scale = rates[min(batch_start // batch, rates.size - 1)], 1.0
            l2 = hyper[L2] + (objective_terms[L2_PER_BATCH] / batch_weight if batch_weight > 0 else 0.0)
            stage = 2
            continue
        if stage == 2 and last and hyper[CLIP] < math.inf:
            norm = math.sqrt(tree_sum(vector(_DOUBLE, book[NORMS], neurons)))
            scale = 1.0 if norm <= hyper[CLIP] else hyper[CLIP] / norm  # infinity and NaN must show
            stage, rows = 3, 0
            continue
        stage = 1
        progress[DONE] = min(batch_stop, start + MICRO_BATCH_ROWS)
        if last:
            progress[ROW] = progress[DONE]
            progress[STEP] += 1
            progress[CORRECT] += progress[PARTIAL_CORRECT]
            totals[LOSS_SUM] += totals[PARTIAL_LOSS]
            totals[WEIGHT_SUM] += totals[PARTIAL_WEIGHT]
            if trains and batch_weight > 0:
                mean = (batch_stop - batch_start) / batch_weight
                objective_terms[MEAN_LOSS] += totals[PARTIAL_LOSS] * mean
                if objective_terms[L2_PER_BATCH] != 0:
                    objective_terms[PENALTY] += (
                        objective_terms[L2_PER_BATCH] / 2 * tree_sum(objective_terms[SQUARES:]) * mean
                    )
            progress[PARTIAL_CORRECT] = 0
            totals[PARTIAL_LOSS] = totals[PARTIAL_WEIGHT] = 0
