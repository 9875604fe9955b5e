"""The compiled training loop: one call trains many steps, without Python in between.

A step reads::

    rows_task      gather, forward, loss, backward    each thread takes rows of the batch through all layers
    weights_task   dW, db, update, W^T                each thread takes rows of W, over the whole batch

Two parallel regions a step, without a barrier inside: what rows need of each other is only W, and what weights need of
each other is only dZ. Clipping needs the gradient's norm before any update, hence a third region.

**Same bits** for any number of threads: what is summed over rows or over weights, the loss and the norm, is stored by
row and added by `tree_sum`. Everything arrives in one record, `CONTEXT`, and kernels are called by address: with arrays
as arguments and kernels linked in, the loop took 16 s to compile.
"""

import math
from typing import Any

from ..cpu.losses import tree_sum
from ..cpu.threads.parallel_for import parallel_for
from ..jit.call_by_address import call
from ..jit.decorator import jit
from ..llvm.memory import item_bytes, optimize_for_size, record_at
from .backend import OBJECTIVE, PROGRESS, TOTALS
from .plan import CONTEXT, MICRO_BATCH_ROWS, PREDICT, TRAIN
from .rows_task import FLOAT64, INT64, layer_at, rows_task, sample_weight, vector_at
from .weights_task import weights_task


@jit(internal=True)
def _call_rows_task(task: int, dtype: Any, ctx: Any) -> None:
    """Call `rows_task` by its address: linked into `run`, it would be optimised a second time."""
    call(rows_task, ctx.rows_task, dtype, (task, dtype, ctx))


@jit(internal=True)
def call_weights_task(task: int, dtype: Any, ctx: Any) -> None:
    """Call `weights_task` by its address."""
    call(weights_task, ctx.weights_task, dtype, (task, dtype, ctx))


@jit(inline=True)
def _weigh_rows(dtype: Any, ctx: Any, totals: Any, batch_begin: int, batch_end: int) -> float:
    """Fill the rows' weights in the objective; return the sum of the micro-batch's sample weights."""
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


@jit
def run(dtype: Any, context: int, threads: int, pool: int) -> None:
    """Process micro-batches from ``progress.done`` to the context's ``stop_row``.

    Parameters
    ----------
    dtype : dtype
        float32 or float64: of inputs, targets, parameters and outputs.
    context : int
        Address of a record CONTEXT.
    threads, pool : int
        As `parallel_for` takes them.

    Raises
    ------
    MemoryError
        If a task could not allocate its scratch.
    """
    optimize_for_size()
    item = item_bytes(dtype)
    ctx = record_at(CONTEXT, context)
    progress, totals = record_at(PROGRESS, ctx.progress), record_at(TOTALS, ctx.totals)
    objective = record_at(OBJECTIVE, ctx.objective)
    last_layer = layer_at(ctx, ctx.layer_count - 1)
    neurons = last_layer.first_neuron + last_layer.n_out
    rates = vector_at(FLOAT64, ctx.rates, max(1, ctx.rate_count))
    batch, trains = ctx.batch_rows, ctx.purpose == TRAIN
    batch_begin = batch_end = progress.done
    ctx.rows, ctx.is_first, ctx.is_last, ctx.step_l2, ctx.rate, ctx.gradient_scale = 0, 1, 1, 0.0, 0.0, -1.0
    stage, flops = 0, 0
    # Stages, so that each region is compiled once: 0 W^T, 1 rows, 2 weights, 3 updates that waited for the norm.
    while stage != 1 or progress.done < ctx.stop_row:
        if stage == 1:
            ctx.start = progress.done
            batch_begin = ctx.start // batch * batch
            batch_end = min(batch_begin + batch, ctx.epoch_rows)
            ctx.rows = min(MICRO_BATCH_ROWS, batch_end - ctx.start)
            ctx.is_first = 1 if ctx.start == batch_begin else 0
            ctx.is_last = 1 if ctx.start + ctx.rows == batch_end else 0
            flops = ctx.rows * ctx.flops_per_row
            weight = _weigh_rows(dtype, ctx, totals, batch_begin, batch_end)

            tasks = -(-ctx.rows // ctx.task_rows)
            parallel_for(_call_rows_task, tasks, threads, flops, pool, (dtype, ctx))
            if ctx.purpose != PREDICT:
                totals.partial_loss += tree_sum(vector_at(FLOAT64, ctx.row_losses, ctx.rows))
                totals.partial_weight += weight
                correct = vector_at(INT64, ctx.correct, tasks)
                for task in range(tasks):
                    progress.partial_correct += correct[task]
        else:
            parallel_for(call_weights_task, ctx.weight_task_count, threads, flops, pool, (dtype, ctx))

        if stage == 0:
            stage = 1
            continue
        if stage == 1 and trains:
            ctx.inputs = ctx.X + (ctx.start - ctx.first_row) * layer_at(ctx, 0).n_in * item
            if ctx.order != 0:
                ctx.inputs = ctx.workspace + ctx.gathered_inputs * item
            ctx.rate, ctx.gradient_scale = rates[min(batch_begin // batch, rates.size - 1)], 1.0
            batch_l2 = objective.l2_per_batch / totals.batch_weight if totals.batch_weight > 0 else 0.0
            ctx.step_l2 = ctx.l2 + batch_l2
            stage = 2
            continue
        if stage == 2 and ctx.is_last != 0 and ctx.clip_norm < math.inf:
            norm = math.sqrt(tree_sum(vector_at(FLOAT64, ctx.row_norms, neurons)))
            # Not min: infinity and NaN must show in the parameters.
            ctx.gradient_scale = 1.0 if norm <= ctx.clip_norm else ctx.clip_norm / norm
            ctx.rows, stage = 0, 3
            continue
        stage = 1
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
