"""How the profiler times: rounds that interleave candidates, medians, and copies to measure on.

No test asserts how fast anything is.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from fastnet.profiling.timing import aligned, batches, interleave, spread


def test_timing_interleaves_candidates() -> None:
    order: list[str] = []

    def candidate(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or float(len(order))  # type: ignore[func-returns-value]

    found = interleave({"a": candidate("a"), "b": candidate("b")}, seconds=0.0, min_rounds=3)
    assert [set(order[start : start + 2]) for start in (0, 2, 4)] == [{"a", "b"}] * 3
    assert found == {name: [i + 1.0 for i in range(6) if order[i] == name] for name in "ab"}


def test_timing_order_changes_between_rounds() -> None:
    order: list[int] = []
    interleave({i: partial(lambda i: order.append(i) or 1.0, i) for i in range(3)}, seconds=0.0, min_rounds=30)  # type: ignore[func-returns-value]
    assert len({tuple(order[start : start + 3]) for start in range(0, 90, 3)}) == 6


def test_timing_spread_is_medians_and_quartiles() -> None:
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert found == (3.0, 2.0, 4.0)
    assert found.relative_iqr == pytest.approx(2 / 3)


def test_batches_return_the_time_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + 100 * (seconds > 0)))

    def call() -> None:
        now[0] += 0.25

    assert batches(call, batch_s=2.0)() == 0.25
    assert batches(call, batch_s=0.001)() == 0.25
    before = now[0]
    assert batches(call, batch_s=2.0, rest_s=1.0)() == 0.25, "the rest does not count"
    assert now[0] > before + 100


def test_aligned_copies_keep_values_and_layout() -> None:
    A = np.arange(35.0).reshape(5, 7)
    for array in (A, A.T, A[0], np.arange(9, dtype=np.float32)[1:]):
        copy = aligned(array)
        assert copy.ctypes.data % 64 == 0
        assert (copy.strides, copy.dtype) == (array.strides, array.dtype)
        assert np.array_equal(copy, array)
        assert not np.shares_memory(copy, array)
    assert aligned(A[::2, ::2]).strides == A[::2, ::2].strides
    assert aligned(3) == 3
