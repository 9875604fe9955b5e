"""Rows and threads of the next call, on machines whose speed is made up: no clock is read."""

import pytest

from fastnet.kernels.engine.tuner import CALL_S, LONGEST_RUN_S, Tuner

ONE = 1e6  # rows a second of one thread


def share_of_all(tuner: Tuner, gain: float, seconds: float) -> float:
    """Train for ``seconds`` where all threads are ``gain`` times as fast as one; return the share of time on all."""
    on_all = spent = 0.0
    while spent < seconds:
        took = tuner.rows / (ONE * (gain if tuner.threads > 1 else 1))
        assert took <= 3 * CALL_S, "Ctrl-C must work in long epochs"
        on_all += took * (tuner.threads > 1)
        spent += took
        tuner.update(tuner.rows, took)
    return on_all / spent


@pytest.mark.parametrize(("gain", "least", "most"), [(1.9, 0.99, 1), (1.15, 0.99, 1), (0.9, 0, 0.02), (0.3, 0, 0.02)])
def test_tuner_prefers_the_faster_choice(gain: float, least: float, most: float) -> None:
    assert least <= share_of_all(Tuner(1000, 2, explores=True), gain, 20) <= most


def test_tuner_notices_busy_and_free_cores() -> None:
    tuner = Tuner(1000, 2, explores=True)
    share_of_all(tuner, 1.8, 20)
    share_of_all(tuner, 0.7, 5)
    assert share_of_all(tuner, 0.7, 5) < 0.05
    share_of_all(tuner, 1.8, 5)
    assert share_of_all(tuner, 1.8, 5) > 0.95


def test_tuner_keeps_its_choice_at_equal_speeds() -> None:
    tuner, changes, spent, i = Tuner(1000, 2, explores=True), 0, 0.0, 0
    while spent < 60:
        before, took = tuner.threads, tuner.rows / (ONE * (1 + 0.02 * (i % 3 - 1)))
        tuner.update(tuner.rows, took)
        changes, spent, i = changes + (tuner.threads != before), spent + took, i + 1
    assert changes <= 2 * 60 / LONGEST_RUN_S + 10, "a trial is two changes"


@pytest.mark.parametrize(("threads", "explores"), [(1, True), (2, False)])
def test_tuner_does_not_explore_without_a_choice(threads: int, explores: bool) -> None:
    tuner = Tuner(1000, threads, explores)
    for _ in range(1000):
        tuner.update(tuner.rows, tuner.rows / ONE)
        assert tuner.threads == threads
    assert tuner.rows == pytest.approx(CALL_S * ONE, abs=1)


def test_tuner_ignores_the_first_call() -> None:
    tuner = Tuner(1000, 2, explores=True)
    tuner.update(1000, 5.0)
    assert tuner.threads == 2
    assert share_of_all(tuner, 1.8, 1) > 0.95


def test_tuner_accepts_calls_of_no_time_or_rows() -> None:
    tuner = Tuner(1, 2, explores=True)
    tuner.update(0, 0.0)
    tuner.update(5, 0.0)
    assert tuner.rows >= 1


def test_tuner_state_is_reused_only_when_compatible() -> None:
    assert Tuner(1, 2, explores=True).is_compatible(Tuner(9, 2, explores=True))
    assert not Tuner(1, 2, explores=True).is_compatible(Tuner(1, 1, explores=True))
    assert not Tuner(1, 2, explores=True).is_compatible(Tuner(1, 2, explores=False))


@pytest.mark.parametrize(("threads", "best"), [(64, 64), (64, 8), (64, 1), (48, 48), (48, 32), (3, 2), (3, 1)])
def test_tuner_finds_the_best_of_many_threads(threads: int, best: int) -> None:
    """Speed grows in proportion up to ``best`` threads, and falls beyond."""
    tuner, spent, on_best = Tuner(1000, threads, explores=True), 0.0, 0.0
    while spent < 30:
        gain = min(tuner.threads, best) * min(1.0, best / tuner.threads)
        took = tuner.rows / (ONE * gain)
        spent, on_best = spent + took, on_best + took * (tuner.threads == best)
        tuner.update(tuner.rows, took)
    assert on_best > 0.95 * spent
