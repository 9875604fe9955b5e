"""Accessors of the training step's context for compiled code: layers, tasks and sample weights."""

from typing import Any

import numba
import numpy as np

from ..jit.decorator import jit
from ..llvm.memory import record_at, vector_at
from .plan import CONTEXT, LAYER

INT64, FLOAT64 = np.dtype(np.int64), np.dtype(np.float64)

CONTEXT_TYPE = numba.from_dtype(CONTEXT)
"""Numba's type of a CONTEXT; compiled functions receive a pointer to it."""

_LAYER_BYTES = LAYER.itemsize


@jit(inline=True)
def layer_at(ctx: Any, i: int) -> Any:
    """Return the record of a layer."""
    return record_at(LAYER, ctx.layers + i * _LAYER_BYTES)


@jit(inline=True)
def task_count(ctx: Any) -> int:
    """Return the number of tasks into which this rank's rows of the micro-batch are divided."""
    return -(-(ctx.row_end - ctx.row_begin) // ctx.task_rows)


@jit(inline=True)
def task_bounds(ctx: Any, task: int) -> Any:
    """Return row_begin and row_end of a task within the micro-batch."""
    tasks, rows = task_count(ctx), ctx.row_end - ctx.row_begin
    return ctx.row_begin + rows * task // tasks, ctx.row_begin + rows * (task + 1) // tasks


@jit(inline=True)
def sample_weight(ctx: Any, row: int) -> float:
    """Return the sample weight of a row of the epoch."""
    index = row
    if ctx.order != 0:
        index = vector_at(INT64, ctx.order + row * 8, 1)[0]
    return vector_at(FLOAT64, ctx.sample_weights + index * 8, 1)[0]
