"""What all benchmarks share: one thread on every side."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """NumPy's BLAS would otherwise use every core against kernels that use one."""
    with threadpool_limits(1):
        yield
