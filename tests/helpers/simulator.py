"""What tests of the CUDA kernels in Numba's simulator share; `test_cuda.py` runs them in a process of their own.

The simulator is the one inside Numba: it is deprecated there, but needs nothing installed, and numba-cuda would bring
some 70 MB. Tiles shrink to 16 x 16 x 4 and 8 x 8 x 2 with two elements a load.
"""

import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numba.cuda.simulator import kernelapi

from fastnet import Network, Trainer, dataset
from fastnet.kernels.cuda import engine as cuda_engine
from fastnet.kernels.cuda.device import SIMULATED
from fastnet.kernels.specs.losses import LOSSES

assert SIMULATED, "run by test_cuda.py, with NUMBA_ENABLE_CUDASIM=1"


class _Allocations(dict[Any, Any]):
    """A block's shared arrays. Numba looks one up, then stores it: in between, no other thread may do so as well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def get(self, place: Any, default: Any = None) -> Any:
        """Return the array of a place in the source; without one, its place is taken until it is stored."""
        if (found := super().get(place)) is None:
            self._lock.acquire()
            if (found := super().get(place)) is not None:
                self._lock.release()
        return found

    def __setitem__(self, place: Any, array: Any) -> None:
        super().__setitem__(place, array)
        self._lock.release()


_simulated = kernelapi.FakeCUDAShared.__init__


def _with_lock(shared: Any, size: int) -> None:
    _simulated(shared, size)
    shared._allocations = _Allocations()


kernelapi.FakeCUDAShared.__init__ = _with_lock

TENSOR = "cuda_tf32x3"
"""The variant whose smallest tile is 64 x 32, and whose threads wait for one another often, so it gets few cases."""

ROWS, BATCH, SIZES = 20, 9, [5, 9, 3]  # batches of 9, 9 and 2 rows: beyond a tile, and a short one
X = np.random.default_rng(0).standard_normal((ROWS, SIZES[0]))


def targets_for(loss: str) -> Any:
    """Return targets for X: labels, zeros and ones, or any numbers, as the loss takes them."""
    if LOSSES[loss].takes_labels:
        return np.arange(ROWS) % SIZES[-1]
    values = np.sin(np.arange(float(ROWS * SIZES[-1]))).reshape(ROWS, -1)
    return (values > 0).astype(float) if LOSSES[loss].unit_targets else values


def new_trainer(backend: str, loss: str, optimizer: Any, hidden: str, **options: Any) -> Trainer:
    """Return a Trainer of a float64 network for X, which starts the same on each backend."""
    network = Network(SIZES, hidden=hidden, dtype="float64", seed=1)
    return Trainer(network, loss=loss, optimizer=optimizer, batch_size=BATCH, backend=backend, **options)


def residency(flag: bool) -> Any:
    """Return a context in which one block runs a whole epoch, or each step is launched."""
    return mock.patch.object(cuda_engine, "RESIDENT_FLOPS", 10**9 if flag else 0)


def memory_map(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return X as a memory map, whose parts have BATCH rows."""
    monkeypatch.setattr(dataset, "PART_BYTES", 1)
    monkeypatch.setattr(dataset, "MICRO_BATCH_ROWS", BATCH)
    mapped = np.memmap(path / "X", np.float64, "w+", shape=X.shape)
    mapped[...] = X
    return mapped
