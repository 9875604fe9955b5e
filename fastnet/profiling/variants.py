"""Profiles kernel variants: verifies them, times them in turns, and compares them with the limits of this machine.

The limit is the roofline: the lower of two rates measured in the same minutes, that of FMAs on registers and that of
reads from the smallest cache that holds a problem's arrays. Operations and bytes are those that the equation needs by
the operation's spec, whatever a variant does, so that the GFLOP/s of variants compare as their times do. A time is that
of a call from Python on arrays in the cache, including the dispatch of some 0.2 to 0.5 us: what a caller pays.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from statistics import median

import numpy as np

from ..kernels.cpu.threads.pool import limit_threads, num_threads
from ..kernels.jit import target
from ..kernels.limits import bandwidth, cache_sizes, fma_peak
from ..kernels.registry import CUDA_VARIANTS, TABLE, Variant, prepare, variants
from ..kernels.specs.base import Case, SampleInput
from ..kernels.specs.operations import OP_SPECS
from ..kernels.verify import check
from . import counters, machine_code
from .diagnosis import Facts, diagnose
from .loop_bounds import bounds
from .timing import BATCH_S, Spread, aligned, batches, interleave, spread

_BANDWIDTH_S = 0.02
_PEAK_S = 0.0005
_PEAK_OF_THREADS_S = 0.03  # the system spreads new threads over the cores only after some milliseconds

_CALLS_S = 0.005
"""Seconds for which the call of each variant with sizes of 1 is timed."""

SETS = 4
"""Parts of the rounds whose medians a comparison with another run treats as independent (see `baseline`)."""

USES_THREADS = ("reference", "parallel")
"""The variants that can use more than one thread."""

_BLAS_RESTS_S = 0.1
"""Seconds until OpenBLAS's threads stop spinning on cores that others need (docs/performance-notes/profiling.md)."""


@dataclass(frozen=True)
class Limits:
    """Limits of the machine on a number of threads, for one problem.

    Attributes
    ----------
    gflops : float
        GFLOP/s of FMAs on registers.
    gbps : float
        GB/s read from ``level``.
    level : str
        The smallest cache that holds the arrays, or "memory".
    threads : int
        Number of threads; both rates are totals over them.
    """

    gflops: float
    gbps: float
    level: str
    threads: int

    def seconds(self, flops: float, bytes_moved: float) -> float:
        """Return the shortest possible time for these operations and bytes."""
        return max(flops / self.gflops, bytes_moved / self.gbps) / 1e9

    def binds(self, flops: float, bytes_moved: float) -> str:
        """Name the binding limit: "compute", or the bandwidth of a level."""
        return "compute" if flops / self.gflops >= bytes_moved / self.gbps else f"{self.level} bandwidth"


@dataclass(frozen=True)
class Measurement:
    """Measurement of one variant.

    Attributes
    ----------
    variant : str
        Its name.
    error_ratio : float
        Its largest error, divided by the bound of the operation's spec.
    seconds : Spread
        Time of one call.
    gflops, gbps : float
        Operations and bytes of the spec, divided by the median time.
    fraction_of_limit : float
        The time at the limit, divided by the median time.
    call_s : float
        Seconds of a call with sizes of 1: the call overhead, however small the work is.
    diagnosis : str
        One sentence that explains the time (see `diagnosis`).
    sets : tuple of float
        Median seconds in each of `SETS` consecutive, equal parts of the rounds.
    counts : dict of str to float or None
        Hardware events per call on one thread (see `counters`); None if none were counted.
    code : machine_code.Code or None
        Compile time and inner loop; None if not requested, or if the variant is not compiled.
    """

    variant: str
    error_ratio: float
    seconds: Spread
    gflops: float
    gbps: float
    fraction_of_limit: float
    call_s: float
    diagnosis: str
    sets: tuple[float, ...]
    counts: dict[str, float] | None
    code: machine_code.Code | None


@dataclass(frozen=True)
class Profile:
    """Measurements of an operation's variants on one problem, with one number of threads.

    Attributes
    ----------
    operation : str
        Its name.
    case : Case
        Sizes and option.
    dtype : str
        float32 or float64.
    flops, bytes_moved : int
        Operations and bytes that the equation needs, by the operation's spec.
    limits : Limits
        Measured between the variants.
    measurements : tuple of Measurement
        One for each variant.
    peaks : tuple of float
        FMA peak in GFLOP/s in each of the parts of the rounds of `Measurement.sets`.
    uncounted : str
        The reason for missing hardware events, if the profile is of one thread and the system permits no counting.
    """

    operation: str
    case: Case
    dtype: str
    flops: int
    bytes_moved: int
    limits: Limits
    measurements: tuple[Measurement, ...]
    peaks: tuple[float, ...]
    uncounted: str = ""

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: operations for each byte moved."""
        return self.flops / max(1, self.bytes_moved)

    @property
    def binds(self) -> str:
        """Name of the binding limit."""
        return self.limits.binds(self.flops, self.bytes_moved)


# --------------------------------------------------------------------------------------------- limits


def machine_limits(threads: int) -> dict[str, dict[str, float]]:
    """Measure FMA peaks in GFLOP/s by dtype ("gflops") and bandwidths in GB/s by level ("gbps"), on some threads."""
    return {
        "gflops": {dtype: fma_peak(dtype, 0.1, threads) for dtype in ("float32", "float64")},
        "gbps": {level: bandwidth(level, threads) for level in (*cache_sizes(), "memory")},
    }


def level_of(nbytes: int) -> str:
    """Name the smallest cache that holds this many bytes, or "memory"."""
    return next((level for level, size in cache_sizes().items() if nbytes <= size), "memory")


def measure_limits(nbytes: int, dtype: str, threads: int = 1) -> Limits:
    """Measure the limits for a problem whose arrays take this many bytes; takes 0.05 s."""
    level = level_of(nbytes)
    return Limits(fma_peak(dtype, _PEAK_OF_THREADS_S, threads), bandwidth(level, threads, _BANDWIDTH_S), level, threads)


# --------------------------------------------------------------------------------------------- profile

BOUNDS_BLAS = find_spec("threadpoolctl") is not None
"""Whether the threads of NumPy's BLAS can be limited."""


def case_of(operation: str, dims: Sequence[int] | None = None, option: str | None = None) -> Case:
    """Make the case of given sizes and option, by default those of the operation's last benchmark case.

    Raises
    ------
    ValueError
        If there is no such operation, it takes another number of sizes, or it has no such option.
    """
    variants(operation)  # rejects an unknown name
    spec = OP_SPECS[operation]
    default = spec.bench_cases[-1]
    names = spec.dims.split(",")
    dims = default.dims if dims is None else tuple(dims)
    if len(dims) != len(names) or min(dims) < 1:
        given = ",".join(map(str, dims))
        raise ValueError(f"{operation} takes {len(names)} sizes of at least 1, {spec.dims}, not {given}")
    options = sorted({case.option for case in spec.cases})
    if option is not None and option not in options:
        allowed = ", ".join(options) if options != [""] else "none"
        raise ValueError(f"{operation} has no option {option!r}; there are: {allowed}")
    return Case(dims, "profiled", default.option if option is None else option)


def chosen(operation: str, names: Sequence[str] | None, dtype: str) -> tuple[Variant, ...]:
    """Return the CPU variants with these names, by default all, that take a dtype, in the order of the table.

    Raises
    ------
    ValueError
        If the operation has no variant of one of these names; CUDA's names are allowed.
    """
    known = (*variants(operation), *cuda_variants(operation))
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"unknown variant {unknown[0]!r} of {operation}; there are: {', '.join(known)}")
    usable = [variant for variant in TABLE if variant.operation == operation and dtype in variant.dtypes]
    return tuple(variant for variant in usable if not names or variant.name in names)


def cuda_variants(operation: str, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Name an operation's CUDA variants, or those among ``names``; these are only compiled here, not timed."""
    known = [variant.name for variant in CUDA_VARIANTS if variant.operation == operation]
    return tuple(name for name in known if names is None or name in names)


def profile(
    operation: str,
    case: Case,
    candidates: Sequence[Variant],
    dtype: str = "float32",
    threads: int = 1,
    seconds: float = 0.5,
    code: bool = True,
) -> Profile:
    """Verify, then time variants of an operation on one problem.

    Parameters
    ----------
    operation : str
        A key of ``OP_SPECS``.
    case : Case
        Sizes and option.
    candidates : sequence of Variant
        All are verified before any is timed; their timings are interleaved.
    dtype : str, default "float32"
        float32 or float64.
    threads : int, default 1
        Upper bound on the threads of kernels and of NumPy's BLAS; only `parallel` and `reference` use more than one.
    seconds : float, default 0.5
        Approximate time to spend on each variant.
    code : bool, default True
        Whether to also compile each in a separate process, for its compile time and its inner loop.

    Returns
    -------
    Profile

    Raises
    ------
    WrongKernelError
        If a variant's results are wrong. Nothing has been timed then.
    """
    spec = OP_SPECS[operation]
    sample = prepare(operation, case, dtype)
    smallest = prepare(operation, Case((1,) * len(case.dims), "a call", case.option), dtype).arguments
    flops, bytes_moved = spec.flops(*case.dims), spec.elements_moved(*case.dims) * np.dtype(dtype).itemsize
    with ExitStack() as settings:
        settings.enter_context(limit_threads(threads))
        if BOUNDS_BLAS:
            settings.enter_context(import_module("threadpoolctl").threadpool_limits(threads))
        threads = min(threads, num_threads())
        error_ratios = {variant.name: check(variant, case, dtype) for variant in candidates}
        level = level_of(sum(argument.nbytes for argument in sample.arguments if isinstance(argument, np.ndarray)))
        arguments = [aligned(argument) for argument in sample.arguments]
        calls = {variant.name: partial(variant.function, *arguments) for variant in candidates}
        batch_s = BATCH_S if threads == 1 else 10 * BATCH_S  # much longer than it takes to wake threads
        timers = {}
        for name, call in calls.items():
            timers[name] = batches(call, batch_s, _BLAS_RESTS_S if name == "reference" and threads > 1 else 0.0)
        peak = partial(fma_peak, dtype, _PEAK_S if threads == 1 else _PEAK_OF_THREADS_S, threads)
        gbps = [bandwidth(level, threads, _BANDWIDTH_S)]
        samples = interleave({"": peak, **timers}, seconds * len(timers))
        gbps.append(bandwidth(level, threads, _BANDWIDTH_S))
        empty = {variant.name: batches(partial(variant.function, *smallest), batch_s) for variant in candidates}
        call_s = {name: median(times) for name, times in interleave(empty, _CALLS_S * len(empty)).items()}
        counts, uncounted = _count(calls) if threads == 1 else ({}, "")
    peaks = samples.pop("")
    highest = median if threads == 1 else max  # another process on one core halves the rate of all
    limits = Limits(highest(peaks), max(gbps), level, threads)
    measurements = []
    for name, times in samples.items():
        found = spread(times)
        rates = flops / found.median / 1e9, bytes_moved / found.median / 1e9
        fraction = limits.seconds(flops, bytes_moved) / found.median
        compiled = machine_code.inspect(operation, name, dtype, case) if code else None
        facts = Facts(
            fraction,
            limits.binds(flops, bytes_moved),
            level,
            call_share=call_s[name] / found.median,
            threads=threads,
            threads_used=threads if name in USES_THREADS else 1,
        )
        if compiled and compiled.loop:
            facts = _with_loop(facts, compiled.loop, sample, np.dtype(dtype).itemsize)
        timed = (found, *rates, fraction, call_s[name], diagnose(facts), _medians(times))
        measurements.append(Measurement(name, error_ratios[name], *timed, counts.get(name), compiled))
    measured = flops, bytes_moved, limits, tuple(measurements), _medians(peaks, highest)
    return Profile(operation, case, dtype, *measured, uncounted)


def _count(calls: Mapping[str, Callable[[], object]]) -> tuple[dict[str, dict[str, float]], str]:
    """Count hardware events of each variant's call; if the system permits no counting, return the reason."""
    try:
        return {name: counters.measure(call) for name, call in calls.items()}, ""
    except counters.NotPermittedError as error:
        return {}, str(error)


def _with_loop(facts: Facts, loop: machine_code.Loop, sample: SampleInput, itemsize: int) -> Facts:
    """Add the facts about the inner loop."""
    return replace(
        facts,
        vector_bytes=loop.vector_bytes,
        machine_vector_bytes=target.vector_bytes(),
        lanes_used=lanes_used(sample, max(1, loop.vector_bytes // itemsize)),
        loop=bounds(loop),
    )


def _medians(samples: list[float], middle: Callable[[list[float]], float] = median) -> tuple[float, ...]:
    """Return the median of each of `SETS` parts of the samples, or what ``middle`` gives instead."""
    ends = [i * len(samples) // SETS for i in range(SETS + 1)]
    return tuple(middle(samples[start:end]) for start, end in pairwise(ends))


def lanes_used(sample: SampleInput, lanes: int) -> float:
    """Return the elements of the matrices that a call fills, as a fraction of the vector lanes along their rows."""
    filled = [sample.arguments[i] for i in sample.results]
    matrices = [array for array in filled if array.ndim == 2 and array.size]
    computed = sum(len(array) * -(-array.shape[1] // lanes) * lanes for array in matrices)
    return sum(array.size for array in matrices) / computed if computed else 1.0
