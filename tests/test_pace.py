"""Rows and threads of the next call, on machines whose speed is made up: no clock is read."""

import pytest

from fastnet.kernels.pace import CALL_S, LONGEST_RUN_S, Pace

ONE = 1e6  # rows a second of one thread


def share_of_all(pace: Pace, gain: float, seconds: float) -> float:
    """Train for so long where all threads have so many times one thread's speed; the share of time on all of them."""
    on_all = spent = 0.0
    while spent < seconds:
        took = pace.rows / (ONE * (gain if pace.threads > 1 else 1))
        assert took <= 3 * CALL_S, "Ctrl-C must work in long epochs"
        on_all += took * (pace.threads > 1)
        spent += took
        pace.note(pace.rows, took)
    return on_all / spent


@pytest.mark.parametrize(("gain", "least", "most"), [(1.9, 0.99, 1), (1.15, 0.99, 1), (0.9, 0, 0.02), (0.3, 0, 0.02)])
def test_the_faster_runs(gain: float, least: float, most: float) -> None:
    assert least <= share_of_all(Pace(1000, 2, tries=True), gain, 20) <= most


def test_a_busy_core_is_noticed_and_a_free_one_too() -> None:
    pace = Pace(1000, 2, tries=True)
    share_of_all(pace, 1.8, 20)
    share_of_all(pace, 0.7, 5)
    assert share_of_all(pace, 0.7, 5) < 0.05
    share_of_all(pace, 1.8, 5)
    assert share_of_all(pace, 1.8, 5) > 0.95


def test_equal_speeds_change_nothing_all_the_time() -> None:
    pace, changes, spent, i = Pace(1000, 2, tries=True), 0, 0.0, 0
    while spent < 60:
        before, took = pace.threads, pace.rows / (ONE * (1 + 0.02 * (i % 3 - 1)))
        pace.note(pace.rows, took)
        changes, spent, i = changes + (pace.threads != before), spent + took, i + 1
    assert changes <= 2 * 60 / LONGEST_RUN_S + 10, "a trial is two changes"


@pytest.mark.parametrize(("threads", "tries"), [(1, True), (2, False)])
def test_nothing_is_tried_where_there_is_no_choice(threads: int, tries: bool) -> None:
    pace = Pace(1000, threads, tries)
    for _ in range(1000):
        pace.note(pace.rows, pace.rows / ONE)
        assert pace.threads == threads
    assert pace.rows == pytest.approx(CALL_S * ONE, abs=1)


def test_the_first_call_which_compiles_proves_nothing() -> None:
    pace = Pace(1000, 2, tries=True)
    pace.note(1000, 5.0)
    assert pace.threads == 2
    assert share_of_all(pace, 1.8, 1) > 0.95


def test_a_call_of_no_time_or_rows_is_no_error() -> None:
    pace = Pace(1, 2, tries=True)
    pace.note(0, 0.0)
    pace.note(5, 0.0)
    assert pace.rows >= 1


def test_what_is_learnt_serves_the_like_only() -> None:
    assert Pace(1, 2, tries=True).same(Pace(9, 2, tries=True))
    assert not Pace(1, 2, tries=True).same(Pace(1, 1, tries=True))
    assert not Pace(1, 2, tries=True).same(Pace(1, 2, tries=False))
