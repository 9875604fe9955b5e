"""Every variant of every operation against the NumPy reference, verified before it is timed.

    pytest bench/test_kernels.py --benchmark-enable                            # all of it
    pytest bench/test_kernels.py --benchmark-enable -k "matmul and float32"

Without ``--benchmark-enable`` each runs once, untimed, as a test. A group is one operation, case, dtype and number
of threads, the same for all its members, with the reference in every group; the variant `parallel` has groups of its
own, on all threads. ``extra_info`` of the JSON holds the error as a share of the contract's bound, beside the speed and
its share of the limit that binds, both limits measured right before.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits

from fastnet.kernels.cpu.threads.pool import limit_threads, num_threads
from fastnet.kernels.registry import OP_SPECS, TABLE, Case, Variant, prepare, variants
from fastnet.kernels.verify import check
from fastnet.profiling.timing import aligned
from fastnet.profiling.variants import measure_limits

# Calibrated and timed by pytest-benchmark; warmed up, since a first call compiles and finds cold caches.
pytestmark = pytest.mark.benchmark(max_time=0.25, min_rounds=7, warmup=True, warmup_iterations=10)

ALL = "all"
SLOW = {"loops", "blocked"}
SLOW_FLOPS = 60e6
"""Variants that reach a tenth to a third of the limit are left out of cases with more operations."""

LONGDOUBLE_FLOPS = 60e6
"""float64 is left out of larger cases: their oracle is longdouble, without BLAS: 3 s for 512 cubed."""


def fits(variant: Variant, case: Case, dtype: str) -> bool:
    """Whether a benchmark of this size is in the list."""
    flops = OP_SPECS[variant.operation].flops(*case.dims)
    return not (variant.name in SLOW and flops > SLOW_FLOPS) and not (dtype == "float64" and flops > LONGDOUBLE_FLOPS)


BENCHES = [
    pytest.param(variant, case, dtype, threads, id=f"{operation}-{variant.name}-{case}-{dtype}-{threads}")
    for operation in OP_SPECS
    for case in OP_SPECS[operation].bench_cases
    for dtype in ("float32", "float64")
    for threads in ((1, ALL) if "parallel" in variants(operation) else (1,))
    for variant in TABLE
    if variant.operation == operation
    and dtype in variant.dtypes
    and (variant.name == "reference" or (threads == ALL) == (variant.name == "parallel"))
    and fits(variant, case, dtype)
]


@pytest.mark.parametrize(("variant", "case", "dtype", "threads"), BENCHES)
def test_kernel(
    benchmark: BenchmarkFixture, machine: dict[str, Any], variant: Variant, case: Case, dtype: str, threads: int | str
) -> None:
    contract = OP_SPECS[variant.operation]
    arguments = [aligned(argument) for argument in prepare(variant.operation, case, dtype).arguments]
    benchmark.group = f"{variant.operation} {case} {dtype} threads {threads}"
    count = num_threads() if threads == ALL else int(threads)
    with threadpool_limits(count), limit_threads(count):
        error = check(variant, case, dtype)  # also compiles, which no timing may include
        nbytes = sum(argument.nbytes for argument in arguments if isinstance(argument, np.ndarray))
        limits = measure_limits(nbytes, dtype, count) if benchmark.enabled else None
        benchmark(partial(variant.function, *arguments))
    benchmark.extra_info.update(
        operation=variant.operation,
        variant=variant.name,
        dtype=dtype,
        case=str(case),
        dims=list(case.dims),
        error=error,
        threads=count,
        threading_layer=machine["blas"] if variant.name == "reference" else "fastnet's own",
        cpu=machine["cpu"],
        vector_width=machine["vector_width"],
    )
    if benchmark.stats is not None and limits is not None:
        seconds = benchmark.stats["median"]
        flops, elements_moved = (
            contract.flops(*case.dims),
            contract.elements_moved(*case.dims) * np.dtype(dtype).itemsize,
        )
        benchmark.extra_info.update(
            gflops=flops / seconds / 1e9,
            gbps=elements_moved / seconds / 1e9,
            intensity=flops / elements_moved,
            fraction_of_limit=limits.seconds(flops, elements_moved) / seconds,
            limit_gflops=limits.gflops,
            limit_gbps=limits.gbps,
            limit_level=limits.level,
        )
