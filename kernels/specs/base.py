"""What a contract is made of, and the inputs and bounds that contracts share.

Imports `cases`. A contract knows nothing of the variants; `variants` holds them against it.

The bounds. A sum of k products in floating point is off by a random walk of roundings, so an element may
miss the truth by ``C eps sqrt(k) (|A| |B|)``: tight enough that zeros, a dropped last k, a missing bias or
half-precision weights fail, loose enough that right kernels use under a third of it (both are tested). A
bound linear in k would let half precision through.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import Case

Array = NDArray[Any]

C = 8.0
"""Constant of the error bounds."""


@dataclass(frozen=True)
class SampleInput:
    """Arguments of one call.

    Attributes
    ----------
    arguments : tuple
        What a variant is called with. An output that is not also an input is full of NaN.
    results : tuple of int
        Which of the arguments the variant must have filled.
    """

    arguments: tuple[Any, ...]
    results: tuple[int, ...]


@dataclass(frozen=True)
class OpSpec:
    """What every variant of an operation must keep.

    Attributes
    ----------
    operation : str
        The public function's name.
    dims : str
        Names of a case's sizes.
    oracle : callable
        The reference, under the variants' calling convention.
    problem : callable
        ``(case, dtype, rng) -> Problem``.
    bound : callable
        ``(arguments, results, eps) -> tuple of arrays``: largest error allowed, element by element, given
        the arguments and the true results in the wide dtype.
    flops : callable
        ``(*dims) -> int``, floating-point operations that the equation needs.
    moved : callable
        ``(*dims) -> int``, array elements that must be read or written at least once.
    cases : tuple of Case
        Held against the oracle in the tests.
    benches : tuple of Case
        Timed.
    """

    operation: str
    dims: str
    oracle: Callable[..., None]
    problem: Callable[[Case, Any, np.random.Generator], SampleInput]
    bound: Callable[[tuple[Any, ...], tuple[Array, ...], float], tuple[Array, ...]]
    flops: Callable[..., int]
    elements_moved: Callable[..., int]
    cases: tuple[Case, ...]
    bench_cases: tuple[Case, ...]


def as_out_kernel(function: Callable[..., Any], outputs: int = 1) -> Callable[..., None]:
    """Adapt a function that returns its results to the variants' convention: trailing arguments are filled."""

    def kernel(*arguments: Any) -> None:
        results = function(*arguments[:-outputs])
        for out, result in zip(arguments[-outputs:], results if outputs > 1 else (results,), strict=True):
            out[...] = result

    kernel.__name__ = kernel.__qualname__ = function.__name__
    kernel.__doc__ = function.__doc__
    return kernel


def nan(shape: tuple[int, ...], dtype: Any) -> Array:
    """An output as it arrives: full of NaN."""
    return np.full(shape, np.nan, dtype)


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draw from the standard normal distribution."""
    return rng.standard_normal(shape).astype(dtype)


def rounding(*magnitudes: Array | float, eps: float) -> Array:
    """Bound of a few roundings of numbers this large; a denormal may be off by its whole spacing."""
    total: Any = sum(np.abs(magnitude) for magnitude in magnitudes)
    return C * (eps * total + np.finfo(np.float32 if eps > 1e-10 else np.float64).smallest_subnormal)
