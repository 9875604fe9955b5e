"""The compiled training loop: one call trains many steps, without Python in between.

A step reads::

    rows_task      gather, forward, loss, backward    each thread takes rows of the batch through all layers
    weights_task   dW, db, update, W^T                each thread takes rows of W, over the whole batch

A step has two parallel regions, without a barrier inside: rows_task needs only W from other tasks, weights_task only A
and dZ. Clipping needs the gradient's norm before any update, hence a third region. A call begins with a region that
packs W^T.

**Same bits** for any number of threads: the loss and the norm, which are sums over rows of the batch or of W, are
stored by row and added by `tree_sum`. All arguments are in one record, `CONTEXT`, and kernels are called by address:
with arrays as arguments and kernels linked in, the loop took 16 s to compile.
"""

import math
from typing import Any

import numpy as np
from numba import types

from ..cpu import activations, dropout, losses
from ..cpu.gemm.gemm import gemm
from ..cpu.gemm.microkernel import NV
from ..cpu.gemm.operands import NO_ROWS, Epilogue, Matrix, Rows, Shape, Workspace
from ..cpu.softmax import tree_sum
from ..cpu.threads.parallel_for import parallel_for
from ..jit.call_by_address import by_address, call, succeeds
from ..jit.decorator import jit
from ..llvm.builder import VECTOR
from ..llvm.memory import copy_bytes, item_bytes, matrix_at, optimize_for_size, record_at, vector_at
from ..specs.activations import IDENTITY, RELU
from ..specs.batches import GROUP_ROWS, MICRO_BATCH_ROWS
from .backend import OBJECTIVE, PROGRESS, TOTALS
from .context import (
    CONTEXT_TYPE,
    FLOAT64,
    INT64,
    layer_at,
    sample_weight,
    task_bounds,
    task_count,
)
from .plan import CONTEXT
from .weights_task import pack_inputs, weights_task

# ------------------------------------------------------------------------------------------- rows


@jit(inline=True)
def gather(dtype: Any, source: int, chosen: Any, target: int, size: int, rows: Any) -> None:
    """Copy the chosen rows, of ``size`` elements each, for the rows from rows[0] to rows[1] of a micro-batch."""
    nbytes = size * item_bytes(dtype)
    for i in range(rows[0], rows[1]):
        copy_bytes(target + i * nbytes, source + chosen[i] * nbytes, nbytes)


@jit(internal=True)
def drop(dtype: Any, ctx: Any, i: int, offset: int, row_begin: int, row_end: int) -> None:
    """Apply dropout to rows of a matrix at an offset of the workspace: layer i's outputs or their gradient."""
    layer = layer_at(ctx, i)
    first = ctx.start % ctx.batch_rows + row_begin
    address = ctx.workspace + (offset + row_begin * layer.n_out) * item_bytes(dtype)
    values = matrix_at(dtype, address, row_end - row_begin, layer.n_out)
    step = record_at(PROGRESS, ctx.progress).step
    arguments = (values, ctx.dropout_key, step, i, first, layer.threshold, layer.scale)
    call(dropout.drop_rows, layer.drop_kernel, dtype, arguments)


@jit(inline=True)
def forward(dtype: Any, ctx: Any, x: int, row_begin: int, row_end: int, workspace: Any) -> None:
    """Compute A, and Z if it is needed, of every layer; x is the address of the micro-batch's inputs."""
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    for i in range(ctx.layer_count):
        layer = layer_at(ctx, i)
        n, k, code = layer.n_in, layer.n_out, layer.activation
        a = Matrix(x + row_begin * n * item, n * item, np.intp(item), np.intp(0))
        panel = -(-n // lanes) * lanes * nr * item
        w = Matrix(ctx.packed_weights + layer.packed * item, np.intp(nr * item), np.intp(item), panel)
        if k == 1 or ctx.packs == 0:  # a single row of W is a column of W^T already
            column = n * item if k > 1 else np.intp(item)
            w = Matrix(ctx.parameters + layer.weights * item, np.intp(item), column, nr * column)
        if layer.panels != 0 and ctx.trains != 0 and ctx.ranks == 1:
            pack_inputs(dtype, ctx, i, x, row_begin, row_end)
        bias = Rows(ctx.parameters + layer.biases * item, np.intp(0))
        z = Rows(ctx.workspace + (layer.preactivation + row_begin * k) * item, k * item)
        epilogue = Epilogue(bias, z if code == RELU else NO_ROWS, NO_ROWS, dtype.type(1))
        call(gemm, ctx.gemm, dtype, (dtype, Shape(row_end - row_begin, k, n), a, w, z, epilogue, workspace))
        x = ctx.workspace + layer.output * item
        if code != RELU and code != IDENTITY:
            size = (row_end - row_begin) * k
            source, target = vector_at(dtype, z.address, size), vector_at(dtype, x + row_begin * k * item, size)
            call(activations.apply_activation, layer.activate, dtype, (source, target))
        if layer.drop_kernel != 0 and ctx.trains != 0:
            if layer.dropped != layer.output:
                nbytes = k * item
                dropped = ctx.workspace + layer.dropped * item
                copy_bytes(dropped + row_begin * nbytes, x + row_begin * nbytes, (row_end - row_begin) * nbytes)
                x = dropped
            drop(dtype, ctx, i, layer.dropped, row_begin, row_end)


@jit(inline=True)
def loss(dtype: Any, ctx: Any, targets: int, row_begin: int, row_end: int, scratch: int, task: int) -> None:
    """Compute the rows' losses, the task's correct answers and, in training, dL/dA of the last layer.

    ``targets`` is the address of the micro-batch's labels or targets, ``scratch`` that of scratch_size elements.
    """
    rows, last = ctx.rows, layer_at(ctx, ctx.layer_count - 1)
    k, item = last.n_out, item_bytes(dtype)
    row_losses = vector_at(FLOAT64, ctx.row_losses, rows)
    loss_rows = losses.LossRows(
        vector_at(INT64, targets, rows if ctx.takes_labels != 0 else 0),
        matrix_at(dtype, targets, rows, k),
        matrix_at(dtype, ctx.workspace + last.output * item, rows, k),
        vector_at(dtype, ctx.row_weights, rows),
        matrix_at(dtype, ctx.workspace + last.gradient * item, rows if ctx.trains != 0 else 0, k),
        row_losses,
        vector_at(dtype, scratch, ctx.scratch_size),
    )
    call(losses.loss_rows, ctx.loss_kernel, dtype, (loss_rows, row_begin, row_end))
    limit = record_at(OBJECTIVE, ctx.objective).max_row_loss
    if limit < math.inf:
        for i in range(row_begin, row_end):
            row_losses[i] = limit if row_losses[i] > limit else row_losses[i]
    if ctx.sample_weights != 0:
        for i in range(row_begin, row_end):
            row_losses[i] *= sample_weight(ctx, ctx.start + i)
    if ctx.correct_kernel != 0:
        correct = vector_at(INT64, ctx.correct, rows)
        call(losses.correct_rows, ctx.correct_kernel, dtype, (loss_rows, row_begin, row_end, correct, task))


@jit(inline=True)
def backward(dtype: Any, ctx: Any, row_begin: int, row_end: int, workspace: Any) -> None:
    """Compute dZ of every layer from dL/dA of the last, which is stored where its dZ will be."""
    item = item_bytes(dtype)
    nr = NV * (VECTOR // item)
    last = ctx.layer_count - 1
    for i in range(last, -1, -1):
        layer = layer_at(ctx, i)
        n, k, code = layer.n_in, layer.n_out, layer.activation
        d = ctx.workspace + (layer.gradient + row_begin * k) * item
        if layer.drop_kernel != 0:
            drop(dtype, ctx, i, layer.gradient, row_begin, row_end)

        # dZ = dL/dA * activation'(Z). For a hidden ReLU, the product below has already done this.
        if code != IDENTITY and (code != RELU or i == last):
            size = (row_end - row_begin) * k
            a = vector_at(dtype, ctx.workspace + (layer.output + row_begin * k) * item, size)
            z = vector_at(dtype, ctx.workspace + (layer.preactivation + row_begin * k) * item, size)
            call(activations.times_derivative, layer.derive, dtype, (a, z, vector_at(dtype, d, size)))

        # dL/dA of the layer before = dZ W; the first layer's input gradient is never computed.
        if i > 0:
            before = layer_at(ctx, i - 1)
            c = Rows(ctx.workspace + (before.gradient + row_begin * n) * item, n * item)
            mask = NO_ROWS
            if before.activation == RELU:
                mask = Rows(ctx.workspace + (before.output + row_begin * n) * item, n * item)
            dz = Matrix(d, k * item, np.intp(item), np.intp(0))
            w = Matrix(ctx.parameters + layer.weights * item, n * item, np.intp(item), np.intp(nr * item))
            epilogue = Epilogue(NO_ROWS, NO_ROWS, mask, dtype.type(1))
            call(gemm, ctx.gemm, dtype, (dtype, Shape(row_end - row_begin, n, k), dz, w, c, epilogue, workspace))


@by_address(lambda real: (types.intp, types.DType(real), CONTEXT_TYPE, types.intp))
@jit(internal=True)
def rows_task(task: int, dtype: Any, ctx: Any, scratch: int) -> None:
    """Process one task's rows of the micro-batch in the context: gather, forward, loss, backward.

    ``scratch`` is the address of scratch_size elements.
    """
    optimize_for_size()
    rows = ctx.rows
    row_begin, row_end = task_bounds(ctx, task)
    item = item_bytes(dtype)
    n, k = layer_at(ctx, 0).n_in, layer_at(ctx, ctx.layer_count - 1).n_out

    # The micro-batch's inputs and targets: in place, or gathered.
    x, targets = ctx.X, ctx.targets
    if ctx.order == 0:
        x += (ctx.start - ctx.first_row) * n * item
        targets += (ctx.start - ctx.first_row) * (8 if ctx.takes_labels != 0 else k * item)
    else:
        chosen, bounds = vector_at(INT64, ctx.order + ctx.start * 8, rows), (row_begin, row_end)
        gathered = ctx.workspace + ctx.gathered_inputs * item
        gather(dtype, x, chosen, gathered, n, bounds)
        x = gathered
        if ctx.takes_labels != 0:
            gather(INT64, targets, chosen, ctx.labels, 1, bounds)
            targets = ctx.labels
        else:
            gathered = ctx.workspace + ctx.gathered_targets * item
            gather(dtype, targets, chosen, gathered, k, bounds)
            targets = gathered

    workspace = Workspace(scratch, ctx.scratch_size * item)
    forward(dtype, ctx, x, row_begin, row_end, workspace)
    loss(dtype, ctx, targets, row_begin, row_end, scratch, task)
    if ctx.trains != 0:
        backward(dtype, ctx, row_begin, row_end, workspace)


# ------------------------------------------------------------------------------------------- the loop

PACK, ROWS, WEIGHTS, CLIPPED_UPDATE = range(4)
"""Parallel regions of `run`; the last one updates once the gradient's norm is known."""

PACK_ROWS = 128
"""Evaluations of fewer rows read W in place: packing it costs as much as 5 to 10 rows."""

PACK_COST_ROWS = 8
"""Packing W^T takes about as long as a step of this many rows."""


@jit(internal=True)
def call_rows_task(task: int, thread: int, dtype: Any, ctx: Any) -> None:
    """Call `rows_task` by its address: linked into `run`, it would be optimised a second time."""
    scratch = ctx.scratch + thread * ctx.scratch_size * item_bytes(dtype)
    if not succeeds(rows_task, ctx.rows_task, dtype, (task, dtype, ctx, scratch)):
        raise MemoryError


@jit(internal=True)
def call_weights_task(task: int, thread: Any, dtype: Any, ctx: Any) -> None:
    """Call `weights_task` by its address."""
    scratch = ctx.scratch + thread * ctx.scratch_size * item_bytes(dtype)
    if not succeeds(weights_task, ctx.weights_task, dtype, (task, dtype, ctx, scratch)):
        raise MemoryError


@jit(inline=True)
def _weigh_rows(dtype: Any, ctx: Any, totals: Any, batch_begin: int, batch_end: int) -> float:
    """Compute the rows' weights in the objective; return the sum of the micro-batch's sample weights."""
    row_weights = vector_at(dtype, ctx.row_weights, ctx.rows)
    if ctx.sample_weights == 0:
        share = dtype.type(1) / dtype.type(batch_end - batch_begin)
        for i in range(ctx.rows):
            row_weights[i] = share
        totals.batch_weight = float(batch_end - batch_begin)
        return float(ctx.rows)
    if ctx.is_first != 0:
        batch_weight = 0.0
        for i in range(batch_begin, batch_end):
            batch_weight += sample_weight(ctx, i)
        totals.batch_weight = batch_weight
    total = 0.0
    for i in range(ctx.rows):
        w = sample_weight(ctx, ctx.start + i)
        total += w
        row_weights[i] = dtype.type(w / totals.batch_weight if w > 0 else 0.0)
    return total


@jit(internal=True)
def _pack_all_inputs(dtype: Any, ctx: Any) -> None:
    """Pack the inputs of every layer that uses packed inputs."""
    inputs = ctx.inputs
    for i in range(ctx.layer_count):
        layer = layer_at(ctx, i)
        if layer.panels != 0:
            pack_inputs(dtype, ctx, i, inputs, 0, ctx.rows)
        inputs = ctx.workspace + layer.dropped * item_bytes(dtype)


@by_address(lambda real: (types.DType(real), types.intp, types.intp, types.intp))
@jit
def run(dtype: Any, context: int, threads: int, pool: int) -> None:
    """Process micro-batches from ``progress.done`` to the context's ``stop_row``.

    With several ranks this returns, with ``paused`` set, after each region but PACK. The caller then gathers what all
    ranks have computed, and the next call continues from there.

    Parameters
    ----------
    dtype : dtype
        float32 or float64: of inputs, targets, parameters and outputs.
    context : int
        Address of a record CONTEXT.
    threads, pool : int
        As for `parallel_for`; at most as many threads work as the context has scratch for.

    Raises
    ------
    MemoryError
        If a task could not allocate memory. This cannot happen in whole steps, for which `CpuEngine` reserves scratch.
    """
    optimize_for_size()
    item = item_bytes(dtype)
    ctx = record_at(CONTEXT, context)
    ctx.threads = threads = min(threads, ctx.scratch_threads)  # more may have become usable
    progress, totals = record_at(PROGRESS, ctx.progress), record_at(TOTALS, ctx.totals)
    objective = record_at(OBJECTIVE, ctx.objective)
    last_layer = layer_at(ctx, ctx.layer_count - 1)
    neurons = last_layer.first_neuron + last_layer.n_out
    rates = vector_at(FLOAT64, ctx.rates, max(1, ctx.rate_count))
    batch, trains, resumes = ctx.batch_rows, ctx.trains != 0, ctx.paused != 0
    if not resumes:
        ctx.is_group_first, ctx.is_group_last, ctx.group = 1, 1, 0
        ctx.rows, ctx.is_first, ctx.is_last, ctx.step_l2, ctx.rate, ctx.gradient_scale = 0, 1, 1, 0.0, 0.0, -1.0
        ctx.packs = 1 if trains or ctx.stop_row - progress.done >= PACK_ROWS else 0
        ctx.stage, ctx.start = PACK if ctx.packs != 0 else ROWS, progress.done
    batch_begin = ctx.start // batch * batch
    batch_end = min(batch_begin + batch, ctx.epoch_rows)
    flops = (PACK_COST_ROWS if ctx.stage == PACK else ctx.rows) * ctx.flops_per_row
    # A loop over stages, so that each parallel region is compiled once.
    while resumes or ctx.stage != ROWS or progress.done < ctx.stop_row:
        if resumes:
            resumes, ctx.paused, done = False, 0, True
        elif ctx.stage == ROWS:
            ctx.start = progress.done
            batch_begin = ctx.start // batch * batch
            batch_end = min(batch_begin + batch, ctx.epoch_rows)
            ctx.rows = min(MICRO_BATCH_ROWS, batch_end - ctx.start)
            share = -(-ctx.rows // ctx.ranks)
            ctx.row_begin = min(ctx.rows, ctx.rank * share)
            ctx.row_end = min(ctx.rows, ctx.row_begin + share)
            ctx.is_first = 1 if ctx.start == batch_begin else 0
            ctx.is_last = 1 if ctx.start + ctx.rows == batch_end else 0
            before = ctx.start - batch_begin
            ctx.is_group_first = 1 if before % GROUP_ROWS == 0 else 0
            ctx.is_group_last = 1 if ctx.is_last != 0 or (before + ctx.rows) % GROUP_ROWS == 0 else 0
            ctx.group = before // GROUP_ROWS
            flops = ctx.rows * ctx.flops_per_row
            totals.partial_weight += _weigh_rows(dtype, ctx, totals, batch_begin, batch_end)

            tasks = task_count(ctx)
            done = parallel_for(call_rows_task, tasks, threads, flops, pool, (dtype, ctx))
            correct = vector_at(INT64, ctx.correct, tasks)
            ctx.correct_count = 0
            for task in range(tasks):
                ctx.correct_count += correct[task]
            ctx.paused = 1 if ctx.ranks > 1 else 0
        else:
            if ctx.stage == WEIGHTS and ctx.ranks > 1:  # the other ranks' rows have arrived
                _pack_all_inputs(dtype, ctx)
            done = parallel_for(call_weights_task, ctx.weight_task_count, threads, flops, pool, (dtype, ctx))
            ctx.paused = 1 if ctx.ranks > 1 and ctx.stage != PACK else 0
        if not done:
            raise MemoryError("a task of the training step could not allocate memory")
        if ctx.paused != 0:  # until the other ranks' results have been gathered
            return

        if ctx.stage == PACK:
            ctx.stage = ROWS
            continue
        if ctx.stage == ROWS:
            totals.partial_loss += tree_sum(vector_at(FLOAT64, ctx.row_losses, ctx.rows))
            progress.partial_correct += ctx.correct_count
        if ctx.stage == ROWS and trains:
            ctx.inputs = ctx.X + (ctx.start - ctx.first_row) * layer_at(ctx, 0).n_in * item
            if ctx.order != 0:
                ctx.inputs = ctx.workspace + ctx.gathered_inputs * item
            ctx.rate, ctx.gradient_scale = rates[min(batch_begin // batch, rates.size - 1)], 1.0
            batch_l2 = objective.l2_per_batch / totals.batch_weight if totals.batch_weight > 0 else 0.0
            ctx.step_l2 = ctx.l2 + batch_l2
            ctx.stage = WEIGHTS
            continue
        if ctx.stage == WEIGHTS and ctx.is_last != 0 and ctx.clip_norm < math.inf:
            norm = math.sqrt(tree_sum(vector_at(FLOAT64, ctx.row_norms, neurons)))
            # Not min(), since infinity and NaN must reach the parameters.
            ctx.gradient_scale = 1.0 if norm <= ctx.clip_norm else ctx.clip_norm / norm
            ctx.rows, ctx.stage = 0, CLIPPED_UPDATE
            continue
        ctx.stage = ROWS
        progress.done = min(batch_end, ctx.start + MICRO_BATCH_ROWS)
        if ctx.is_last != 0:
            progress.row = progress.done
            progress.step += 1
            progress.correct += progress.partial_correct
            totals.loss += totals.partial_loss
            totals.weight += totals.partial_weight
            if trains and totals.batch_weight > 0:
                mean = (batch_end - batch_begin) / totals.batch_weight
                objective.mean_loss += totals.partial_loss * mean
                if objective.l2_per_batch != 0:
                    squares = tree_sum(vector_at(FLOAT64, ctx.squared_weights, neurons))
                    objective.penalty += objective.l2_per_batch / 2 * squares * mean
            progress.partial_correct = 0
            totals.partial_loss = totals.partial_weight = 0.0
