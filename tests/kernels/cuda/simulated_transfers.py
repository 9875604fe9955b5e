"""What crosses the bus, and what the card's memory has no room for, in Numba's simulator.

`test_cuda.py` runs this file in a process with NUMBA_ENABLE_CUDASIM=1.
"""

from operator import is_
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from simulator import BATCH, ROWS, X, memory_map, new_trainer, residency, targets_for

from fastnet import SGD, Adam, Network, Trainer, dataset
from fastnet.kernels import matmul
from fastnet.kernels.cuda import engine as cuda_engine
from fastnet.kernels.cuda.device import cuda

# ------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("resident", [True, False])
def test_nothing_crosses_the_bus_inside_an_epoch(resident: bool) -> None:
    """No copy is made while steps run: the device array's own copies are forbidden then."""
    trainer = new_trainer("cuda", "cross_entropy", Adam(), "relu")
    array, step, steps = type(cuda.to_device(np.zeros(1))), cuda_engine.CudaEngine._step, []

    def refused(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a copy inside an epoch")

    def watched(self: Any, count: int, *rest: Any) -> None:
        steps.append(count)
        with mock.patch.object(array, "copy_to_host", refused), mock.patch.object(array, "copy_to_device", refused):
            step(self, count, *rest)

    with residency(resident), mock.patch.object(cuda_engine.CudaEngine, "_step", watched):
        trainer.fit(X, targets_for("cross_entropy"), epochs=1)
    assert sum(steps) == 3


def test_parts_of_a_memory_map_take_turns_in_fixed_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is copied on a stream of its own, while steps over the part before it may run, and to the same vectors."""
    ours, truth = (new_trainer("cuda", "mse", Adam(), "tanh") for _ in range(2))
    said: list[str] = []
    seen: list[Any] = []
    array, step = type(cuda.to_device(np.zeros(1))), cuda_engine.CudaEngine._step
    copy = array.copy_to_device

    def copied(self: Any, host: Any, stream: Any = 0) -> None:
        said.extend(["copy"] * (stream != 0))
        copy(self, host, stream)

    def stepped(self: Any, count: int, arrays: Any, trains: bool) -> None:
        said.append("steps")
        seen.append(arrays)
        step(self, count, arrays, trains)

    with residency(False):
        truth.fit(X, targets_for("mse"), epochs=2)
        with (
            mock.patch.object(array, "copy_to_device", copied),
            mock.patch.object(cuda_engine.CudaEngine, "_step", stepped),
            mock.patch.object(cuda, "synchronize", mock.Mock(side_effect=lambda: said.append("wait"))),
        ):
            ours.fit(memory_map(tmp_path, monkeypatch), targets_for("mse"), epochs=2)
    part = ["copy", "copy", "steps"]
    assert said == ["wait", *part * 3, "wait", *part * 3, "wait"]  # the first time, before the buffers are allocated
    assert all(all(map(is_, seen[0], each)) for each in seen), "a captured step would not serve all parts"
    np.testing.assert_array_equal(ours.network.parameters, truth.network.parameters)
    assert dict(ours.history) == dict(truth.history)


def test_a_half_is_overwritten_after_the_steps_that_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of each half is recorded after the launches over its part, and waited for before the next copy to it."""
    said: list[str] = []
    array, step = type(cuda.to_device(np.zeros(1))), cuda_engine.CudaEngine._step
    copy = array.copy_to_device

    class Event:
        made = 0

        def __init__(self) -> None:
            self.half, Event.made = Event.made, Event.made + 1

        def record(self) -> None:
            said.append(f"record {self.half}")

        def synchronize(self) -> None:
            said.append(f"wait {self.half}")

    def copied(self: Any, host: Any, stream: Any = 0) -> None:
        said.extend(["copy"] * (stream != 0))
        copy(self, host, stream)

    def stepped(*arguments: Any) -> None:
        said.append("steps")
        step(*arguments)

    mapped = memory_map(tmp_path, monkeypatch)
    with (
        mock.patch.object(cuda, "event", Event),
        mock.patch.object(array, "copy_to_device", copied),
        mock.patch.object(cuda_engine.CudaEngine, "_step", stepped),
    ):
        new_trainer("cuda", "mse", Adam(), "tanh").fit(mapped, targets_for("mse"), epochs=2)
    part = "wait {0}|copy|copy|steps|record {0}".format
    assert said == "|".join(map(part, (1, 0, 1, 0, 1, 0))).split("|")


def test_an_interruption_between_parts_keeps_whole_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, truth = (new_trainer("cuda", "mse", Adam(), "tanh") for _ in range(2))
    parts = dataset.Dataset.iter_chunks

    def cut(self: Any, *arguments: Any) -> Any:
        yield next(parts(self, *arguments))
        raise KeyboardInterrupt

    mapped = memory_map(tmp_path, monkeypatch)
    with mock.patch.object(dataset.Dataset, "iter_chunks", cut), pytest.raises(KeyboardInterrupt):
        ours.fit(mapped, targets_for("mse"), epochs=1)
    assert ours._state.progress["row"] == BATCH
    ours.fit(mapped, targets_for("mse"), epochs=1)
    truth.fit(X, targets_for("mse"), epochs=1)
    np.testing.assert_array_equal(ours.network.parameters, truth.network.parameters)


def test_parts_are_evaluated_as_the_whole() -> None:
    y = targets_for("cross_entropy")
    engine = new_trainer("cuda", "cross_entropy", Adam(), "relu")._build(BATCH)
    parts = [(X[i : i + BATCH], y[i : i + BATCH], None, i) for i in range(0, ROWS, BATCH)]
    assert engine.evaluate(parts, ROWS) == engine.evaluate([(X, y, None, 0)], ROWS)


# -------------------------------------------------------------------------------------------------- what does not fit

FULL = mock.Mock(side_effect=RuntimeError("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] ..."))


def test_a_batch_larger_than_a_part_of_a_memory_map_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "PART_BYTES", 1)
    X = np.memmap(tmp_path / "X", np.float32, "w+", shape=(1100, 2))
    trainer = Trainer(Network([2, 1]), batch_size=None, backend="cuda", shuffle=False)
    with pytest.raises(ValueError, match="takes a batch as one piece, and 1100 rows do not fit a part"):
        trainer.fit(X, np.zeros(1100), epochs=1)


def test_a_batch_that_does_not_fit_is_refused() -> None:
    trainer, allocate = new_trainer("cuda", "mse", SGD(0.05), "relu"), cuda.device_array

    def small_ones(size: int, dtype: Any) -> Any:
        return FULL() if size > 4 * trainer.network.parameters.size else allocate(size, dtype)

    with (
        mock.patch.object(cuda, "device_array", small_ones),
        pytest.raises(
            MemoryError, match=r"no memory left for 0 MiB of batches of 9 rows; use a smaller batch_size .*OUT_OF"
        ),
    ):
        trainer.fit(X, targets_for("mse"), epochs=1)


def test_data_that_do_not_fit_are_refused() -> None:
    allocate = cuda.device_array

    def all_but_x(size: int, dtype: Any) -> Any:
        return FULL() if size == X.size else allocate(size, dtype)

    trainer = new_trainer("cuda", "mse", SGD(0.05), "relu")
    with mock.patch.object(cuda, "device_array", all_but_x), pytest.raises(MemoryError, match=r"of X; train on parts"):
        trainer.fit(X, targets_for("mse"), epochs=1)


def test_an_array_that_does_not_fit_is_refused() -> None:
    with (
        mock.patch.object(cuda, "to_device", FULL),
        pytest.raises(MemoryError, match=r"no memory left .* of this array"),
    ):
        matmul(np.eye(2), np.eye(2), variant="cuda")
