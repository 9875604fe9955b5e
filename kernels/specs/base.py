"""The classes that make up the spec of an operation, and the inputs and error bounds that specs share.

A spec knows nothing of the implementations: `registry` lists them, `verify` checks them against the oracle in
`reference`.

Error bounds. The rounding errors of a sum of k products add up like a random walk, so an element may differ from the
true value by ``C eps sqrt(k) (|A| |B|)``. This is tight enough that zeros, a dropped last k, a missing bias or
half-precision weights fail, and loose enough that correct kernels use under a third of it (both are tested). A bound
linear in k would let half precision through.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

C = 8.0
"""Constant of the error bounds."""


@dataclass(frozen=True)
class Choice:
    """Base of the specs of things that users select by name and compiled code by an integer code.

    Attributes
    ----------
    name : str
    code : int
        Position in the table.
    """

    name: str
    code: int = field(default=-1, kw_only=True)


AnyChoice = TypeVar("AnyChoice", bound=Choice)


def by_name(*specs: AnyChoice) -> dict[str, AnyChoice]:
    """Assign codes to specs in the given order, and return the table of specs by name."""
    return {spec.name: replace(spec, code=code) for code, spec in enumerate(specs)}


def equation_of(function: Callable[..., Any]) -> str:
    """Return the equation that a spec's function computes: the first line of its docstring."""
    return (function.__doc__ or "").partition("\n")[0].removesuffix(".")


@dataclass(frozen=True)
class Case:
    """Sizes of one call, and the reason to test them.

    Attributes
    ----------
    dims : tuple of int
        The operation's sizes, in the order of `OpSpec.dims`.
    why : str
        The errors that this case would catch.
    option : str
        Anything else that the operation needs, such as a memory layout or an activation.
    """

    dims: tuple[int, ...]
    why: str
    option: str = ""

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.dims))
        return f"{sizes}-{self.option}" if self.option else sizes


@dataclass(frozen=True)
class SampleInput:
    """Arguments of one call.

    Attributes
    ----------
    arguments : tuple
        Passed to a variant. An output that is not also an input is filled with NaN.
    results : tuple of int
        Positions of the arguments that the variant must fill.
    """

    arguments: tuple[Any, ...]
    results: tuple[int, ...]


@dataclass(frozen=True)
class OpSpec:
    """Contract of an operation: defines what each of its variants must compute.

    Variants receive arrays for both inputs and outputs, and fill the outputs. The oracle is the function of the same
    name in `reference`.

    Attributes
    ----------
    operation : str
        The public function's name.
    dims : str
        Names of a case's sizes, such as ``"M,K,N"``.
    sample : callable
        ``(case, dtype, rng) -> tuple``: arguments of one call, with outputs filled with NaN.
    bound : callable
        ``(arguments, results, eps) -> tuple of arrays``: largest error allowed, element by element, given the arguments
        and the true results in the wider dtype.
    flops : callable
        ``(*dims) -> int``, floating-point operations that the equation needs.
    elements_moved : callable
        ``(*dims) -> int``, array elements that must be read or written at least once.
    cases : tuple of Case
        Checked against the oracle in the tests.
    bench_cases : tuple of Case
        Timed.
    results : tuple of int
        Positions of the arguments that a variant fills.
    in_place : bool
        Whether the results are inputs as well; the oracle then updates them itself instead of returning them.
    """

    operation: str
    dims: str
    sample: Callable[[Case, Any, np.random.Generator], tuple[Any, ...]]
    bound: Callable[[tuple[Any, ...], tuple[Array, ...], float], tuple[Array, ...]]
    flops: Callable[..., int]
    elements_moved: Callable[..., int]
    cases: tuple[Case, ...]
    bench_cases: tuple[Case, ...]
    results: tuple[int, ...]
    in_place: bool = False


def nan(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an output as it is passed to a variant: full of NaN."""
    return np.full(shape, np.nan, dtype)


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draw from the standard normal distribution."""
    return rng.standard_normal(shape).astype(dtype)


def rounding(*magnitudes: Array | float, eps: float) -> Array:
    """Return the bound for a few roundings of numbers this large; a denormal may be off by its whole spacing."""
    total: Any = sum(np.abs(magnitude) for magnitude in magnitudes)
    return C * (eps * total + np.finfo(np.float32 if eps > 1e-10 else np.float64).smallest_subnormal)
