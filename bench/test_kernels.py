"""Every variant of every operation against the NumPy reference, verified before it is timed.

    pytest bench --benchmark-enable                            # all of it
    pytest bench --benchmark-enable -k "matmul and float32"

Without ``--benchmark-enable`` each runs once, untimed, as a test. One thread on every side. A group is one
operation, case and dtype, with the reference in every group; ``extra_info`` of the JSON holds the error as
a share of the contract's bound, beside the speed.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastnet.kernels.variants import CONTRACTS, TABLE, Case, Variant, check, prepare

BENCHES = [
    pytest.param(variant, case, dtype, id=f"{variant.operation}-{variant.name}-{case}-{dtype}")
    for variant in TABLE
    for case in CONTRACTS[variant.operation].benches
    for dtype in variant.dtypes
]


@pytest.mark.parametrize(("variant", "case", "dtype"), BENCHES)
def test_kernel(benchmark: BenchmarkFixture, variant: Variant, case: Case, dtype: str) -> None:
    error = check(variant, case, dtype)  # also compiles, which no timing may include
    contract = CONTRACTS[variant.operation]
    arguments = prepare(variant.operation, case, dtype).arguments
    benchmark.group = f"{variant.operation} {case} {dtype}"
    benchmark.extra_info.update(
        operation=variant.operation, variant=variant.name, case=str(case), dtype=dtype, error=error, threads=1
    )
    benchmark(variant.function, *arguments)
    if benchmark.stats is not None:
        benchmark.extra_info["gflops"] = contract.flops(*case.dims) / benchmark.stats["median"] / 1e9
