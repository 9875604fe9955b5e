"""Prediction: one compiled call through all layers, with neither gradient nor set-up.

`predict_rows` computes a block of rows after the other, all layers of a block before the next block, so that what lies
between two layers stays in cache. Its scratch lies on its own stack for a row or a few, and is allocated for the call
otherwise; so nothing outlives a call, and any number of threads may predict with one network.

What depends on sizes and activations alone, `Forward`, is built once and kept. Parameters are read where they are, or
from a copy in micro-panels that `Forward.pack` makes. Every product is `gemm`'s, whose elements do not depend on the
rows computed with them: so a row's bits depend neither on its batch, nor on threads, nor on whether weights are packed,
and equal those that training computes.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numba import types

from ..cpu import activations
from ..cpu.elementwise import all_finite
from ..cpu.gemm.blocking import L2
from ..cpu.gemm.gemm import NO_WORKSPACE, gemm
from ..cpu.gemm.microkernel import MR, NV
from ..cpu.gemm.operands import NO_ROWS, Epilogue, Matrix, Rows, Shape
from ..cpu.softmax import softmax as _softmax
from ..cpu.threads.parallel_for import parallel_for
from ..cpu.threads.pool import POOL, num_threads
from ..jit.call_by_address import CFunction, by_address, call, kernel_address
from ..jit.decorator import jit
from ..jit.target import COMPILES
from ..llvm.builder import VECTOR
from ..llvm.memory import (
    address_and_strides,
    allocate,
    item_bytes,
    keep_alive,
    optimize_for_size,
    record_at,
    release,
    stack_memory,
)
from ..reference import activations as reference_activations
from ..reference import losses as reference_losses
from ..reference import training_step
from ..specs.activations import ACTIVATIONS, IDENTITY, RELU
from .backend import Array, record
from .context import INT64, matrix_at, vector_at
from .plan import LINE, address_of, aligned, layer_views, padded, parameter_count

BLOCK_ROWS = 40 * MR
"""Rows that go through all layers together: few enough for what lies between layers to stay in L2."""

BLOCK_ROWS_LARGE_W = 160 * MR
"""The same where a W is larger than L2: copying it into micro-panels for every block costs as much as 5 to 10 rows."""

SCRATCH_BYTES = 1 << 24
"""Scratch of a thread at most, where a layer is so wide that fewer rows have to do: a million outputs take two."""

THREAD_FLOPS = 3_000_000
"""Calls of fewer floating-point operations stay on one thread."""

CALL_FLOPS = 10**10
"""Work after which a call returns to Python for a moment, so that Ctrl-C arrives: some 0.1 to 0.5 s."""

TASKS_PER_THREAD = 2
"""More than one, so that a thread that lost its core for a while holds up none of the others."""

STACK_BYTES = 1 << 14
"""Scratch up to this size lies on the stack: a row of layers of up to 2000 float32."""

FORWARD_LAYER = record("n_in n_out weights biases row_stride column_stride panel_stride relu activate")
"""One layer of a `Forward`; offsets and strides are in bytes.

- weights, biases: offsets of W and b in the values
- row_stride, column_stride, panel_stride: of W^T, as `gemm` takes them
- relu: 1 where the product applies ReLU
- activate: address of another activation's kernel, or 0
"""

FORWARD = record(
    "n_in n_out value_count width flops_per_row block_rows layer_count layers pool gemm predict_rows softmax"
)
"""What the compiled functions know of a network.

- value_count: elements that the layers read
- width: outputs of the widest layer
- block_rows: rows that go through all layers together
- layers: address of FORWARD_LAYER (layer_count,); pool: `threads.pool.POOL`
- gemm, predict_rows, softmax: addresses of kernels; softmax is 0 where outputs are returned as they are
"""

_LAYER_BYTES = FORWARD_LAYER.itemsize

NO_VALUES = {item: np.empty(0, f"f{item}") for item in (4, 8)}
"""What layers that say themselves where their arrays are count from."""

by_address(lambda real: (types.Array(real, 2, "C"),) * 2)(_softmax)


@by_address(lambda real: (types.DType(real), *[types.intp] * 6))
@jit(internal=True)
def predict_rows(dtype: Any, forward: int, values: int, x: int, rows: int, out: int, refused: int) -> None:
    """Compute outputs (rows, n_out) from inputs (rows, n_in).

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of everything.
    forward, values, x, out : int
        Addresses: of a record FORWARD, of what its layers' offsets count from, of inputs and outputs.
    rows : int
        With 0 or fewer nothing happens.
    refused : int
        Address of an int64 that becomes 1 where the inputs hold NaN or infinity. Blocks from there on are not computed.

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
    nbytes = 2 * half + LINE
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
            bias = Rows(values + layer.biases, np.intp(0))
            epilogue = Epilogue(bias, z if layer.relu != 0 else NO_ROWS, NO_ROWS, dtype.type(1))
            call(gemm, net.gemm, dtype, (dtype, Shape(m, k, n), a, w, z, epilogue, NO_WORKSPACE), allocated)
            if layer.activate != 0:  # into the memory of the layer's inputs, which nothing needs any more
                source = target if last else other
                vectors = vector_at(dtype, z.address, m * k), vector_at(dtype, source, m * k)
                call(activations.apply_activation, layer.activate, dtype, vectors)
            else:
                source, free, other = free, other, free
        if net.softmax != 0:
            outputs = matrix_at(dtype, target, m, net.n_out)
            call(_softmax, net.softmax, dtype, (outputs, outputs))
    release(allocated)


@jit(internal=True)
def _task(task: int, dtype: Any, addresses: Any, first: int, stop: int, tasks: int) -> None:
    """Compute one task's part of the rows from ``first`` to ``stop``."""
    forward, values, x, out, refused = addresses
    net, item = record_at(FORWARD, forward), item_bytes(dtype)
    begin, end = first + (stop - first) * task // tasks, first + (stop - first) * (task + 1) // tasks
    x, out = x + begin * net.n_in * item, out + begin * net.n_out * item
    call(predict_rows, net.predict_rows, dtype, (dtype, forward, values, x, end - begin, out, refused))


@jit(inline=True)
def _overlap(a: Any, b: Any) -> bool:
    """Whether two contiguous arrays overlap."""
    first, second = address_and_strides(a)[0], address_and_strides(b)[0]
    return first < second + b.size * b.itemsize and second < first + a.size * a.itemsize


@jit
def _run(forward: int, values: Any, X: Any, out: Any, kept: bool, begin: int, end: int, threads: int) -> bool:
    """Compute rows from ``begin`` to ``end``, at most the last, as `Forward.__call__` does; look at all arrays."""
    net = record_at(FORWARD, forward)
    rows = X.shape[0]
    fits = X.shape == (rows, net.n_in) and out.shape == (rows, net.n_out) and values.size == net.value_count
    end = min(end, rows)
    if begin >= end or not fits:
        return False
    if kept and (_overlap(out, X) or _overlap(out, values) or not all_finite(X.reshape(-1))):
        return False
    refused = vector_at(INT64, stack_memory(8), 1)
    refused[0] = 0
    tasks = 1
    if threads > 1:
        tasks = max(-(-(end - begin) // net.block_rows), min(end - begin, threads * TASKS_PER_THREAD))
    x, y = address_and_strides(X)[0], address_and_strides(out)[0]
    addresses = forward, address_and_strides(values)[0], x, y, address_and_strides(refused)[0]
    flops = (end - begin) * net.flops_per_row
    parallel_for(_task, tasks, threads, flops, net.pool, (X.dtype, addresses, begin, end, tasks))
    keep_alive(values)
    keep_alive(X)
    keep_alive(out)
    return refused[0] == 0


class Forward:
    """The forward pass of networks of given sizes and activations.

    Parameters
    ----------
    layer_sizes : tuple of int
        Inputs, hidden sizes, outputs.
    names : tuple of str
        Every layer's activation.
    dtype : dtype
        float32 or float64.
    packed : bool
        Whether values are what `pack` returns, otherwise parameters (P,).
    softmax : bool, default False
        Whether outputs go through softmax.
    """

    def __init__(
        self, layer_sizes: tuple[int, ...], names: tuple[str, ...], dtype: Any, packed: bool, softmax: bool = False
    ) -> None:
        self.layer_sizes, self.dtype, self.n_out = layer_sizes, dtype, layer_sizes[-1]
        flops = 2 * parameter_count(layer_sizes)
        self._rows_per_call = -(-CALL_FLOPS // flops)
        self._serial_rows = min(self._rows_per_call, THREAD_FLOPS // flops)
        layers, size = _layer_table(layer_sizes, dtype.itemsize, packed)
        for layer, name in zip(layers, names, strict=True):
            code = ACTIVATIONS[name].code
            layer["relu"] = code == RELU
            if code not in (IDENTITY, RELU):
                layer["activate"] = activations.activation_address(code, dtype)
        kernels = [kernel_address(gemm, dtype), kernel_address(predict_rows, dtype)]
        kernels.append(kernel_address(_softmax, dtype) if softmax else 0)
        rows = block_rows(layer_sizes, dtype)
        sizes = (layer_sizes[0], self.n_out, size, max(layer_sizes[1:]), flops, rows, len(layers))
        self.layers = layers
        self.record = np.array((*sizes, address_of(layers), POOL, *kernels), FORWARD)
        self.address = address_of(self.record)

    def __call__(self, values: Array, X: Array, out: Array, kept: bool) -> bool:
        """Compute outputs.

        Parameters
        ----------
        values : ndarray
            Parameters, or what `pack` has made of them.
        X : ndarray, shape (B, n_in)
        out : ndarray, shape (B, n_out)
        kept : bool
            Whether ``out`` must stay as it is where this returns False.

        Returns
        -------
        bool
            False where sizes do not fit, X is empty, holds NaN or infinity, or a kept ``out`` overlaps X or values.
            All arrays are C-contiguous and of the dtype: that is not checked.
        """
        if len(X) <= self._serial_rows:
            found: bool = _run(self.address, values, X, out, kept, 0, len(X), 1)
            return found
        begin, threads = 0, num_threads()
        while _run(self.address, values, X, out, kept, begin, begin + self._rows_per_call, threads):
            begin += self._rows_per_call
            if begin >= len(X):
                return True
            kept = False  # all has been looked at
        return False

    def _parts(self, values: Array) -> Iterator[tuple[Array, Array]]:
        """Yield views of each layer's W (k, n) and b (k,) in packed values; those of W as micro-panels."""
        nr = NV * VECTOR // self.dtype.itemsize
        for n, k, weights, biases, row, _, panel, *_ in self.layers.tolist():
            start, end = weights // self.dtype.itemsize, biases // self.dtype.itemsize
            W = values[start:end][: k * n].reshape(k, n)
            if k > 1:
                W = values[start:end].reshape(-1, panel // row, nr)[:, :n].transpose(0, 2, 1)
            yield W, values[end : end + k]

    def pack(self, parameters: Array) -> Array:
        """Return a copy of parameters (P,) as packed values."""
        values = aligned(int(self.record["value_count"]), self.dtype)
        values[:] = 0
        for (W, b), (panels, biases) in zip(
            layer_views(parameters, self.layer_sizes), self._parts(values), strict=True
        ):
            biases[:] = b
            full = np.zeros((panels.size // W.shape[1], W.shape[1]), self.dtype)
            full[: len(W)] = W
            panels[...] = full.reshape(panels.shape)
        return values

    def unpack(self, values: Array) -> Array:
        """Return the parameters (P,) of packed values."""
        parts = zip(self._parts(values), pairwise(self.layer_sizes), strict=True)
        return np.concatenate([x for (W, b), (n, k) in parts for x in (W.reshape(-1, n)[:k].ravel(), b)])

    def reading(self, weights: Sequence[Array], biases: Sequence[Array]) -> "Forward":
        """Return a copy that reads each layer's W^T (n, k), of any strides, and contiguous b (k,) from arrays.

        Its values are `NO_VALUES`. The caller keeps the arrays alive.
        """
        found, base = copy.copy(self), address_of(NO_VALUES[self.dtype.itemsize])
        found.layers, found.record = self.layers.copy(), self.record.copy()
        strides = np.array([W.strides for W in weights])
        found.layers["weights"] = [address_of(W) - base for W in weights]
        found.layers["biases"] = [address_of(b) - base for b in biases]
        found.layers["row_stride"], found.layers["column_stride"] = strides.T
        found.layers["panel_stride"] = NV * VECTOR // self.dtype.itemsize * strides[:, 1]
        found.record["value_count"], found.record["layers"] = 0, address_of(found.layers)
        found.address = address_of(found.record)
        return found

    def c_function(self, values: Array) -> CFunction:
        """Return the forward pass for C: ``int64 f(x, rows, out)``, which returns rows, or 0 where it fails."""
        return CFunction(predict_rows, self.dtype, (self.address, address_of(values)), (self, values))


class NumpyForward(Forward):
    """The same by the equations of `reference`, without compilation (NUMBA_DISABLE_JIT=1)."""

    def __init__(
        self, layer_sizes: tuple[int, ...], names: tuple[str, ...], dtype: Any, packed: bool, softmax: bool = False
    ) -> None:
        self.layer_sizes, self.dtype, self.n_out, self._softmax = layer_sizes, dtype, layer_sizes[-1], softmax
        self._activations = [reference_activations.ACTIVATIONS[ACTIVATIONS[name].code] for name in names]

    def __call__(self, values: Array, X: Array, out: Array, kept: bool) -> bool:
        """Compute outputs, as `Forward` does."""
        shapes = (len(X), self.layer_sizes[0]), (len(X), self.n_out), (parameter_count(self.layer_sizes),)
        if len(X) == 0 or (X.shape, out.shape, values.shape) != shapes or not np.isfinite(X).all():
            return False
        if kept and (np.may_share_memory(out, X) or np.may_share_memory(out, values)):
            return False
        with np.errstate(all="ignore"):
            network = layer_views(values, self.layer_sizes)
            out[...] = training_step.forward(network, self._activations, X)[2]
            if self._softmax:
                out[...] = reference_losses.softmax(out)
        return True

    def pack(self, parameters: Array) -> Array:
        """Return a copy of parameters (P,)."""
        return parameters.copy()

    def unpack(self, values: Array) -> Array:
        """Return the parameters (P,)."""
        return values

    def c_function(self, values: Array) -> CFunction:
        """Refused: there is no compiled code."""
        raise RuntimeError("a predictor has no address where compilation is switched off (NUMBA_DISABLE_JIT=1)")


def block_rows(layer_sizes: Sequence[int], dtype: Any) -> int:
    """Return how many rows go through all layers together."""
    large = max(n * k for n, k in pairwise(layer_sizes)) * dtype.itemsize > L2
    affordable = SCRATCH_BYTES // (2 * max(layer_sizes[1:]) * dtype.itemsize)
    return max(1, min(BLOCK_ROWS_LARGE_W if large else BLOCK_ROWS, affordable))


def scratch_bytes(layer_sizes: Sequence[int], dtype: Any, rows: int) -> int:
    """Return the bytes of scratch that a thread takes for some rows, those that `gemm` packs not counted."""
    return 2 * min(rows, block_rows(layer_sizes, dtype)) * max(layer_sizes[1:]) * int(dtype.itemsize)


def _layer_table(layer_sizes: tuple[int, ...], item: int, packed: bool) -> tuple[Array, int]:
    """Return the table of layers, and how many elements its values have."""
    lanes = VECTOR // item
    nr, start, rows = NV * lanes, 0, []
    for n, k in pairwise(layer_sizes):
        size, strides = n * k, (item, n * item, nr * n * item)
        if packed and k > 1:  # a single row of W is a column of W^T as it is
            size = padded(n, lanes) * padded(k, nr)
            strides = (nr * item, item, padded(n, lanes) * nr * item)
        rows.append((n, k, start * item, (start + size) * item, *strides, 0, 0))
        start += size + k
        if packed:
            start = padded(start, LINE // item)
    return np.array(rows, FORWARD_LAYER), start


def forward_through(
    weights: Sequence[Array], biases: Sequence[Array], names: Sequence[str], X: Array, softmax: bool
) -> Array | None:
    """Return the outputs of layers given by their W^T (n, k) and b (k,), or None where the kernels do not apply.

    Parameters
    ----------
    weights, biases : sequence of ndarray
    names : sequence of str
        Every layer's activation.
    X : ndarray, shape (B, n_in)
        C-contiguous.
    softmax : bool
        Whether outputs go through softmax.
    """
    sizes, dtype = (X.shape[1], *(b.size for b in biases)), X.dtype
    shapes = [*pairwise(sizes), *((k,) for k in sizes[1:])]
    arrays = [*weights, *biases]
    fits = [(x.shape, x.dtype) for x in arrays] == [(shape, dtype) for shape in shapes]
    if not COMPILES or not fits or not all(b.flags.c_contiguous for b in biases):
        return None
    out = np.empty((len(X), sizes[-1]), dtype)
    forward = forward_of(sizes, tuple(names), dtype, False, softmax).reading(weights, biases)
    return out if forward(NO_VALUES[dtype.itemsize], X, out, False) else None


@functools.lru_cache(256)
def forward_of(
    layer_sizes: tuple[int, ...], names: tuple[str, ...], dtype: Any, packed: bool = False, softmax: bool = False
) -> Forward:
    """Return the `Forward` of these sizes and activations; networks that are alike share it."""
    return (Forward if COMPILES else NumpyForward)(layer_sizes, names, dtype, packed, softmax)
