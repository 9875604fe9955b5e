"""scikit-learn's searches and ensembles over fastnet's estimators with n_jobs: results, and threads within workers."""

import os
import threading
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score

import fastnet.sklearn_session
from fastnet.kernels.cpu.threads.pool import num_threads
from fastnet.kernels.engine import engine
from fastnet.sklearn import MLPClassifier

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

X = np.random.default_rng(0).standard_normal((120, 5)).astype("float32")
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def estimator(**options: Any) -> MLPClassifier:
    return MLPClassifier((8,), max_iter=5, batch_size=32, random_state=0, learning_rate_init=0.01, **options)


def results(n_jobs: int) -> list[Any]:
    """What cross-validation, a grid and bagging find."""
    scores = cross_val_score(estimator(), X, Y, cv=4, n_jobs=n_jobs)
    grid = GridSearchCV(estimator(), {"alpha": [1e-4, 1.0]}, cv=2, n_jobs=n_jobs).fit(X, Y)
    bag = BaggingClassifier(estimator(), 4, random_state=0, n_jobs=n_jobs).fit(X, Y)
    found = [scores, grid.cv_results_["mean_test_score"], grid.predict_proba(X), bag.predict_proba(X)]
    return [array.tobytes() for array in found]


class Noting(engine.CpuEngine):
    """An engine that says for how many threads it was built."""

    seen: ClassVar[dict[int, int]] = {}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen[threading.get_ident()] = self.tuner.threads


def threads_of_fit(n: int) -> tuple[int, int]:
    """Return how many threads an engine was built for within a task of joblib, and the process."""
    engine.THREAD_FLOPS, engine.SURE_FLOPS = 0, 0  # otherwise networks so small stay on one thread
    fastnet.sklearn_session.CPU = Noting
    estimator().fit(X, Y)
    return Noting.seen[threading.get_ident()], os.getpid()


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_results_are_those_of_one_job(backend: str) -> None:
    with joblib.parallel_config(backend):
        assert results(2) == results(1)


def test_processes_share_the_cores() -> None:
    found = joblib.Parallel(2, backend="loky")(joblib.delayed(threads_of_fit)(i) for i in range(4))
    assert {threads for threads, _ in found} == {max(1, CPUS // 2)}
    assert os.getpid() not in {process for _, process in found}


def test_threads_train_on_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "THREAD_FLOPS", 0)
    monkeypatch.setattr(engine, "SURE_FLOPS", 0)
    monkeypatch.setattr(fastnet.sklearn_session, "CPU", Noting)
    found = joblib.Parallel(2, backend="threading")(joblib.delayed(threads_of_fit)(i) for i in range(4))
    assert {threads for threads, _ in found} == {1}
    own: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: own.append(threads_of_fit(0)))
    thread.start()
    thread.join()
    assert [threads_of_fit(0), *own] == [(num_threads(), os.getpid())] * 2  # where joblib runs nothing, all


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
def test_dask_cluster() -> None:
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        with joblib.parallel_config("dask"):
            scores = cross_val_score(estimator(), X, Y, cv=4)
            threads = joblib.Parallel()(joblib.delayed(threads_of_fit)(i) for i in range(4))
        assert {number for number, _ in threads} == {1}
        assert os.getpid() not in {process for _, process in threads}
    assert scores.tobytes() == cross_val_score(estimator(), X, Y, cv=4).tobytes()
