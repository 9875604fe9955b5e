"""Prediction: one compiled call through all layers, without gradients or set-up.

`predict_rows` takes one block of rows after the other through all layers, so that the activations between two layers
stay in cache. For a few rows its scratch is on its own stack; otherwise it is allocated for the call. So nothing
outlives a call, and any number of threads may predict with one network.

`gemm` computes every product, and its elements do not depend on the rows computed with them. So a row's bits depend
neither on its batch, nor on threads, nor on whether weights are packed, and equal those that training computes.
"""

from typing import Any

import numpy as np
from numba import types

from ..cpu import activations
from ..cpu.elementwise import all_finite
from ..cpu.gemm.gemm import NO_WORKSPACE, gemm
from ..cpu.gemm.microkernel import NV
from ..cpu.gemm.operands import NO_ROWS, Epilogue, Matrix, Product, Rows, Shape
from ..cpu.gemm.parallel import chunk_bounds
from ..cpu.softmax import softmax_rows, softmax_scratch
from ..cpu.threads.parallel_for import parallel_for
from ..jit.call_by_address import by_address, call
from ..jit.decorator import jit
from ..llvm.builder import LINE, VECTOR
from ..llvm.memory import (
    address_and_strides,
    allocate,
    copy_bytes,
    item_bytes,
    keep_alive,
    matrix_at,
    optimize_for_size,
    record_at,
    release,
    stack_memory,
    vector_at,
)
from .backend import record
from .context import INT64
from .weights_task import pack_weights

FEW_ROWS = 96
"""Up to this many rows, threads divide columns of every layer instead of rows: each then reads only its part of W."""

FEW_ROWS_IN_PLACE = 240
"""The same if W is large and not in micro-panels: to divide rows, all of W would have to be packed first."""

COLUMNS_FLOPS = 1_500_000
"""Layers with fewer floating-point operations stay on one thread."""

READ_ROWS = 5
"""Reading W takes about as long as computing this many rows of the product."""

MIN_TASK_ROWS = 4
"""Fewest rows of a task: fewer leave the FMA units waiting."""

TASKS_PER_THREAD = 2
"""More than one, so that a thread that loses its core for a while delays no other thread."""

PACK_FLOPS = 10
"""Packing a weight takes as long as this many floating-point operations."""

STACK_BYTES = 1 << 14
"""Scratch up to this size is on the stack: enough for a row of layers of up to 2000 float32."""

FORWARD_LAYER = record("n_in n_out weights biases row_stride column_stride panel_stride relu activate")
"""One layer of a `Forward`; offsets and strides are in bytes.

- weights, biases: offsets of W and b in the values
- row_stride, column_stride, panel_stride: strides of W^T, as `gemm` takes them
- relu: 1 if the product applies ReLU
- activate: address of another activation's kernel, or 0
"""

FORWARD = record(
    "n_in n_out value_count width panels few_rows flops_per_row block_rows layer_count"
    " layers pool gemm predict_rows softmax"
)
"""The description of a network for compiled functions.

- value_count: elements that the layers read
- width: outputs of the widest layer; panels: micro-panels of the largest W
- few_rows: most rows for which threads may divide columns
- block_rows: rows that go through all layers together
- layers: address of FORWARD_LAYER (layer_count,); pool: `threads.pool.POOL`
- gemm, predict_rows, softmax: addresses of kernels; softmax is 0 if outputs are returned without it
"""

_LAYER_BYTES = FORWARD_LAYER.itemsize


def few_rows(most: int, panels: int, threads: int) -> int:
    """Return the most rows for which threads divide columns.

    They are ``most`` if the largest W has a micro-panel per thread, otherwise MIN_TASK_ROWS.
    """
    return most if panels >= threads else MIN_TASK_ROWS


_few_rows = jit(scalar=True)(few_rows)

by_address(lambda real: (types.Array(real, 2, "C"),) * 2 + (types.Array(real, 1, "C"),))(softmax_rows)


@jit(internal=True)
def _columns_task(task: int, thread: int, dtype: Any, address: int, product: Any, tasks: int) -> None:
    """Compute one task's columns of a layer's `Product`, by the address of `gemm`."""
    (m, n, k), a, w, z, bias, relu = product
    item = item_bytes(dtype)
    nr = NV * VECTOR // item
    begin, end = chunk_bounds(n, nr, task, tasks)
    offset = begin * item
    w = Matrix(w.address + begin // nr * w.panel_stride, w.row_stride, w.column_stride, w.panel_stride)
    z = Rows(z.address + offset, z.row_stride)
    epilogue = Epilogue(Rows(bias + offset, np.intp(0)), z if relu.address != 0 else NO_ROWS, NO_ROWS, dtype.type(1))
    call(gemm, address, dtype, (dtype, Shape(m, end - begin, k), a, w, z, epilogue, NO_WORKSPACE))


@by_address(lambda real: (types.DType(real), *[types.intp] * 7))
@jit(internal=True)
def predict_rows(
    dtype: Any, threads: int, forward: int, values: int, x: int, rows: int, out: int, refused: int
) -> None:
    """Compute outputs (rows, n_out) from inputs (rows, n_in).

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all arrays.
    threads : int
        Threads that divide the columns of large layers; 1 in a task of a parallel loop.
    forward, values, x, out : int
        Addresses of a record FORWARD, of the values to which its layers' offsets refer, of inputs and of outputs.
    rows : int
        0 or less computes nothing.
    refused : int
        Address of an int64 that becomes 1 if the inputs hold NaN or infinity. Blocks from there on are not computed.

    Raises
    ------
    MemoryError
        If scratch cannot be allocated.
    """
    optimize_for_size()
    net = record_at(FORWARD, forward)
    item = item_bytes(dtype)
    block = max(1, min(rows, net.block_rows))
    half = -(-block * net.width * item // LINE) * LINE
    spare = softmax_scratch(block, net.n_out) if net.softmax != 0 else 0
    nbytes = 2 * half + LINE + spare * item
    scratch, allocated = stack_memory(STACK_BYTES), 0
    if nbytes > STACK_BYTES:
        scratch = allocated = allocate(nbytes)
    for start in range(0, rows, block):
        m = min(block, rows - start)
        source, target = x + start * net.n_in * item, out + start * net.n_out * item
        if not all_finite(vector_at(dtype, source, m * net.n_in)):
            vector_at(INT64, refused, 1)[0] = 1
            break
        free = -(-scratch // LINE) * LINE
        other = free + half
        for i in range(net.layer_count):
            layer = record_at(FORWARD_LAYER, net.layers + i * _LAYER_BYTES)
            n, k, last = layer.n_in, layer.n_out, i == net.layer_count - 1
            a = Matrix(source, n * item, np.intp(item), np.intp(0))
            w = Matrix(values + layer.weights, layer.row_stride, layer.column_stride, layer.panel_stride)
            z = Rows(target if last and layer.activate == 0 else free, k * item)
            bias, relu = values + layer.biases, z if layer.relu != 0 else NO_ROWS
            flops = 2 * (m + READ_ROWS) * n * k
            if threads == 1 or flops < COLUMNS_FLOPS:
                epilogue = Epilogue(Rows(bias, np.intp(0)), relu, NO_ROWS, dtype.type(1))
                call(gemm, net.gemm, dtype, (dtype, Shape(m, k, n), a, w, z, epilogue, NO_WORKSPACE), allocated)
            else:
                tasks = threads * TASKS_PER_THREAD if m > FEW_ROWS else threads
                arguments = dtype, net.gemm, Product(Shape(m, k, n), a, w, z, bias, relu), tasks
                if not parallel_for(_columns_task, tasks, threads, flops, net.pool, arguments):
                    release(allocated)
                    raise MemoryError
            if layer.activate != 0:  # into the memory of the layer's inputs, which are no longer needed
                source = target if last else other
                vectors = vector_at(dtype, z.address, m * k), vector_at(dtype, source, m * k)
                call(activations.apply_activation, layer.activate, dtype, vectors)
            else:
                source, free, other = free, other, free
        if net.softmax != 0:
            outputs = matrix_at(dtype, target, m, net.n_out)
            free = -(-scratch // LINE) * LINE + 2 * half
            call(softmax_rows, net.softmax, dtype, (outputs, outputs, vector_at(dtype, free, spare)))
    release(allocated)


@jit(internal=True)
def _task(task: int, thread: int, dtype: Any, addresses: Any, first: int, stop: int, tasks: int, threads: int) -> None:
    """Compute one task's part of the rows from ``first`` to ``stop``, on ``threads`` threads."""
    forward, values, x, out, refused = addresses
    net, item = record_at(FORWARD, forward), item_bytes(dtype)
    begin, end = first + (stop - first) * task // tasks, first + (stop - first) * (task + 1) // tasks
    x, out = x + begin * net.n_in * item, out + begin * net.n_out * item
    call(predict_rows, net.predict_rows, dtype, (dtype, threads, forward, values, x, end - begin, out, refused))


@jit(inline=True)
def _overlap(a: Any, b: Any) -> bool:
    """Whether two contiguous arrays overlap."""
    first, second = address_and_strides(a)[0], address_and_strides(b)[0]
    return first < second + b.size * b.itemsize and second < first + a.size * a.itemsize


@by_address(
    lambda real: (
        types.intp,
        types.Array(real, 1, "C"),
        *[types.Array(real, 2, "C")] * 2,
        types.boolean,
        *[types.intp] * 3,
    )
)
@jit
def run(forward: int, values: Any, X: Any, out: Any, kept: bool, begin: int, end: int, threads: int) -> int:
    """Check all arrays and compute rows from ``begin`` to ``end`` (or the last), as `forward.Forward` does.

    Return 1, 0 if the arrays are rejected, or -1 if memory was lacking: an exception that left this function would leak
    its references to the arrays.
    """
    net = record_at(FORWARD, forward)
    rows = X.shape[0]
    fits = X.shape == (rows, net.n_in) and out.shape == (rows, net.n_out) and values.size == net.value_count
    end = min(end, rows)
    if begin >= end or not fits:
        return 0
    if kept and (_overlap(out, X) or _overlap(out, values) or not all_finite(X.reshape(-1))):
        return 0
    refused = vector_at(INT64, stack_memory(8), 1)
    refused[0] = 0
    tasks, inside = 1, threads
    if threads > 1 and end - begin > _few_rows(net.few_rows, net.panels, threads):
        thin = (end - begin) // MIN_TASK_ROWS
        tasks, inside = max(-(-(end - begin) // net.block_rows), min(thin, threads * TASKS_PER_THREAD)), 1
    x, y = address_and_strides(X)[0], address_and_strides(out)[0]
    addresses = forward, address_and_strides(values)[0], x, y, address_and_strides(refused)[0]
    flops = (end - begin) * net.flops_per_row
    outside = threads if tasks > 1 else 1
    done = parallel_for(_task, tasks, outside, flops, net.pool, (X.dtype, addresses, begin, end, tasks, inside))
    keep_alive(values)
    keep_alive(X)
    keep_alive(out)
    if not done:
        return -1
    return 1 if refused[0] == 0 else 0


@jit(internal=True)
def _pack_task(
    task: int, thread: int, dtype: Any, forward: int, source: int, packed_forward: int, target: int, tasks: int
) -> None:
    """Copy one task's share of the parameters at ``source`` to ``target``, with every W in micro-panels."""
    net, packed = record_at(FORWARD, forward), record_at(FORWARD, packed_forward)
    item = item_bytes(dtype)
    for i in range(net.layer_count):
        layer = record_at(FORWARD_LAYER, net.layers + i * _LAYER_BYTES)
        into = record_at(FORWARD_LAYER, packed.layers + i * _LAYER_BYTES)
        n, k = layer.n_in, layer.n_out
        begin, end = chunk_bounds(k, NV * VECTOR // item, task, tasks)
        copy_bytes(target + into.biases + begin * item, source + layer.biases + begin * item, (end - begin) * item)
        if k > 1:
            pack_weights(dtype, source + layer.weights, target + into.weights, n, begin, end, False)
        elif begin < end:
            copy_bytes(target + into.weights, source + layer.weights, n * item)


@by_address(lambda real: (*[types.intp] * 2, *[types.Array(real, 1, "C")] * 2, types.intp))
@jit
def pack(forward: int, packed_forward: int, parameters: Any, packed: Any, threads: int) -> bool:
    """Copy parameters (P,) into the values of the packed forward pass; return False if sizes do not fit."""
    net, other = record_at(FORWARD, forward), record_at(FORWARD, packed_forward)
    if parameters.size != net.value_count or packed.size != other.value_count:
        return False
    source, target = address_and_strides(parameters)[0], address_and_strides(packed)[0]
    addresses = parameters.dtype, forward, source, packed_forward, target, threads
    parallel_for(_pack_task, threads, threads, PACK_FLOPS * parameters.size, net.pool, addresses)
    keep_alive(parameters)
    keep_alive(packed)
    return True
