"""Checkpoints and memory maps: resumed runs to the bit, kills at any moment, files that do not fit, data on disk."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnet import SGD, Adam, AdamW, CosineDecay, Network, StepDecay, Trainer, WarmUp, fit_many
from fastnet.dataset import Dataset
from fastnet.history import History
from fastnet.io import storage
from fastnet.io.checkpoint import load_history
from fastnet.kernels.engine import engine, numpy_engine, tuner
from fastnet.trainer import DivergenceWarning

X = np.random.default_rng(0).standard_normal((90, 4))
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)

TRAINERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": SGD(0.05)},
    "nesterov": {"optimizer": SGD(StepDecay(0.05, 4, 0.5), 0.9, nesterov=True), "clip_norm": 0.5},
    "adam": {"optimizer": Adam(0.01), "batch_size": None, "shuffle": False},
    "adamw": {"optimizer": AdamW(WarmUp(2, CosineDecay(0.02, 15))), "l2": 0.01, "seed": 5, "backend": "numpy"},
    "dropout": {"optimizer": Adam(0.01), "dropout": 0.3},
    "dropout in numpy": {"dropout": [0.3], "backend": "numpy"},
}


def trainer(name: str) -> Trainer:
    options = {"batch_size": 16, **TRAINERS[name]}
    return Trainer(Network([4, 7, 3], hidden="tanh", dtype="float64"), loss="cross_entropy", **options)


def is_compatible(one: Trainer, other: Trainer) -> bool:
    return (
        one.network.parameters.tobytes() == other.network.parameters.tobytes()
        and one._state.vectors.tobytes() == other._state.vectors.tobytes()
        and one._state.progress.tobytes() == other._state.progress.tobytes()
        and one.history == other.history
    )


def test_a_curve_that_holds_nothing_but_nan_is_kept() -> None:
    """Of a network that diverged in its first epoch; NaN beside numbers are epochs without validation."""
    curves = {"history.loss": np.array([3.0, 2.0]), "history.val_loss": np.array([np.nan, np.nan])}
    history = History()
    load_history(curves, {"curves": '["loss", "val_loss"]'}, history)
    assert history.monitor == "val_loss"
    np.testing.assert_array_equal(history["val_loss"], [np.nan, np.nan])


@pytest.mark.parametrize("name", TRAINERS)
def test_resumed_run_equals_an_uninterrupted_run(name: str, tmp_path: Path) -> None:
    """The second half in another process."""
    file = tmp_path / "run.safetensors"
    np.savez(tmp_path / "data.npz", X=X, y=LABELS)
    straight, first = trainer(name), trainer(name)
    straight.fit(X, LABELS, epochs=20, validation_split=0.2)
    first.fit(X, LABELS, epochs=10, validation_split=0.2, checkpoint=file)
    script = (
        "import sys, numpy as np\nfrom fastnet import Trainer\n"
        "data, t = np.load(sys.argv[2]), Trainer.resume(sys.argv[1])\n"
        "t.fit(data['X'], data['y'], epochs=10, validation_split=0.2, checkpoint=sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(file), str(tmp_path / "data.npz")], check=True)
    resumed = Trainer.resume(file)
    assert is_compatible(resumed, straight)
    assert repr(resumed) == repr(straight)
    assert resumed.network.predict_proba(X[:2]).shape == (2, 3)


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("calls", [3, 14, 18])
def test_resume_after_interruption_is_bit_identical(
    name: str, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after any step: the checkpoint that fit leaves behind holds the steps of the epoch it stopped in."""
    file = tmp_path / "run.safetensors"
    straight, ours = trainer(name), trainer(name)
    straight.fit(X, LABELS, epochs=24)
    left = [calls]

    def interrupted(run: Any) -> Any:
        def step(*arguments: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            run(*arguments)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(tuner, "CALL_S", 1e-12)
        patch.setattr(engine, "_FIRST_CALL_FLOPS", 1)
        patch.setattr(engine.training_step, "run", interrupted(engine.training_step.run))
        patch.setattr(numpy_engine.NumpyEngine, "_update", interrupted(numpy_engine.NumpyEngine._update))
        with pytest.raises(KeyboardInterrupt):
            ours.fit(X, LABELS, epochs=24, checkpoint=file)
    resumed = Trainer.resume(file)
    steps = 1 if resumed.batch_size is None else 6
    assert resumed.history.epochs == calls // steps
    resumed.fit(X, LABELS, epochs=24 - calls // steps)
    assert is_compatible(resumed, straight)


def test_resumed_fit_of_other_data_warns_once(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    trainer("adam").fit(X, LABELS, epochs=2, validation_split=0.2, checkpoint=file)
    resumed, rows = Trainer.resume(file), len(X)
    said = rf"it trained on {rows - rows // 5} rows, and this fit trains on {rows}; it had validation, and this fit has"
    with pytest.warns(UserWarning, match=said) as caught:
        resumed.fit(X, LABELS, epochs=1)
    assert [warning.filename for warning in caught] == [__file__]
    resumed.fit(X, LABELS, epochs=1)
    best = Trainer.resume(file, best=True)
    with pytest.warns(UserWarning, match=rf"it trained on {rows - rows // 5} rows, and this fit trains on 9; give fit"):
        best.fit(X[:9], LABELS[:9], epochs=1, validation_data=(X, LABELS))
    Trainer.resume(file).fit(X, LABELS, epochs=1, validation_split=0.2)
    one_of_many = Trainer.resume(file)
    with pytest.warns(UserWarning, match=said) as caught:
        fit_many([one_of_many], X, LABELS, 1)
    assert [warning.filename for warning in caught] == [__file__]
    one_of_many.fit(X, LABELS, epochs=1)


def test_checkpoint_holds_best_and_last_parameters(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    ours = trainer("adam")
    history = ours.fit(X[:20], LABELS[:20], epochs=150, validation_data=(X[20:], LABELS[20:]), checkpoint=file)
    assert history.best_epoch != history.epochs - 1, "it must overfit"
    best = Trainer.resume(file, best=True)
    assert best.evaluate(X[20:], LABELS[20:])["loss"] == min(history["val_loss"])
    assert is_compatible(Trainer.resume(file), ours)


def test_checkpoint_is_written_however_fit_ends(tmp_path: Path, rng: np.random.Generator) -> None:
    def fails(row: dict[str, float]) -> None:
        raise ZeroDivisionError

    ours = trainer("sgd")
    with pytest.raises(ZeroDivisionError):
        ours.fit(X, LABELS, epochs=3, callbacks=[fails], checkpoint=tmp_path / "a.safetensors")
    assert is_compatible(Trainer.resume(tmp_path / "a.safetensors"), ours)
    wild = Trainer(Network([4, 3], dtype="float64"), optimizer=SGD(1e9))
    with pytest.warns(DivergenceWarning):
        wild.fit(X, rng.standard_normal((90, 3)), epochs=50, checkpoint=tmp_path / "b.safetensors")
    assert np.isfinite(Trainer.resume(tmp_path / "b.safetensors").network.parameters).all()


def test_checkpoint_is_written_if_the_first_validation_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That comes before the first step."""
    file, straight, ours = tmp_path / "a.safetensors", trainer("adam"), trainer("adam")
    straight.fit(X, LABELS, epochs=2, validation_split=0.2)

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine.CpuEngine, "evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ours.fit(X, LABELS, epochs=2, validation_split=0.2, checkpoint=file)
    resumed = Trainer.resume(file)
    resumed.fit(X, LABELS, epochs=2, validation_split=0.2)
    assert is_compatible(resumed, straight)


@pytest.mark.parametrize("patience", [None, 3])
def test_checkpoint_survives_if_the_first_validation_fails(
    patience: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.safetensors"
    trainer("adam").fit(X, LABELS, epochs=2, validation_split=0.2, checkpoint=file)
    before = file.read_bytes()

    def fails(*arguments: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine.CpuEngine, "evaluate", fails)
        with pytest.raises(MemoryError):
            trainer("adam").fit(X, LABELS, epochs=2, validation_split=0.2, patience=patience, checkpoint=file)
    assert file.read_bytes() == before
    ours = trainer("sgd")
    ours.fit(X, LABELS, epochs=2, validation_split=0.2, patience=patience, checkpoint=file)
    assert is_compatible(Trainer.resume(file), ours), "a fit that trains replaces it"


def test_checkpoint_path_is_checked_before_training(tmp_path: Path) -> None:
    ours = trainer("sgd")
    with pytest.raises(OSError, match="there is no folder"):
        ours.fit(X, LABELS, checkpoint=tmp_path / "missing" / "a.safetensors")
    assert ours.history.epochs == 0


@pytest.mark.exhaustive
@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_checkpoint_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    """A model of 20 MB whose checkpoint, of 60 MB and more, is written again and again."""
    file = tmp_path / "run.safetensors"
    script = (
        "import sys, numpy as np\nfrom fastnet import Network, SGD, Trainer\nfrom fastnet.io import checkpoint\n"
        "checkpoint.SHARE = 1.0\n"
        "t = Trainer(Network([500, 3000, 1200, 10]), optimizer=SGD(1e-3, 0.9), batch_size=2)\n"
        "t.fit(np.ones((4, 500)), np.ones((4, 10)), epochs=10**6, checkpoint=sys.argv[1],\n"
        "      callbacks=[lambda row: print(row['epoch'], flush=True)])\n"
    )
    moments = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        resumed = Trainer.resume(file)
        assert resumed.network.parameters.nbytes > 20e6
        assert resumed.history.epochs >= 1
        assert np.isfinite(resumed.network.parameters).all()


@pytest.mark.parametrize(
    ("message", "arrays", "metadata"),
    [
        ("'optimizer.state' has shape", {"optimizer.state": np.zeros((2, 3))}, {}),
        ("'progress' is .* no training leaves", {"progress": np.full(7, -1)}, {}),
        ("'progress' is .* no training leaves", {"progress": np.array([0] * 6 + [2**62])}, {}),
        (
            "'progress' is .* no training leaves",
            {"progress": np.array([64, 64, 0, 0, 0, 10, 2])},
            {},
        ),  # beyond the rows
        ("'progress' is .* no training leaves", {"progress": np.array([32, 64, 0, 0, 0, 90, 2])}, {}),  # within a step
        ("lacks 'progress'", {"progress": None}, {}),
        ("holds NaN", {"optimizer.state": np.full((2, 59), np.nan)}, {}),
        ("curves of shapes", {"history.loss": np.zeros(3)}, {}),
        ("lacks 'history.loss'", {"history.loss": None}, {}),
        ("describes its trainer in a way", {}, {"trainer": "{}"}),
        ("describes its trainer in a way", {}, {"trainer": '{"optimizer": {"name": "eval"}}'}),
        ("unknown loss", {}, {"loss": "hinge"}),
    ],
)
def test_resume_rejects_inconsistent_checkpoints(
    message: str, arrays: dict[str, Any], metadata: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    trainer("adam").fit(X, LABELS, epochs=2, checkpoint=file)
    old_arrays, old_metadata = storage.read(file, "checkpoint")
    new = {name: array for name, array in {**old_arrays, **arrays}.items() if array is not None}
    storage.write(file, new, {**old_metadata, **metadata})
    with pytest.raises(ValueError, match=f"run.safetensors.*{message}"):
        Trainer.resume(file)


def test_resume_blames_the_file_for_invalid_settings(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    trainer("adam").fit(X, LABELS, epochs=1, checkpoint=file)
    arrays, metadata = storage.read(file, "checkpoint")
    told = {**json.loads(metadata["trainer"]), "batch_size": -4}
    storage.write(file, arrays, {**metadata, "trainer": json.dumps(told)})
    with pytest.raises(ValueError, match=r"run.safetensors: batch_size is -4"):
        Trainer.resume(file)


# ------------------------------------------------------------------------------------------ memory maps


def mapped(folder: Path, name: str, array: Any) -> Any:
    np.save(folder / f"{name}.npy", array)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


@pytest.mark.sampled(5)
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [7, 64, None])
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_memory_maps_train_bit_identically_to_arrays(
    backend: str,
    batch_size: int | None,
    shuffle: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    """In parts smaller than the data and than a batch; float64 on disk for a float32 network; weights; validation."""
    monkeypatch.setattr("fastnet.dataset.PART_BYTES", 1)
    rows = 3000
    x, y = rng.standard_normal((rows, 5)), rng.integers(0, 3, rows)
    runs = []
    for data in ((x, y), (mapped(tmp_path, "X", x), mapped(tmp_path, "y", y)), (mapped(tmp_path, "X", x), y)):
        options = {"batch_size": batch_size, "shuffle": shuffle, "backend": backend}
        ours = Trainer(Network([5, 6, 3]), "cross_entropy", Adam(), **options)
        ours.fit(*data, epochs=2, sample_weight=np.linspace(0, 1, rows), validation_split=0.2)
        runs.append((ours.network.parameters.tobytes(), dict(ours.history), ours.evaluate(*data)))
    assert runs[0] == runs[1] == runs[2]


def test_chunks_end_where_micro_batches_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fastnet.dataset.PART_BYTES", 1)
    x = mapped(tmp_path, "X", np.zeros((5000, 1), "float32"))
    data = Dataset(Network([1, 1]), "mse", x, np.zeros(5000))
    assert [chunk[-1] for chunk in data.iter_chunks(100)] == [0, 1000, 2000, 3000, 4000]
    assert [chunk[-1] for chunk in data.iter_chunks(2100)] == [0, 1024, 2048, 2100, 3124, 4148, 4200]


@pytest.mark.parametrize("shuffle", [True, False])
def test_memory_map_errors_name_the_row(shuffle: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    bad = rng.standard_normal((3000, 2))
    bad[1234, 1] = np.nan
    ours = Trainer(Network([2, 1]), shuffle=shuffle)
    with pytest.raises(ValueError, match="X holds NaN at row 1234, column 1"):
        ours.fit(mapped(tmp_path, "X", bad), np.zeros(3000), epochs=1)
    labels = np.zeros(3000, int)
    labels[77] = 5
    ours = Trainer(Network([2, 2]), "cross_entropy", shuffle=shuffle)
    with pytest.raises(ValueError, match="y holds 5 in row 77"):
        ours.fit(mapped(tmp_path, "X", np.zeros((3000, 2))), mapped(tmp_path, "y", labels), epochs=1)


def test_memory_map_shape_is_checked_first(tmp_path: Path) -> None:
    wide = mapped(tmp_path, "X", np.zeros((10, 3)))
    with pytest.raises(ValueError, match="X has 3 columns; this network takes 2"):
        Trainer(Network([2, 1])).fit(wide, np.zeros(10))
    with pytest.raises(ValueError, match="expected 10 rows, one for each of X"):
        Trainer(Network([3, 1])).fit(wide, np.zeros(9))


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be cut there")
@pytest.mark.parametrize("cut", ["X", "y"])
def test_memory_map_of_a_file_that_becomes_shorter_is_refused(cut: str, tmp_path: Path) -> None:
    """Reading beyond the end of the file would be a bus error, which ends the process."""
    x, y = mapped(tmp_path, "X", np.zeros((3000, 2))), mapped(tmp_path, "y", np.zeros((3000, 1)))
    ours = Trainer(Network([2, 1]))
    with pytest.raises(ValueError, match=rf"^{cut} is a memory map of .*, which has become shorter: 100 bytes where "):
        ours.fit(x[:2500], y[:2500], 3, callbacks=[lambda row: os.truncate(tmp_path / f"{cut}.npy", 100)])
    assert ours.history.epochs == 1


def test_parts_of_a_memory_map_are_small_where_targets_are_wide(tmp_path: Path) -> None:
    x = mapped(tmp_path, "X", np.zeros((5000, 1), "float32"))
    data = Dataset(Network([1, 5000]), "mse", x, np.broadcast_to(np.float32(0), (5000, 5000)))
    assert [chunk[-1] for chunk in data.iter_chunks(100)] == [0, 1000, 2000, 3000, 4000]
