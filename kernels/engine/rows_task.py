"""First half of a training step: rows of a micro-batch go forward through all layers, into the loss, and back.

Tasks are ranges of rows. They need nothing of each other: a row's outputs and dZ depend on that row and on the weights
alone, so any number of threads computes the same bits.
"""

import math
from typing import Any

import numba
import numpy as np
from numba import types

from ..cpu import activations, losses
from ..cpu.gemm.gemm import gemm
from ..cpu.gemm.microkernel import NV
from ..cpu.gemm.operands import NO_ROWS, Epilogue, Matrix, Rows, Shape, Workspace
from ..jit.call_by_address import by_address, call
from ..jit.decorator import jit
from ..llvm.builder import VECTOR
from ..llvm.memory import allocate, array_at, copy_bytes, item_bytes, optimize_for_size, record_at, release
from ..specs.activations import IDENTITY, RELU
from .backend import OBJECTIVE
from .plan import CONTEXT, LAYER, PREDICT, TRAIN

INT64, FLOAT64 = np.dtype(np.int64), np.dtype(np.float64)

CONTEXT_TYPE = numba.from_dtype(CONTEXT)

_LAYER_BYTES = LAYER.itemsize


@jit(inline=True)
def vector_at(dtype: Any, address: int, size: int) -> Any:
    """Return the array (size,) at an address."""
    return array_at(dtype, address, (size,))


@jit(inline=True)
def matrix_at(dtype: Any, address: int, rows: int, columns: int) -> Any:
    """Return the array (rows, columns) at an address."""
    return array_at(dtype, address, (rows, columns))


@jit(inline=True)
def layer_at(ctx: Any, i: int) -> Any:
    """Return the record of a layer."""
    return record_at(LAYER, ctx.layers + i * _LAYER_BYTES)


@jit(inline=True)
def task_bounds(ctx: Any, task: int) -> Any:
    """Return row_begin and row_end of a task of the micro-batch's rows."""
    tasks = -(-ctx.rows // ctx.task_rows)
    return ctx.rows * task // tasks, ctx.rows * (task + 1) // tasks


@jit(inline=True)
def sample_weight(ctx: Any, row: int) -> float:
    """Return the sample weight of a row of the epoch."""
    index = row
    if ctx.order != 0:
        index = vector_at(INT64, ctx.order + row * 8, 1)[0]
    return vector_at(FLOAT64, ctx.sample_weights + index * 8, 1)[0]


@jit(inline=True)
def gather(dtype: Any, source: int, chosen: Any, target: int, size: int, rows: Any) -> None:
    """Copy the chosen rows of ``size`` elements, those from rows[0] to rows[1] of a micro-batch."""
    nbytes = size * item_bytes(dtype)
    for i in range(rows[0], rows[1]):
        copy_bytes(target + i * nbytes, source + chosen[i] * nbytes, nbytes)


@jit(inline=True)
def forward(dtype: Any, ctx: Any, x: int, row_begin: int, row_end: int, workspace: Any) -> None:
    """Compute A, and where needed Z, of every layer; x is the address of the micro-batch's inputs."""
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    for i in range(ctx.layer_count):
        layer = layer_at(ctx, i)
        n, k, code = layer.n_in, layer.n_out, layer.activation
        a = Matrix(x + row_begin * n * item, n * item, np.intp(item), np.intp(0))
        panel = -(-n // lanes) * lanes * nr * item
        w = Matrix(ctx.packed_weights + layer.packed * item, np.intp(nr * item), np.intp(item), panel)
        if k == 1:  # a single row of W is a column of W^T as it is
            w = Matrix(ctx.parameters + layer.weights * item, np.intp(item), np.intp(item), np.intp(nr * item))
        bias = Rows(ctx.parameters + layer.biases * item, np.intp(0))
        z = Rows(ctx.workspace + (layer.preactivation + row_begin * k) * item, k * item)
        epilogue = Epilogue(bias, z if code == RELU else NO_ROWS, NO_ROWS, dtype.type(1))
        call(gemm, ctx.gemm, dtype, (dtype, Shape(row_end - row_begin, k, n), a, w, z, epilogue, workspace))
        x = ctx.workspace + layer.output * item
        if code != RELU and code != IDENTITY:
            size = (row_end - row_begin) * k
            source, target = vector_at(dtype, z.address, size), vector_at(dtype, x + row_begin * k * item, size)
            call(activations.apply_activation, layer.activate, dtype, (source, target))


@jit(inline=True)
def loss(dtype: Any, ctx: Any, targets: int, row_begin: int, row_end: int, scratch: int, task: int) -> None:
    """Compute the rows' losses, where training dL/dA of the last layer, and the task's correct answers.

    ``targets`` is the address of the micro-batch's labels or targets, ``scratch`` that of scratch_size elements.
    """
    rows, last = ctx.rows, layer_at(ctx, ctx.layer_count - 1)
    k, item = last.n_out, item_bytes(dtype)
    row_losses = vector_at(FLOAT64, ctx.row_losses, rows)
    loss_rows = losses.LossRows(
        vector_at(INT64, targets, rows),
        matrix_at(dtype, targets, rows, k),
        matrix_at(dtype, ctx.workspace + last.output * item, rows, k),
        vector_at(dtype, ctx.row_weights, rows),
        matrix_at(dtype, ctx.workspace + last.gradient * item, rows if ctx.purpose == TRAIN else 0, k),
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
        call(losses.correct_rows, ctx.correct_kernel, dtype, (ctx.loss, loss_rows, row_begin, row_end, correct, task))


@jit(inline=True)
def backward(dtype: Any, ctx: Any, row_begin: int, row_end: int, workspace: Any) -> None:
    """Compute dZ of every layer from dL/dA of the last, which lies where its dZ will be."""
    item = item_bytes(dtype)
    nr = NV * (VECTOR // item)
    last = ctx.layer_count - 1
    for i in range(last, -1, -1):
        layer = layer_at(ctx, i)
        n, k, code = layer.n_in, layer.n_out, layer.activation
        d = ctx.workspace + (layer.gradient + row_begin * k) * item

        # dZ = dL/dA * activation'(Z). A hidden ReLU's happened in the product below.
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


@by_address(lambda real: (types.intp, types.DType(real), CONTEXT_TYPE))
@jit(internal=True)
def rows_task(task: int, dtype: Any, ctx: Any) -> None:
    """Process one task's rows of the micro-batch in the context: gather, forward, loss, backward."""
    optimize_for_size()
    rows = ctx.rows
    row_begin, row_end = task_bounds(ctx, task)
    item = item_bytes(dtype)
    n, last = layer_at(ctx, 0).n_in, layer_at(ctx, ctx.layer_count - 1)
    k = last.n_out

    # The micro-batch's inputs and targets: where they are, or gathered.
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

    scratch = ctx.scratch
    if scratch == 0:  # of several threads each needs its own
        scratch = allocate(ctx.scratch_size * item)
    workspace = Workspace(scratch, ctx.scratch_size * item)
    forward(dtype, ctx, x, row_begin, row_end, workspace)
    if ctx.purpose == PREDICT:
        outputs = matrix_at(dtype, ctx.workspace + last.output * item, rows, k)
        result = matrix_at(dtype, ctx.out + (ctx.start - ctx.first_row) * k * item, rows, k)
        for i in range(row_begin, row_end):
            for j in range(k):
                result[i, j] = outputs[i, j]
    else:
        loss(dtype, ctx, targets, row_begin, row_end, scratch, task)
        if ctx.purpose == TRAIN:
            backward(dtype, ctx, row_begin, row_end, workspace)
    if ctx.scratch == 0:
        release(scratch)
