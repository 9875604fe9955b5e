"""Kernel variants against this machine's own limits: verified, timed in turns, placed under the roof.

Imports `timing`, `machinecode`, and of the kernels `limits`, `variants`, `threads`. The roof is the lower of two limits
measured in the same minutes: FMAs on registers alone, and bytes read from the smallest cache that holds a problem's
arrays. Operations and bytes are those that an operation's contract says its equation needs, whatever a variant does, so
GFLOP/s of variants compare as their times do. A time is that of a call from Python on arrays that are in the cache, the
dispatch of some 0.2 to 0.5 us included: what a caller pays.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..kernels.cpu.threads.pool import limit_threads, num_threads
from ..kernels.limits import bandwidth, cache_sizes, fma_peak
from ..kernels.registry import CUDA_VARIANTS, TABLE, Variant, prepare, variants
from ..kernels.specs.base import Case
from ..kernels.specs.operations import OP_SPECS
from ..kernels.verify import check
from . import machine_code
from .timing import BATCH_S, Spread, batches, interleave, spread

_BANDWIDTH_S = 0.02
_PEAK_S = 0.0005
_PEAK_OF_THREADS_S = 0.03  # new threads are on cores of their own only after some milliseconds

_BLAS_RESTS_S = 0.1
"""OpenBLAS's threads go on looking for work for some 20 ms, on cores that the next in turn has need of: without a rest
`parallel` ran at a third of its speed behind `reference`."""


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most on so many threads, for one problem.

    Attributes
    ----------
    gflops : float
        Of FMAs on registers alone.
    gbps : float
        Read from ``level``.
    level : str
        The smallest cache that holds the arrays, or "memory".
    threads : int
    """

    gflops: float
    gbps: float
    level: str
    threads: int

    def seconds(self, flops: float, elements_moved: float) -> float:
        """How long the binding limit makes so many operations on so many bytes last."""
        return max(flops / self.gflops, elements_moved / self.gbps) / 1e9

    def binds(self, flops: float, elements_moved: float) -> str:
        """Which limit that is: "compute", or the level whose bandwidth."""
        return "compute" if flops / self.gflops >= elements_moved / self.gbps else f"{self.level} bandwidth"


@dataclass(frozen=True)
class Measurement:
    """One variant, timed.

    Attributes
    ----------
    variant : str
    error : float
        The worst error against the oracle, as a share of the contract's bound.
    seconds : Spread
        Of a call.
    gflops, gbps : float
        Operations and bytes of the contract by the median time.
    fraction_of_limit : float
        Time that the binding limit would take over the median time.
    code : machine_code.Code or None
        Compile time and inner loop, where these were wanted and there are such.
    """

    variant: str
    error: float
    seconds: Spread
    gflops: float
    gbps: float
    fraction_of_limit: float
    code: machine_code.Code | None


@dataclass(frozen=True)
class Profile:
    """The variants of an operation on one problem and number of threads."""

    operation: str
    case: Case
    dtype: str
    flops: int
    elements_moved: int
    limits: Limits
    measurements: tuple[Measurement, ...]

    @property
    def intensity(self) -> float:
        """Operations for each byte that must move."""
        return self.flops / max(1, self.elements_moved)

    @property
    def binds(self) -> str:
        """Which limit is the lower one here."""
        return self.limits.binds(self.flops, self.elements_moved)


# --------------------------------------------------------------------------------------------- limits


def machine_limits(threads: int) -> dict[str, dict[str, float]]:
    """FMA peaks in GFLOP/s by dtype, bandwidths in GB/s by level, of so many threads."""
    return {
        "gflops": {dtype: fma_peak(dtype, 0.1, threads) for dtype in ("float32", "float64")},
        "gbps": {level: bandwidth(level, threads) for level in (*cache_sizes(), "memory")},
    }


def level_of(nbytes: int) -> str:
    """Name the smallest cache that holds so many bytes, or memory."""
    return next((level for level, size in cache_sizes().items() if nbytes <= size), "memory")


def measure_limits(nbytes: int, dtype: str, threads: int = 1) -> Limits:
    """Measure the limits of a problem whose arrays have so many bytes; a twentieth of a second."""
    level = level_of(nbytes)
    return Limits(fma_peak(dtype, _PEAK_OF_THREADS_S, threads), bandwidth(level, threads, _BANDWIDTH_S), level, threads)


# --------------------------------------------------------------------------------------------- profile

BOUNDS_BLAS = find_spec("threadpoolctl") is not None
"""Whether the number of threads of NumPy's BLAS can be set."""


def _blas_threads(threads: int) -> AbstractContextManager[Any]:
    """Bound NumPy's BLAS to so many threads, where the package for that is there."""
    if not BOUNDS_BLAS:
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(threads)


def case_of(operation: str, dims: Sequence[int] | None = None, option: str | None = None) -> Case:
    """Make the case of given sizes and option; by default the last that is benchmarked.

    Raises
    ------
    ValueError
        If the operation takes other sizes, or has no such option.
    """
    variants(operation)  # refuses an unknown name
    contract = OP_SPECS[operation]
    default = contract.bench_cases[-1]
    names = contract.dims.split(",")
    dims = default.dims if dims is None else tuple(dims)
    if len(dims) != len(names) or min(dims) < 1:
        given = ",".join(map(str, dims))
        raise ValueError(f"{operation} takes {len(names)} sizes of at least 1, {contract.dims}, not {given}")
    options = sorted({case.option for case in contract.cases})
    if option is not None and option not in options:
        allowed = ", ".join(options) if options != [""] else "none"
        raise ValueError(f"{operation} has no option {option!r}; there are: {allowed}")
    return Case(dims, "profiled", default.option if option is None else option)


def chosen(operation: str, names: Sequence[str] | None, dtype: str) -> tuple[Variant, ...]:
    """Variants of the table by name, in its order; all that take the dtype by default. Those on a card are left out."""
    there = (*variants(operation), *on_card(operation))
    unknown = [name for name in names or () if name not in there]
    if unknown:
        raise ValueError(f"unknown variant {unknown[0]!r} of {operation}; there are: {', '.join(there)}")
    found = [variant for variant in TABLE if variant.operation == operation and dtype in variant.dtypes]
    return tuple(variant for variant in found if not names or variant.name in names)


def on_card(operation: str, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """CUDA variants of an operation, or those among the names: what is compiled and not timed here."""
    there = [variant.name for variant in CUDA_VARIANTS if variant.operation == operation]
    return tuple(name for name in there if names is None or name in names)


def profile(
    operation: str,
    case: Case,
    tried: Sequence[Variant],
    dtype: str = "float32",
    threads: int = 1,
    seconds: float = 0.5,
    code: bool = True,
) -> Profile:
    """Verify, then time variants of an operation on one problem.

    Parameters
    ----------
    operation : str
        A key of ``CONTRACTS``.
    case : Case
        Sizes and option.
    tried : sequence of Variant
        They take turns; all are verified before any is timed.
    dtype : str, default "float32"
        float32 or float64.
    threads : int, default 1
        At most so many, of kernels and of NumPy's BLAS alike; only `parallel` and `reference` use more than one.
    seconds : float, default 0.5
        About how long to time each.
    code : bool, default True
        Whether to compile each in a process of its own, for its compile time and its inner loop.

    Returns
    -------
    Profile

    Raises
    ------
    WrongKernelError
        If a variant breaks its contract. Nothing has been timed then.
    """
    contract = OP_SPECS[operation]
    arguments = prepare(operation, case, dtype).arguments
    arrays = [argument for argument in arguments if isinstance(argument, np.ndarray)]
    flops, elements_moved = contract.flops(*case.dims), contract.elements_moved(*case.dims) * np.dtype(dtype).itemsize
    with ExitStack() as bounds:
        bounds.enter_context(limit_threads(threads))
        bounds.enter_context(_blas_threads(threads))
        threads = min(threads, num_threads())
        errors = {variant.name: check(variant, case, dtype) for variant in tried}
        level = level_of(sum(array.nbytes for array in arrays))
        sides = {}
        batch_s = BATCH_S if threads == 1 else 10 * BATCH_S  # in which waking the threads weighs little
        for variant in tried:
            rest = _BLAS_RESTS_S if variant.name == "reference" and threads > 1 else 0.0
            sides[variant.name] = batches(partial(variant.function, *arguments), batch_s, rest)
        peak = partial(fma_peak, dtype, _PEAK_S if threads == 1 else _PEAK_OF_THREADS_S, threads)
        gbps = [bandwidth(level, threads, _BANDWIDTH_S)]
        times = interleave({"": peak, **sides}, seconds * len(sides))
        gbps.append(bandwidth(level, threads, _BANDWIDTH_S))
    peaks = times.pop("")  # of several threads the highest: a neighbour on one core halves what all reach
    limits = Limits(spread(peaks).median if threads == 1 else max(peaks), max(gbps), level, threads)
    measurements = []
    for name, samples in times.items():
        found = spread(samples)
        median = found.median
        rates = flops / median / 1e9, elements_moved / median / 1e9
        made = machine_code.inspect(operation, name, dtype, case) if code else None
        fraction = limits.seconds(flops, elements_moved) / median
        measurements.append(Measurement(name, errors[name], found, *rates, fraction, made))
    return Profile(operation, case, dtype, flops, elements_moved, limits, tuple(measurements))
