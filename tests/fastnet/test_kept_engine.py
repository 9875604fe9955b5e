"""What a Trainer keeps between two calls of `fit`: its engine, where that is small; never the data."""

import copy
import gc
import pickle
import warnings
import weakref
from typing import Any

import numpy as np
import pytest

from fastnet import Adam, Network, Trainer, fit_many, training_state
from fastnet.kernels.cpu.threads.pool import limit_threads, num_threads
from fastnet.kernels.engine import engine

pytestmark = pytest.mark.compiled


def data(rows: int = 100) -> tuple[Any, Any]:
    rng = np.random.default_rng(rows)
    return rng.standard_normal((rows, 3), np.float32), rng.standard_normal((rows, 2), np.float32)


def trainer(**options: Any) -> Trainer:
    return Trainer(Network([3, 5, 2]), optimizer=Adam(0.01), batch_size=32, **options)


@pytest.mark.parametrize("shuffle", [True, False])
def test_bits_are_those_of_an_engine_built_anew(shuffle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data that change in place, of other data, and of fewer rows than a batch."""
    X, y = data()
    found = []
    for kept in (0, training_state.KEPT_BYTES):
        monkeypatch.setattr(training_state, "KEPT_BYTES", kept)
        ours, inputs = trainer(shuffle=shuffle), X.copy()
        for rows in (100, 100, 70, 20, 100):
            ours.fit(inputs[:rows], y[:rows], 3)
            assert (ours._state.engine is not None) == (kept > 0)
            inputs *= 0.9
        found.append((ours.network.parameters.tobytes(), ours.history["loss"]))
    assert found[0] == found[1]


def test_the_engine_serves_the_next_fit_of_as_many_rows_a_step() -> None:
    X, y = data()
    ours = trainer()
    ours.fit(X, y, 1)
    first = ours._state.engine
    assert first is not None
    ours.fit(X[:50], y[:50], 1, validation_data=(X, y))
    assert ours._state.engine is first
    ours.fit(X[:20], y[:20], 1)
    assert ours._state.engine is not first


def test_an_engine_serves_as_many_threads_as_it_was_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    if num_threads() < 2:
        pytest.skip("needs a second thread")
    monkeypatch.setattr(engine, "THREAD_FLOPS", 0)
    ours = trainer()
    ours.fit(*data(), 1)
    kept = ours._state.engine
    assert kept is not None
    assert kept.serves(32, True)
    with limit_threads(1):
        assert not kept.serves(32, True)


def test_neither_data_nor_a_large_engine_is_kept() -> None:
    X, y = data()
    seen = weakref.ref(X)
    ours = trainer()
    ours.fit(X, y, 2)
    del X
    gc.collect()
    assert seen() is None
    large = Trainer(Network([3, 1 << 17, 2]), batch_size=32)
    large.fit(*data(), 1)
    assert large._state.engine is None


def test_parameters_of_another_shape_are_refused_before_training() -> None:
    """NumPy lets anybody change an array's shape in place."""
    ours = trainer()
    ours.fit(*data(), 1)
    before = ours.network.parameters.copy()
    with warnings.catch_warnings(action="ignore"):  # NumPy 2.5 deprecates it
        ours.network.parameters.shape = (1, -1)
    with pytest.raises(ValueError, match="parameters"):
        ours.fit(*data(), 1)
    assert (ours.network.parameters == before).all()


def test_fit_many_keeps_none() -> None:
    trainers = [trainer(), trainer()]
    fit_many(trainers, *data(), epochs=2)
    assert all(each._state.engine is None for each in trainers)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda ours: pickle.loads(pickle.dumps(ours))])
def test_a_copy_has_an_engine_of_its_own(duplicate: Any) -> None:
    """The original's holds addresses of the original's memory."""
    ours = trainer()
    ours.fit(*data(), 1)
    other = duplicate(ours)
    assert other._state.engine is None
    before = ours.network.parameters.copy()
    other.fit(*data(), 1)
    assert (ours.network.parameters == before).all()
    ours.fit(*data(), 1)
    assert ours.network.parameters.tobytes() == other.network.parameters.tobytes()


def test_no_engine_is_kept_of_a_fit_that_fails() -> None:
    def fails(row: dict[str, float]) -> None:
        raise RuntimeError("a callback's")

    ours = trainer()
    ours.fit(*data(), 1)
    with pytest.raises(RuntimeError, match="a callback's"):
        ours.fit(*data(), 1, callbacks=[fails])
    assert ours._state.engine is None
