"""fit_many: the bits of `fit` one after the other, errors, interruptions, and arguments that are refused."""

import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnet.many
from fastnet import SGD, Adam, Network, Trainer, fit_many
from fastnet.kernels.engine import engine
from fastnet.trainer import DivergenceWarning

RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 4)).astype("float32")
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
WEIGHTS = RNG.uniform(0, 2, 150) * (np.arange(150) % 7 > 0)
ROWS = [RNG.integers(0, 150, size) for size in (100, 70, 150)]
OTHERS = [np.setdiff1d(np.arange(150), rows) for rows in ROWS]


def make(count: int = 3, sizes: Any = (4, 8, 3), **options: Any) -> list[Trainer]:
    options = {"loss": "cross_entropy", "optimizer": Adam(0.02), "batch_size": 16} | options
    return [Trainer(Network(sizes, seed=i), seed=i, **options) for i in range(count)]


def assert_same(mine: list[Trainer], theirs: list[Trainer]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        assert a.network.parameters.tobytes() == b.network.parameters.tobytes()
        assert dict(a.history) == dict(b.history)
        assert a.network.loss == b.network.loss


# ---------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("backend", ["cpu", "numpy"])
@pytest.mark.parametrize("validation", [{}, {"validation_split": 0.2}, {"validation_data": (X[:40], Y[:40])}])
def test_results_are_those_of_fit(validation: dict[str, Any], backend: str, shuffle: bool) -> None:
    options = {"shuffle": shuffle, "backend": backend}
    mine, theirs = make(**options), make(**options)
    arguments = {"sample_weight": WEIGHTS, "patience": 2, **validation}
    histories = fit_many(mine, X, Y, 4, **arguments)
    for trainer in theirs:
        trainer.fit(X, Y, 4, **arguments)
    assert_same(mine, theirs)
    assert all(history is trainer.history for history, trainer in zip(histories, mine, strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", ["arrays", "memory maps", "lists"])
def test_rows_of_each(kind: str, shuffle: bool, tmp_path: Path) -> None:
    x: Any = X
    if kind == "memory maps":
        np.save(tmp_path / "x.npy", X)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    mine, theirs = make(shuffle=shuffle), make(shuffle=shuffle)
    rows = [r.tolist() for r in ROWS] if kind == "lists" else ROWS
    for _ in range(2):  # the second goes on
        fit_many(mine, x, Y, 3, rows, sample_weight=WEIGHTS, validation_rows=OTHERS, patience=2)
        for trainer, own, held in zip(theirs, ROWS, OTHERS, strict=True):
            validation = X[held], Y[held], WEIGHTS[held]
            trainer.fit(X[own], Y[own], 3, sample_weight=WEIGHTS[own], validation_data=validation, patience=2)
    assert_same(mine, theirs)


def test_rows_are_split_by_each_seed() -> None:
    mine, theirs = make(), make()
    fit_many(mine, X, Y, 12, ROWS, validation_split=0.3)
    for trainer, own in zip(theirs, ROWS, strict=True):
        trainer.fit(X[own], Y[own], 12, validation_split=0.3)
    assert_same(mine, theirs)
    assert [a.history.diagnosis() for a in mine] == [b.history.diagnosis() for b in theirs]


def test_networks_may_differ() -> None:
    def some() -> list[Trainer]:
        return [
            *make(2),
            Trainer(Network([4, 5, 3], dtype="float64"), "mse", batch_size=None),
            Trainer(Network([4, 3], hidden=[]), "huber", SGD(0.1, momentum=0.9)),
        ]

    mine, theirs, targets = some(), some(), np.eye(3)[Y]
    fit_many(mine, X.tolist(), targets, 3)
    for trainer in theirs:
        trainer.fit(X, targets, 3)
    assert_same(mine, theirs)


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_threads_bound_how_many_train_at_once(threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastnet.many, "num_threads", lambda: threads or 4)
    seen: set[str] = set()
    meeting = threading.Barrier(min(threads or 4, 5))

    def note(row: dict[str, float]) -> None:
        seen.add(threading.current_thread().name)
        if row["epoch"] == 0 and row["trainer"] < meeting.parties:
            meeting.wait(60)

    fit_many(make(5), X, Y, 2, callbacks=[note], threads=threads)
    assert len(seen) == meeting.parties


def test_data_are_shared_and_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    train = engine.CpuEngine.train

    def note(self: Any, x: Any, *arguments: Any) -> None:
        seen.add(x.ctypes.data)
        train(self, x, *arguments)

    monkeypatch.setattr(engine.CpuEngine, "train", note)
    fit_many(make(4) + make(1, loss="mse"), X.astype("float64"), np.eye(3)[Y], 2, [*ROWS, ROWS[0], ROWS[1]])
    assert len(seen) <= 1  # none where nothing is compiled


def test_rows_are_those_at_the_start_whatever_a_callback_does_to_them() -> None:
    """Compiled code reads them without a check."""
    mine, theirs, rows = make(2), make(2), [np.arange(100), np.arange(50)]
    fit_many(mine, X, Y, 3, [each.copy() for each in rows])
    fit_many(theirs, X, Y, 3, rows, callbacks=[lambda row: rows[row["trainer"]].fill(0)])
    assert_same(mine, theirs)


def test_callbacks_know_the_trainer_and_stop_it() -> None:
    rows: list[dict[str, float]] = []

    def stop(row: dict[str, float]) -> bool:
        rows.append(row)
        return row["epoch"] == row["trainer"]

    histories = fit_many(make(3), X, Y, 9, callbacks=[stop])
    assert [history.epochs for history in histories] == [1, 2, 3]
    for row in rows:
        assert row["loss"] == histories[int(row["trainer"])]["loss"][int(row["epoch"])]


def test_checkpoints_of_each(tmp_path: Path) -> None:
    mine, theirs = make(), make()
    fit_many(mine, X, Y, 2, checkpoint=tmp_path / "run-{}.safetensors")
    resumed = [Trainer.resume(tmp_path / f"run-{i}.safetensors") for i in range(3)]
    fit_many(resumed, X, Y, 2, checkpoint=[tmp_path / "a", None, tmp_path / "c"])
    for trainer in theirs:
        trainer.fit(X, Y, 4)
    assert_same(resumed, theirs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", *(f"run-{i}.safetensors" for i in range(3))]


def test_one_bar(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastnet.many, "POLL_S", 0.001)
    fit_many(make(), X, Y, 4, progress=True, callbacks=[lambda row: row["trainer"] == 1])
    out, err = capfd.readouterr()
    assert out == ""
    assert "9/9" in err  # 4 + 1 + 4 epochs: the trainer that stopped has no more to do
    assert "3 of 3 networks trained" in err


# ----------------------------------------------------------------------------------- errors and Ctrl-C


def test_an_error_leaves_the_others() -> None:
    mine, theirs = make(), make()

    def fail(row: dict[str, float]) -> None:
        if row["trainer"] == 1:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full") as caught:
        fit_many(mine, X, Y, 3, callbacks=[fail])
    assert any("trainers[1]" in note for note in caught.value.__notes__)
    for trainer, epochs in zip(theirs, (3, 1, 3), strict=True):
        trainer.fit(X, Y, epochs)
    assert_same(mine, theirs)
    fit_many(mine, X, Y, 1)


def test_several_errors_are_a_group() -> None:
    def fail(row: dict[str, float]) -> None:
        if row["trainer"] != 1:
            raise ValueError(f"number {row['trainer']}")

    with pytest.raises(ExceptionGroup, match="2 of 3 trainers failed") as caught:
        fit_many(make(), X, Y, 3, callbacks=[fail])
    assert [str(error) for error in caught.value.exceptions] == ["number 0", "number 2"]
    assert ["trainers[0]" in caught.value.exceptions[0].__notes__[0]] == [True]


def test_divergence_names_the_trainer() -> None:
    trainers = make() + make(1, optimizer=SGD(1e30), loss="mse")
    with pytest.warns(DivergenceWarning, match=r"trainers\[3\]: training diverged in epoch 1"):
        fit_many(trainers, X * 100, np.eye(3)[Y], 2)
    assert all(np.isfinite(trainer.network.parameters).all() for trainer in trainers)
    assert [trainer.history.epochs for trainer in trainers] == [2, 2, 2, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_ctrl_c_leaves_all_whole(backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine, "_FIRST_CALL_FLOPS", 1e4)
    monkeypatch.setattr("fastnet.kernels.engine.tuner.CALL_S", 1e-4)
    options = {"sizes": (4, 32, 32, 3), "batch_size": 8, "backend": backend}
    mine, theirs = make(5, **options), make(5, **options)
    started = threading.Event()

    def interrupt() -> None:
        started.wait(60)
        time.sleep(0.05)
        for _ in range(3):  # all of them at once are one
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fit_many(mine, X, Y, 10**6, callbacks=[lambda row: started.set()], checkpoint=tmp_path / "{}")
    thread.join()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastnet-fit")]
    assert 0 < sum(trainer.history.epochs for trainer in mine) < 10**6
    begun = [Trainer.resume(tmp_path / str(i)) if (tmp_path / str(i)).exists() else mine[i] for i in range(5)]
    assert_same(begun, mine)
    for trainer, other, resumed in zip(mine, theirs, begun, strict=True):
        other.fit(X, Y, trainer.history.epochs + 2)
        if resumed is not trainer:
            resumed.fit(X, Y, 2)
    fit_many(mine, X, Y, 2)
    assert_same(mine, theirs)
    assert_same(begun, theirs)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_second_ctrl_c_does_not_leave_a_step_half_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to Python 3.12, a thread passes for ended once Ctrl-C has come while it is joined."""
    begun, goes_on, done = threading.Event(), threading.Event(), list[int]()

    def step(*job: Any) -> str:
        begun.set()
        goes_on.wait(60)
        done.append(1)
        return ""

    def interrupt() -> None:
        begun.wait(60)
        for _ in range(2):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        goes_on.set()

    monkeypatch.setattr(fastnet.many, "fit_prepared", step)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fit_many(make(1), X, Y, 1)
    assert done == [1]
    thread.join()


@pytest.mark.parametrize("allowed", [0, 1])
def test_fewer_threads_than_wanted_train_all(allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a limit of processes; without any thread, the caller's trains."""
    start, count = threading.Thread.start, itertools.count()

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("fastnet-fit") and next(count) >= allowed:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(fastnet.many, "num_threads", lambda: 3)
    monkeypatch.setattr(threading.Thread, "start", limited)
    mine, theirs = make(), make()
    with pytest.warns(RuntimeWarning, match=r"^fit_many trains on 1 of 3 threads, since .* \(can't start new thread\)"):
        fit_many(mine, X, Y, 2)
    for trainer in theirs:
        trainer.fit(X, Y, 2)
    assert_same(mine, theirs)


def test_exit_in_a_callback_ends_all() -> None:
    trainers = make(4)

    def leave(row: dict[str, float]) -> None:
        if row["epoch"] == 1:
            sys.exit(3)

    with pytest.raises(SystemExit):
        fit_many(trainers, X, Y, 10**6, callbacks=[leave])
    fit_many(trainers, X, Y, 1)


# -------------------------------------------------------------------------------------------- arguments


def same_network() -> list[Trainer]:
    first = make(1)[0]
    return [*make(1), first, Trainer(first.network)]


@pytest.mark.parametrize(
    ("error", "message", "trainers", "arguments"),
    [
        (ValueError, "trainers is empty", list, {}),
        (TypeError, r"trainers is Trainer\(", lambda: make(1)[0], {}),
        (TypeError, r"trainers\[1\] is a Network", lambda: [*make(1), Network([4, 3])], {}),
        (ValueError, r"trainers\[0\] and trainers\[2\] are the same Trainer", lambda: (m := make(2)) + m[:1], {}),
        (ValueError, r"trainers\[1\] and trainers\[2\] have the same network", same_network, {}),
        (TypeError, "rows is a int", make, {"rows": 5}),
        (ValueError, "rows has 2 elements; expected 3", make, {"rows": ROWS[:2]}),
        (TypeError, "rows holds an array of bool, .* np.flatnonzero", make, {"rows": [np.ones(150, bool)] * 3}),
        (TypeError, "rows holds a masked array", make, {"rows": [np.ma.masked_equal([1, 2], 2)] * 3}),
        (TypeError, "rows holds an array of float64", make, {"rows": [ROWS[0], ROWS[1], ROWS[2] / 2]}),
        (ValueError, "rows holds no row", make, {"rows": [ROWS[0], np.zeros(0, int), ROWS[2]]}),
        (ValueError, "rows runs from 0 to 150; expected numbers from 0 to 149", make, {"rows": [np.arange(151)] * 3}),
        (ValueError, "rows runs from -1 to -1", make, {"rows": [[-1]] * 3}),
        (ValueError, "validation_rows runs from 150", make, {"validation_rows": [[150]] * 3}),
        (
            ValueError,
            "validation_split and validation_rows are given",
            make,
            {"validation_split": 0.1, "validation_rows": ROWS},
        ),
        (ValueError, "sample_weight is 0 in every selected row", make, {"sample_weight": WEIGHTS, "rows": [[0]] * 3}),
        (ValueError, "one file for 3 trainers", make, {"checkpoint": "run"}),
        (ValueError, r"checkpoint\[0\] and checkpoint\[2\] are the same file", make, {"checkpoint": ["a", "b", "./a"]}),
        (FileNotFoundError, "there is no folder", make, {"checkpoint": "no/folder/{}"}),
        (TypeError, "callbacks holds 1", make, {"callbacks": [1]}),
        (ValueError, "threads is 0", make, {"threads": 0}),
        (ValueError, "epochs is 0", make, {"epochs": 0}),
        (ValueError, "give validation_data or", lambda: make(2) + make(1, dropout=0.1), {"patience": 1}),
        (ValueError, "X has 4 columns; this network takes 5", lambda: make(2) + make(1, sizes=(5, 3)), {}),
        (ValueError, "y holds 2 in row 6", lambda: make(2) + make(1, sizes=(4, 2)), {}),
    ],
)
def test_arguments_are_checked_and_nothing_is_changed(
    error: type[Exception], message: str, trainers: Any, arguments: dict[str, Any]
) -> None:
    found = trainers()
    before = [
        (t, t.network.parameters.copy()) for t in (found if isinstance(found, list) else []) if isinstance(t, Trainer)
    ]
    with pytest.raises(error, match=message):
        fit_many(found, X, Y, **{"epochs": 2, **arguments})
    for trainer, parameters in before:
        assert trainer.network.parameters.tobytes() == parameters.tobytes()
        assert trainer.history.epochs == 0


def test_errors_of_one_trainer_name_it() -> None:
    trainers = make()
    trainers[2].network.parameters[3] = np.nan
    with pytest.raises(ValueError, match="NaN") as caught:
        fit_many(trainers, X, Y, 2)
    assert "trainers[2]" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="columns") as caught:
        fit_many(make(1) + make(1, sizes=(5, 3)), X, Y, 2)
    assert "trainers[1]" in caught.value.__notes__[0]


@pytest.mark.compiled
def test_kernels_are_compiled_where_ctrl_c_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another thread their compilation would go on to its end."""
    found = []

    def interrupted(kernels: Any, dtype: Any, later: Any) -> None:
        found.append(threading.current_thread())
        raise KeyboardInterrupt

    monkeypatch.setattr("fastnet.fit_session.compile_side_by_side", interrupted)
    trainers = make()
    with pytest.raises(KeyboardInterrupt):
        fit_many(trainers, X, Y, 1)
    assert found == [threading.main_thread()]
    assert [trainer.history.epochs for trainer in trainers] == [0, 0, 0]


def test_trainers_are_in_fit_meanwhile() -> None:
    trainers = make()

    def nested(row: dict[str, float]) -> None:
        for again in (trainers[0].fit, lambda *a: fit_many(trainers[:1], *a)):
            with pytest.raises(RuntimeError, match="already in fit"):
                again(X, Y, 1)

    fit_many(trainers, X, Y, 1, callbacks=[nested])
    trainers[0].fit(X, Y, 1)
