"""The forward pass of networks of given sizes and activations, built once and cached; `inference` executes it.

It reads parameters in place, or from a copy in micro-panels that `Forward.pack` makes: once for a `Predictor`, in each
call for many rows. `Network.predict` keeps nothing derived from weights, so it is never stale.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..cpu import activations
from ..cpu.gemm.blocking import L2, WIDE
from ..cpu.gemm.gemm import gemm
from ..cpu.gemm.microkernel import MR, NV
from ..cpu.softmax import softmax_rows
from ..cpu.threads.pool import POOL, num_threads
from ..jit.call_by_address import CFunction, kernel_address, kernel_entry
from ..jit.side_by_side import Kernel, compile_side_by_side
from ..jit.target import COMPILES
from ..llvm.builder import LINE, VECTOR
from ..reference import activations as reference_activations
from ..reference import losses as reference_losses
from ..reference import training_step
from ..specs.activations import ACTIVATIONS, IDENTITY, RELU
from . import inference as _inference
from .backend import Array
from .inference import (
    FEW_ROWS,
    FEW_ROWS_IN_PLACE,
    FORWARD,
    FORWARD_LAYER,
    READ_ROWS,
    few_rows,
    pack,
    predict_rows,
    run,
)
from .plan import address_of, aligned, layer_views, padded, parameter_count

BLOCK_ROWS = 40 * MR
"""Rows that go through all layers together: few enough for the activations between layers to stay in L2."""

BLOCK_ROWS_LARGE_W = 160 * MR
"""The same if a W is larger than L2, since every block reads all of it again."""

SCRATCH_BYTES = 1 << 24
"""Most scratch of a thread. Very wide layers therefore get smaller blocks: two rows for a million outputs."""

THREAD_FLOPS = 3_000_000
"""Calls with fewer floating-point operations stay on one thread."""

CALL_FLOPS = 10**10
"""Floating-point operations after which a call returns to Python, so that Ctrl-C works: some 0.1 to 0.5 s."""

PACK_ONCE_BYTES = L2 // 2
"""Parameters of fewer bytes are packed again for every block: that takes less time than waiting for other threads."""

PACK_ONCE_BLOCKS = 4
"""If each thread computes this many blocks, even those are packed once."""

NO_VALUES = {item: np.empty(0, f"f{item}") for item in (4, 8)}
"""The values for a `Forward.reading`: its layers' offsets are relative to these arrays, by item size."""

PREDICTION_KERNELS = (
    Kernel(_inference.__name__, "predict_rows"),
    Kernel(_inference.__name__, "run"),
    Kernel(gemm.__module__, "gemm"),
    Kernel(_inference.__name__, "softmax_rows"),
)
"""The kernels that prediction needs besides the activations; the last one only for probabilities."""


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
        Whether values are those that `pack` returns, or parameters (P,).
    softmax : bool, default False
        Whether outputs go through softmax.
    """

    def __init__(
        self, layer_sizes: tuple[int, ...], names: tuple[str, ...], dtype: Any, packed: bool, softmax: bool = False
    ) -> None:
        self.layer_sizes, self.dtype, self.n_out = layer_sizes, dtype, layer_sizes[-1]
        flops = 2 * parameter_count(layer_sizes)
        self._rows_per_call = -(-CALL_FLOPS // flops)
        self._serial_rows = min(self._rows_per_call, THREAD_FLOPS // flops - READ_ROWS)
        self._names, self._reads_parameters = names, not packed
        layers, size = _layer_table(layer_sizes, dtype.itemsize, packed)
        for layer, name in zip(layers, names, strict=True):
            code = ACTIVATIONS[name].code
            layer["relu"] = code == RELU
            if code not in (IDENTITY, RELU):
                layer["activate"] = activations.activation_address(code, dtype)
        compile_side_by_side(PREDICTION_KERNELS[: 4 if softmax else 3], dtype)
        kernels = [kernel_address(gemm, dtype), kernel_address(predict_rows, dtype)]
        kernels.append(kernel_address(softmax_rows, dtype) if softmax else 0)
        self._run = kernel_entry(run, dtype)
        self._block_rows = block_rows(layer_sizes, dtype)
        _, k = max(pairwise(layer_sizes), key=lambda sides: sides[0] * sides[1])
        self._panels = -(-k // (NV * VECTOR // dtype.itemsize))
        # With AVX-512, measurements favour FEW_ROWS_IN_PLACE for small networks, too.
        packs = not packed and (WIDE or size * dtype.itemsize >= PACK_ONCE_BYTES)
        self._few_rows = FEW_ROWS_IN_PLACE if packs else FEW_ROWS
        widths = max(layer_sizes[1:]), self._panels
        sizes = (layer_sizes[0], self.n_out, size, *widths, self._few_rows, flops, self._block_rows, len(layers))
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
            Whether ``out`` must stay unchanged if this returns False.

        Returns
        -------
        bool
            False if sizes do not fit, if X is empty or holds NaN or infinity, or if a kept ``out`` overlaps X or
            values. The caller guarantees that X and out are matrices, and all arrays C-contiguous and of the dtype.
        """
        if values.ndim != 1:  # users can change the shape of a network's parameters in place
            values = values.reshape(-1)
        if len(X) <= self._serial_rows:
            return _done(self._run(self.address, values, X, out, kept, 0, len(X), 1))
        begin, threads = 0, num_threads()
        many = len(X) > (few_rows(self._few_rows, self._panels, threads) if threads > 1 else self._block_rows)
        once = values.nbytes >= PACK_ONCE_BYTES or len(X) >= PACK_ONCE_BLOCKS * threads * self._block_rows
        if many and self._reads_parameters and once:
            packed = None if kept and np.may_share_memory(out, values) else self.pack(values, threads)
            return packed is not None and self.packed()(packed, X, out, kept)
        while _done(self._run(self.address, values, X, out, kept, begin, begin + self._rows_per_call, threads)):
            begin += self._rows_per_call
            if begin >= len(X):
                return True
            kept = False  # the first call has checked all inputs
        return False

    def _parts(self, values: Array) -> Iterator[tuple[Array, Array]]:
        """Yield views of each layer's W, padded to whole micro-panels, and b (k,) in packed values."""
        nr = NV * VECTOR // self.dtype.itemsize
        for n, k, weights, biases, row, _, panel, *_ in self.layers.tolist():
            start, end = weights // self.dtype.itemsize, biases // self.dtype.itemsize
            W = values[start:end][: k * n].reshape(k, n)
            if k > 1:
                W = values[start:end].reshape(-1, panel // row, nr)[:, :n].transpose(0, 2, 1)
            yield W, values[end : end + k]

    def packed(self) -> "Forward":
        """Return the forward pass that reads what `pack` returns."""
        return forward_of(self.layer_sizes, self._names, self.dtype, True, bool(self.record["softmax"]))

    def pack(self, parameters: Array, threads: int = 1) -> Array | None:
        """Return a copy of parameters (P,) in micro-panels, or None if their number or dtype is wrong."""
        if parameters.dtype != self.dtype:
            return None
        # The entry checks neither dimensions nor strides: a matrix would crash the process.
        parameters = np.ascontiguousarray(parameters).reshape(-1)
        packed = self.packed()
        values = aligned(int(packed.record["value_count"]), self.dtype)
        done = kernel_entry(pack, self.dtype)(self.address, packed.address, parameters, values, threads)
        return values if done else None

    def unpack(self, values: Array) -> Array:
        """Return the parameters (P,) of packed values."""
        parts = zip(self._parts(values), pairwise(self.layer_sizes), strict=True)
        return np.concatenate([x for (W, b), (n, k) in parts for x in (W.reshape(-1, n)[:k].ravel(), b)])

    def reading(self, weights: Sequence[Array], biases: Sequence[Array]) -> "Forward":
        """Return a copy of this forward pass that reads W^T (n, k), of any strides, and contiguous b (k,) from arrays.

        Pass `NO_VALUES` as its values. The caller keeps the arrays alive.
        """
        found, base = copy.copy(self), address_of(NO_VALUES[self.dtype.itemsize])
        found.layers, found.record = self.layers.copy(), self.record.copy()
        strides = np.array([W.strides for W in weights])
        found.layers["weights"] = [address_of(W) - base for W in weights]
        found.layers["biases"] = [address_of(b) - base for b in biases]
        found.layers["row_stride"], found.layers["column_stride"] = strides.T
        found.layers["panel_stride"] = NV * VECTOR // self.dtype.itemsize * strides[:, 1]
        found.record["value_count"], found.record["layers"] = 0, address_of(found.layers)
        found._reads_parameters = False
        found.address = address_of(found.record)
        return found

    def c_function(self, values: Array) -> CFunction:
        """Return the forward pass as a C function ``int64 f(x, rows, out)``, which returns rows, or 0 if it fails."""
        return CFunction(predict_rows, self.dtype, (1, self.address, address_of(values)), (self, values))


class NumpyForward(Forward):
    """The same from the equations of `reference`, without compilation (NUMBA_DISABLE_JIT=1)."""

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

    def packed(self) -> Forward:
        """Return itself."""
        return self

    def pack(self, parameters: Array, threads: int = 1) -> Array | None:
        """Return a copy of parameters (P,), or None if their number is wrong."""
        return parameters.copy() if parameters.shape == (parameter_count(self.layer_sizes),) else None

    def unpack(self, values: Array) -> Array:
        """Return the parameters (P,)."""
        return values

    def c_function(self, values: Array) -> CFunction:
        """Raise RuntimeError: there is no compiled code."""
        raise RuntimeError("a predictor has no address where compilation is switched off (NUMBA_DISABLE_JIT=1)")


def _done(status: int) -> bool:
    """Return whether `run` has computed outputs; raise MemoryError if it could not allocate scratch."""
    if status < 0:
        raise MemoryError("no memory for what lies between the layers; predict fewer rows at a time")
    return status > 0


def block_rows(layer_sizes: Sequence[int], dtype: Any) -> int:
    """Return how many rows go through all layers together."""
    large = max(n * k for n, k in pairwise(layer_sizes)) * dtype.itemsize > L2
    affordable = SCRATCH_BYTES // (2 * max(layer_sizes[1:]) * dtype.itemsize)
    return max(1, min(BLOCK_ROWS_LARGE_W if large else BLOCK_ROWS, affordable))


def scratch_bytes(layer_sizes: Sequence[int], dtype: Any, rows: int) -> int:
    """Return the bytes of scratch that a thread needs for some rows, without the buffers in which `gemm` packs."""
    return 2 * min(rows, block_rows(layer_sizes, dtype)) * max(layer_sizes[1:]) * int(dtype.itemsize)


def _layer_table(layer_sizes: tuple[int, ...], item: int, packed: bool) -> tuple[Array, int]:
    """Return the table of layers, and the number of elements of its values."""
    lanes = VECTOR // item
    nr, start, rows = NV * lanes, 0, []
    for n, k in pairwise(layer_sizes):
        size, strides = n * k, (item, n * item, nr * n * item)
        if packed and k > 1:  # a single row of W is a column of W^T already
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
    """Return the outputs of layers given by their W^T (n, k) and b (k,), or None if the kernels do not apply.

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
    if X.ndim != 2:
        return None
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
    """Return the `Forward` of these sizes and activations; networks with the same ones share it."""
    return (Forward if COMPILES else NumpyForward)(layer_sizes, names, dtype, packed, softmax)
