"""Every variant of every operation against the NumPy reference, verified before it is timed.

    pytest bench --benchmark-enable                            # all of it
    pytest bench --benchmark-enable -k "matmul and float32"

Without ``--benchmark-enable`` each runs once, untimed, as a test. A group is one operation, case, dtype and number
of threads, the same for all its members, with the reference in every group; the `parallel` rung has groups of its
own, on all threads. ``extra_info`` of the JSON holds the error as a share of the contract's bound, beside the speed.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits

from fastnet.kernels.threads import at_most, team
from fastnet.kernels.variants import CONTRACTS, TABLE, Case, Variant, check, prepare, variants

ALL = "all"
BENCHES = [
    pytest.param(variant, case, dtype, threads, id=f"{variant.operation}-{variant.name}-{case}-{dtype}-{threads}")
    for variant in TABLE
    for threads in (1, ALL)
    if (threads == 1) == (variant.name != "parallel")
    or (variant.name == "reference" and "parallel" in variants(variant.operation))
    for case in CONTRACTS[variant.operation].benches
    for dtype in variant.dtypes
]


@pytest.mark.parametrize(("variant", "case", "dtype", "threads"), BENCHES)
def test_kernel(benchmark: BenchmarkFixture, variant: Variant, case: Case, dtype: str, threads: int | str) -> None:
    error = check(variant, case, dtype)  # also compiles, which no timing may include
    contract = CONTRACTS[variant.operation]
    arguments = prepare(variant.operation, case, dtype).arguments
    benchmark.group = f"{variant.operation} {case} {dtype} threads {threads}"
    count = team() if threads == ALL else int(threads)
    benchmark.extra_info.update(
        operation=variant.operation, variant=variant.name, case=str(case), dtype=dtype, error=error, threads=count
    )
    with threadpool_limits(count), at_most(count):
        benchmark(variant.function, *arguments)
    if benchmark.stats is not None:
        benchmark.extra_info["gflops"] = contract.flops(*case.dims) / benchmark.stats["median"] / 1e9
