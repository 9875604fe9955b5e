"""A training step in parts, for the profiler: the functions of the step itself, one layer at a time, repeated.

Called once each, in order, on one thread, the parts leave the bits of a step; the profiler checks that before it
times them. Each takes the address of a CONTEXT (see `layer_context`) of a `CpuEngine` that has just trained a batch of
at most MICRO_BATCH_ROWS rows in the order in which they lie in memory.
"""

from typing import Any

from ..cpu.gemm.operands import Workspace
from ..jit.decorator import jit
from ..llvm.memory import item_bytes, record_at
from .backend import Array
from .context import task_bounds
from .plan import CONTEXT, address_of
from .training_step import backward, call_weights_task, forward, loss


@jit
def repeat_forward(dtype: Any, context: int, x: int, times: int) -> None:
    """Compute A and Z of the context's layers from the inputs at the address x, ``times`` times."""
    ctx = record_at(CONTEXT, context)
    workspace = Workspace(ctx.scratch, ctx.scratch_size * item_bytes(dtype))
    for _ in range(times):
        for task in range(-(-ctx.rows // ctx.task_rows)):
            row_begin, row_end = task_bounds(ctx, task)
            forward(dtype, ctx, x, row_begin, row_end, workspace)


@jit
def repeat_loss(dtype: Any, context: int, times: int) -> None:
    """Compute losses, dL/dA and correct answers from the outputs of the last layer."""
    ctx = record_at(CONTEXT, context)
    for _ in range(times):
        for task in range(-(-ctx.rows // ctx.task_rows)):
            row_begin, row_end = task_bounds(ctx, task)
            loss(dtype, ctx, ctx.targets, row_begin, row_end, ctx.scratch, task)


@jit
def repeat_backward(dtype: Any, context: int, times: int) -> None:
    """Compute dZ of the context's layers but the last, from that of the last."""
    ctx = record_at(CONTEXT, context)
    workspace = Workspace(ctx.scratch, ctx.scratch_size * item_bytes(dtype))
    for _ in range(times):
        for task in range(-(-ctx.rows // ctx.task_rows)):
            row_begin, row_end = task_bounds(ctx, task)
            backward(dtype, ctx, row_begin, row_end, workspace)


@jit
def repeat_weights(dtype: Any, context: int, tasks: Any, times: int) -> None:
    """Compute dW, db, the update and W^T of the weight tasks of these numbers."""
    ctx = record_at(CONTEXT, context)
    for _ in range(times):
        for task in tasks:
            call_weights_task(task, dtype, ctx)


def layer_context(context: Array, layers: Array, **fields: Any) -> Array:
    """Return a copy of a context that knows these layers only, with fields changed.

    The caller keeps both arrays alive while compiled code uses the copy.
    """
    copy = context.copy()
    copy["layers"], copy["layer_count"] = address_of(layers), len(layers)
    for name, value in fields.items():
        copy[name] = value
    return copy
