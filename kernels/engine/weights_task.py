"""Second half of a training step: dW, db, the update, and W^T packed for the next forward pass.

Tasks are ranges of rows of one layer's W, and are independent: an element of dW and db is one chain of sums over the
rows of a micro-batch in their order, whichever thread computes it.

Besides W the step keeps W^T, packed in the micro-panels that the micro-kernel reads: the thread that updates rows of W
transposes them, a block of vectors at a time, while they are in cache. If every product packed W instead, each thread
would have to pack all of it (docs/performance-notes/engine.md).

X is packed once for all weight tasks of a layer, by `pack_inputs`: each row task packs its own rows as it reads them.

Plain SGD, if the batch is a single micro-batch, updates W <- W - rate dW on the sums in registers and never stores dW.
The product's epilogue applies the same FMA as a separate update would, so the bits are the same.
"""

import math
from typing import Any

import numpy as np
from numba import types

from ..cpu import optimizers
from ..cpu.gemm.gemm import gemm
from ..cpu.gemm.microkernel import NV, sum_rows
from ..cpu.gemm.operands import NO_ROWS, Epilogue, Matrix, Rows, Shape, Workspace
from ..cpu.gemm.packing import pack_b
from ..cpu.gemm.transpose import PACKED_VECTORS, stream_panel, transpose_panel
from ..cpu.softmax import tree_sum
from ..cpu.threads.atomics import store_fence
from ..jit.call_by_address import by_address, call
from ..jit.decorator import jit
from ..llvm.builder import VECTOR
from ..llvm.memory import (
    address_and_strides,
    copy_vector,
    item_bytes,
    optimize_for_size,
    record_at,
    stack_memory,
    vector_at,
)
from ..specs.batches import GROUP_ROWS
from ..specs.optimizers import OPTIMIZERS
from .backend import PROGRESS
from .context import CONTEXT_TYPE, FLOAT64, layer_at
from .plan import WEIGHT_TASK

_LANES = 32
"""Number of independent partial sums of squares."""

_LANES_BYTES, _PANEL_BYTES = _LANES * 8, NV * VECTOR

_SGD, _NONE = OPTIMIZERS["sgd"].code, OPTIMIZERS["none"].code

_TASK_BYTES = WEIGHT_TASK.itemsize


@jit(internal=True)
def _multiply(values: Any, factor: Any) -> None:
    """values *= factor."""
    for i in range(values.size):
        values[i] *= factor


@jit(internal=True)
def _square_sum(values: Any, lanes: Any, gradient: Any, decay: Any) -> float:
    """Return the sum of squares in float64; the lanes (_LANES,) are overwritten.

    The same pass computes gradient += decay * values, unless the gradient is None; then no code is compiled for it.
    """
    for j in range(_LANES):
        lanes[j] = 0
    whole = values.size // _LANES * _LANES
    for i in range(0, whole, _LANES):
        part = values[i : i + _LANES]
        if gradient is not None:
            g = gradient[i : i + _LANES]
        for j in range(_LANES):
            if gradient is not None:
                g[j] += decay * part[j]
            lanes[j] += np.float64(part[j]) * np.float64(part[j])
    for i in range(whole, values.size):
        if gradient is not None:
            gradient[i] += decay * values[i]
        lanes[i - whole] += np.float64(values[i]) * np.float64(values[i])
    return tree_sum(lanes)


@jit(inline=True)
def _update(dtype: Any, ctx: Any, start: int, size: int) -> None:
    """Apply the optimizer to a range of parameters."""
    offset = start * item_bytes(dtype)
    arguments = (
        vector_at(dtype, ctx.parameters + offset, size),
        vector_at(dtype, ctx.gradient + offset, size),
        vector_at(dtype, ctx.state0 + offset, size),
        vector_at(dtype, ctx.state1 + offset, size),
        vector_at(FLOAT64, ctx.hyper, 8),
        ctx.rate,
        record_at(PROGRESS, ctx.progress).step + 1,
    )
    call(optimizers.update, ctx.update_kernel, dtype, arguments)


@jit(internal=True)
def pack_weights(dtype: Any, w: int, packed: int, n: int, row_begin: int, row_end: int, streams: bool) -> None:
    """Transpose rows of the W (k, n) at w into the micro-panels at ``packed``; row_begin is a multiple of the lanes.

    ``streams``: store past the caches, for other threads, PACKED_VECTORS vectors at once, if row_begin is a multiple of
    these; a rank's part of W may begin elsewhere.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    nr = NV * lanes
    panel = -(-n // lanes) * lanes * nr * item
    j, step = row_begin, PACKED_VECTORS * lanes
    if streams and n > 1 and row_begin % step == 0:
        while row_end - j >= step:
            target = packed + j // nr * panel + j % nr * item
            stream_panel(dtype, target, nr * item, w + j * n * item, n * item, n)
            j += step
        store_fence()
    while j < row_end:
        target = packed + j // nr * panel + j % nr * item
        if n == 1:  # there is nothing to transpose
            copy_vector(dtype, target, w + j * item, row_end - j)
        else:
            transpose_panel(dtype, target, nr * item, w + j * n * item, n * item, min(lanes, row_end - j), n)
        j += lanes


@jit(internal=True)
def _add_group(gradient: Any, sums: Any, first: bool) -> None:
    """Add a group's gradient to the sum over groups, and store the result in both."""
    for i in range(gradient.size):
        if not first:
            gradient[i] += sums[i]
        sums[i] = gradient[i]


@jit(inline=True)
def _panel_bytes(dtype: Any, ctx: Any) -> int:
    """Return the distance in bytes between two micro-panels of a micro-batch's packed inputs."""
    lanes = VECTOR // item_bytes(dtype)
    return -(-ctx.rows // lanes) * lanes * np.intp(NV * VECTOR)


@jit(internal=True)
def pack_inputs(dtype: Any, ctx: Any, i: int, inputs: int, row_begin: int, row_end: int) -> None:
    """Pack rows of layer i's X, the matrix at the address ``inputs``, for `weights_task`."""
    item = item_bytes(dtype)
    layer = layer_at(ctx, i)
    n = layer.n_in
    x = Matrix(inputs + row_begin * n * item, n * item, np.intp(item), np.intp(NV * VECTOR))
    target = ctx.workspace + layer.panels * item + row_begin * NV * VECTOR
    pack_b(dtype, row_end - row_begin, n, x, target, _panel_bytes(dtype, ctx))


@jit(inline=True)
def _gradient(dtype: Any, ctx: Any, task: Any, fused: bool, scratch: int) -> None:
    """Add dW = dZ^T X and db of the micro-batch to those of its group's earlier ones; fused: W <- W - rate dW.

    Both are summed over the micro-batch from zero, then added: the error of a chain over a whole batch would grow with
    its length.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    layer = layer_at(ctx, task.layer)
    n, k, height = layer.n_in, layer.n_out, task.row_end - task.row_begin
    inputs = ctx.inputs
    if task.layer > 0:
        inputs = ctx.workspace + layer_at(ctx, task.layer - 1).dropped * item
    dz = Matrix(ctx.workspace + (layer.gradient + task.row_begin) * item, np.intp(item), k * item, np.intp(0))
    x = Matrix(inputs, n * item, np.intp(item), np.intp(NV * lanes * item))
    destination = ctx.parameters if fused else ctx.gradient
    c = Rows(destination + (layer.weights + task.row_begin * n) * item, n * item)
    addend = c if fused or ctx.is_group_first == 0 else NO_ROWS
    alpha = dtype.type(-ctx.rate) if fused else dtype.type(1)
    if layer.panels != 0:
        x = Matrix(ctx.workspace + layer.panels * item, np.intp(NV * VECTOR), np.intp(item), _panel_bytes(dtype, ctx))
    workspace = Workspace(scratch, ctx.scratch_size * item)
    epilogue = Epilogue(addend, NO_ROWS, NO_ROWS, alpha)
    call(gemm, ctx.gemm, dtype, (dtype, Shape(height, n, ctx.rows), dz, x, c, epilogue, workspace))
    db = vector_at(dtype, ctx.gradient + (layer.biases + task.row_begin) * item, height)
    sums, j = vector_at(dtype, stack_memory(_PANEL_BYTES), NV * lanes), 0
    while j < height:
        width = NV * lanes if height - j >= NV * lanes else min(lanes, height - j)
        columns = Rows(dz.address + j * item, dz.column_stride)
        sum_rows(dtype, address_and_strides(sums)[0], columns, ctx.rows, height - j, 1)
        for i in range(width):
            db[j + i] = sums[i] if ctx.is_group_first != 0 else db[j + i] + sums[i]
        j += width


@by_address(lambda real: (types.intp, types.DType(real), CONTEXT_TYPE))
@jit(internal=True)
def norms_task(index: int, dtype: Any, ctx: Any) -> None:
    """Add the penalty's gradient to dW; sum squares of W for the penalty, and of dW and db for clipping.

    This is compiled only for training with l2 or clipping.
    """
    item = item_bytes(dtype)
    lanes = VECTOR // item
    task = record_at(WEIGHT_TASK, ctx.weight_tasks + index * _TASK_BYTES)
    layer = layer_at(ctx, task.layer)
    n, height = layer.n_in, task.row_end - task.row_begin
    w_start, first_neuron = layer.weights + task.row_begin * n, layer.first_neuron + task.row_begin
    gradient = vector_at(dtype, ctx.gradient + w_start * item, height * n)
    sums = vector_at(FLOAT64, stack_memory(_LANES_BYTES), _LANES)
    if ctx.step_l2 != 0:
        weights = vector_at(dtype, ctx.parameters + w_start * item, height * n)
        squares = vector_at(FLOAT64, ctx.squared_weights + first_neuron * 8, height)
        for j in range(0, height, lanes):  # tasks begin at multiples of the lanes
            end = min(j + lanes, height)
            squares[j] = _square_sum(weights[j * n : end * n], sums, gradient[j * n : end * n], dtype.type(ctx.step_l2))
            for i in range(j + 1, end):
                squares[i] = 0
    if ctx.clip_norm < math.inf:
        biases = vector_at(dtype, ctx.gradient + (layer.biases + task.row_begin) * item, height)
        norms = vector_at(FLOAT64, ctx.row_norms + first_neuron * 8, height)
        for j in range(height):
            b_j = np.float64(biases[j])
            norms[j] = _square_sum(gradient[j * n : (j + 1) * n], sums, None, 0) + b_j * b_j


@by_address(lambda real: (types.intp, types.DType(real), CONTEXT_TYPE, types.intp))
@jit(internal=True)
def weights_task(index: int, dtype: Any, ctx: Any, scratch: int) -> None:
    """Process a task's rows of W: dW and db over a micro-batch and, after a batch's last one, the update and W^T.

    If the context has no rows, it finishes a step that waited for the gradient's norm, with the gradient times
    ``gradient_scale``, which may be NaN; or, if that is below 0, it only packs W^T. ``scratch`` is the address of
    scratch_size elements.
    """
    optimize_for_size()
    item = item_bytes(dtype)
    task = record_at(WEIGHT_TASK, ctx.weight_tasks + index * _TASK_BYTES)
    layer = layer_at(ctx, task.layer)
    n, height = layer.n_in, task.row_end - task.row_begin
    w_start, b_start = layer.weights + task.row_begin * n, layer.biases + task.row_begin
    clips = ctx.clip_norm < math.inf
    whole_batch = ctx.is_first != 0 and ctx.is_last != 0
    fused = ctx.optimizer == _SGD and whole_batch and not clips and ctx.step_l2 == 0

    if ctx.rows > 0:
        _gradient(dtype, ctx, task, fused, scratch)
    gradient = vector_at(dtype, ctx.gradient + w_start * item, height * n)
    biases = vector_at(dtype, ctx.gradient + b_start * item, height)
    if ctx.rows > 0 and ctx.batch_rows > GROUP_ROWS and ctx.is_group_last != 0:
        _add_group(gradient, vector_at(dtype, ctx.gradient_sum + w_start * item, height * n), ctx.group == 0)
        _add_group(biases, vector_at(dtype, ctx.gradient_sum + b_start * item, height), ctx.group == 0)
    if ctx.is_last == 0:
        return
    if ctx.rows > 0 and (ctx.step_l2 != 0 or clips):
        call(norms_task, ctx.norms_task, dtype, (index, dtype, ctx))
    if ctx.rows > 0 and clips:
        return
    scale = ctx.gradient_scale
    if not (scale < 0 or scale == 1):
        factor = dtype.type(scale)
        _multiply(gradient, factor)
        _multiply(biases, factor)
    if not scale < 0 and ctx.optimizer != _NONE:
        if not fused:
            _update(dtype, ctx, w_start, height * n)
        _update(dtype, ctx, b_start, height)
    if layer.n_out > 1:
        w, packed = ctx.parameters + layer.weights * item, ctx.packed_weights + layer.packed * item
        pack_weights(dtype, w, packed, n, task.row_begin, task.row_end, ctx.threads > 1)
