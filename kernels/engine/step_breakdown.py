"""A training step in parts, for the profiler: it repeats the step's own functions, one layer at a time.

Called once each, in order, on one thread, the parts compute the bits of a step; the profiler checks that before it
times them. Each takes the address of a CONTEXT: a copy, possibly with some of the layers only, of that of a `CpuEngine`
that has just trained a batch of at most MICRO_BATCH_ROWS rows, unshuffled. A layer's forward part includes packing its
inputs for the weights' part, where that pays.
"""

from typing import Any

import numpy as np

from ..cpu.gemm.operands import Workspace
from ..jit.decorator import jit
from ..llvm.memory import item_bytes, record_at
from .context import task_bounds, task_count
from .plan import CONTEXT
from .training_step import backward, call_weights_task, forward, loss

FORWARD, LOSS, BACKWARD = range(3)


@jit
def repeat_rows(dtype: Any, context: int, part: int, x: int, times: int) -> None:
    """Run one part of all row tasks, ``times`` times.

    FORWARD computes A and Z of the context's layers from the inputs at address x. LOSS computes losses, dL/dA and
    correct answers from the outputs of the last layer. BACKWARD computes dZ of all layers but the last from that of
    the last.
    """
    ctx = record_at(CONTEXT, context)
    workspace = Workspace(ctx.scratch, ctx.scratch_size * item_bytes(dtype))
    for _ in range(times):
        for task in range(task_count(ctx)):
            row_begin, row_end = task_bounds(ctx, task)
            if part == FORWARD:
                forward(dtype, ctx, x, row_begin, row_end, workspace)
            elif part == LOSS:
                loss(dtype, ctx, ctx.targets, row_begin, row_end, ctx.scratch, task)
            else:
                backward(dtype, ctx, row_begin, row_end, workspace)


@jit
def repeat_weights(dtype: Any, context: int, tasks: Any, times: int) -> None:
    """Compute dW, db, the update and W^T in the weight tasks with these indices, ``times`` times."""
    ctx = record_at(CONTEXT, context)
    for _ in range(times):
        for task in tasks:
            call_weights_task(task, np.intp(0), dtype, ctx)
