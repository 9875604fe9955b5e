"""After each test of the CPU's kernels, the thread pool is free."""

import threading
from collections.abc import Iterator

import pytest

from fastnet.kernels.cpu.threads import pool


@pytest.fixture(autouse=True)
def _nothing_stays_locked() -> Iterator[None]:
    yield
    assert pool.state["busy"] == 0
    assert threading.active_count() < 20
