"""DeviceBestState: the counterpart of `BestState` for parameters and optimizer state on the device."""

import math
from functools import partial

import numpy as np

from ..engine.backend import Array
from ..engine.synced import SyncedArray
from .data import copy_between, move_to_device
from .device import empty, enqueue
from .steps import THREADS, finite_kernel
from .variants import blocks


class DeviceBestState:
    """Keeps the best state so far on the device, and how many epochs ago it was, like `engine.epochs.BestState`.

    The state crosses the bus only if `arrays` is read; `is_finite` sends and fetches one number.

    Parameters
    ----------
    parameters, vectors : SyncedArray
        Of shapes (P,) and (vectors, P); they are moved to the device.
    step : ndarray of int64, shape (1,)

    Attributes
    ----------
    age : int
        Epochs since the best one.

    Raises
    ------
    MemoryError
        If the copies do not fit on the card.
    """

    def __init__(self, parameters: SyncedArray, vectors: SyncedArray, step: Array) -> None:
        self._now, self._step = (parameters, vectors), step
        sizes = [array.memory.size for array in self._now]
        purpose = 'the best parameters and optimizer state; use a smaller network, or the CPU: backend="cpu"'
        self._copies = [[empty(size, parameters.dtype, purpose) for size in sizes] for _ in range(2)]
        self._steps = [0, 0]
        self._found = empty(1, np.int64)
        self._value, self.age, self._best = math.inf, 0, 1
        self.snapshot()
        self._best = 0

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The best parameters, state vectors and number of steps, fetched to the host."""
        shapes = [array.memory.shape for array in self._now]
        copies = zip(self._copies[self._best], shapes, strict=True)
        found = [copy.copy_to_host()[: math.prod(shape)].reshape(shape) for copy, shape in copies]
        return *found, np.array([self._steps[self._best]])

    def snapshot(self) -> None:
        """Copy the current state, in case it turns out to be the best."""
        other = 1 - self._best
        for copy, array in zip(self._copies[other], self._now, strict=True):
            copy_between(move_to_device(array), copy, array.memory.size)
        self._steps[other] = int(self._step[0])

    def update(self, value: float, of_snapshot: bool) -> None:
        """Record a loss: that of the snapshot, or of the current state."""
        self.age += 1
        if value < self._value:
            if not of_snapshot:
                self.snapshot()
            self._best, self._value, self.age = 1 - self._best, value, 0

    def is_finite(self) -> bool:
        """Return whether the current state is finite; an infinity in the optimizer's state would stay there forever."""
        self._found.copy_to_device(np.zeros(1, np.int64))
        for array in self._now:
            vector, size = array.device, array.memory.size
            if vector is not None:
                enqueue(finite_kernel, blocks(size), THREADS, vector, size, self._found)
            elif not np.isfinite(array.host).all():  # the host owns it after a callback has read it
                return False
        return not self._found.copy_to_host()[0]

    def restore(self) -> None:
        """Make the best state the current one."""
        for copy, array in zip(self._copies[self._best], self._now, strict=True):
            vector = move_to_device(array)
            array.move(vector, partial(copy_between, copy, vector, array.memory.size))
        self._step[0] = self._steps[self._best]
