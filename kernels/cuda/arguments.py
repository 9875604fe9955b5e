"""Arguments of the GEMM kernels: a `GemmArgs`, and the epoch's position."""

from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import PROGRESS
from ..specs.activations import IDENTITY
from .device import SIMULATED

VECTOR_BYTES = 16
"""Bytes that the fast kernel moves at a time if it can."""

SIMULATED_LANES = 2
"""Elements that it moves at a time in the simulator."""


class GemmArgs(NamedTuple):
    """One product: sizes, offsets and strides, in elements. A negative offset means that the operand is absent."""

    m: int  # rows of C; -1: the rows of the current batch
    n: int
    k: int  # terms of the sum; -1: the rows of the current batch
    a: int  # offset of A, its strides by M and by K, and how the fast kernel reads it
    a_long: int
    a_k: int
    a_mode: int
    b: int  # offset of B, its strides by N and by K, and how the fast kernel reads it
    b_long: int
    b_k: int
    b_mode: int
    c: int  # offset of C
    c_row: int  # elements from a row of C to the next
    split: int = 1 << 40  # terms that one block adds up
    split_step: int = 0  # elements from one part's C to the next part's
    bias: int = -1  # offset of b, in B's array
    code: int = IDENTITY  # of the activation
    z: int = -1  # offset of Z, in C's array
    gate_code: int = IDENTITY  # of the activation whose derivative C is multiplied by
    gate_a: int = -1  # offsets of its A and Z, in A's array
    gate_z: int = -1


GEMM_ARGS = np.dtype([(name, "i8") for name in GemmArgs._fields], align=True)
"""`GemmArgs` as a record, for tables on the device."""

DEVICE_PROGRESS = np.dtype([*PROGRESS.descr, ("batch_rows", "i8")], align=True)
"""The epoch's position on the device: PROGRESS, and the rows of the current batch."""

Triple = tuple[int, int, int]

ALONG_LONG, VECTORS = 1, 2
"""Flags: the fast kernels read a factor along M or N, not K; and 16 bytes at a time, none of them beyond an edge."""


def gemm_args(sizes: Triple, a: Triple, b: Triple, c: tuple[int, int], dtype: Any, **rest: int) -> GemmArgs:
    """Return the arguments of a product C = A B, including how the fast kernel may read A and B.

    Parameters
    ----------
    sizes : tuple of int
        (M, N, K); an M or K of -1 means the rows of the batch that is current when the kernel runs.
    a : tuple of int
        A (M, K): offset of its first element, stride by M, stride by K, in elements.
    b : tuple of int
        B (K, N): offset, stride by N, stride by K.
    c : tuple of int
        C (M, N): offset, elements from a row to the next; rows are contiguous.
    dtype : dtype
        float32 or float64, of all arrays: 16 bytes are 4 or 2 elements.
    **rest : int
        Other fields of `GemmArgs` by name.

    Returns
    -------
    GemmArgs
        ``a_mode`` and ``b_mode`` have VECTORS if one stride is 1 and, in every part of the sum, the factor consists of
        whole and aligned vectors of 16 bytes, at least one.
    """
    lanes = SIMULATED_LANES if SIMULATED else VECTOR_BYTES // np.dtype(dtype).itemsize
    m, n, k = sizes
    part = rest.get("split", k)
    whole_k = k != 0 and k % lanes == 0 and (part >= k or part % lanes == 0)
    a_mode, b_mode = (_mode(factor, k != 0 and size % lanes == 0, whole_k, lanes) for factor, size in ((a, m), (b, n)))
    return GemmArgs(*sizes, *a, a_mode, *b, b_mode, *c, **rest)


def _mode(factor: Triple, whole_long: bool, whole_k: bool, lanes: int) -> int:
    """Return the flags ALONG_LONG and VECTORS of a factor, given its offset, its stride by M or N, and that by K.

    ``whole_long``, ``whole_k``: whether its sizes are whole vectors of ``lanes`` elements; an unknown size, -1, is not.
    """
    at, by_long, by_k = factor
    along_long = by_long == 1 and by_k != 1
    step, stride, whole = (by_long, by_k, whole_long) if along_long else (by_k, by_long, whole_k)
    fits = step == 1 and whole and at % lanes == 0 and stride % lanes == 0
    return ALONG_LONG * along_long + VECTORS * fits
