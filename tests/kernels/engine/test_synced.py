"""SyncedArray: one side owns the values, whichever threads ask for them and whatever the device says."""

import threading
from typing import Any

import numpy as np
import pytest

from fastnet.kernels.engine.synced import SyncedArray


class Vector:
    """A device's vector, whose values are fetched only once `released` is set."""

    def __init__(self, values: Any, error: Exception | None = None) -> None:
        self._values, self._error = np.array(values, float), error
        self.asked, self.released = threading.Event(), threading.Event()

    def copy_to_host(self) -> Any:
        """Wait until it may."""
        found = self._values.copy()
        self.asked.set()
        assert self.released.wait(60)
        if self._error is not None:
            raise self._error
        return found


def test_what_is_trained_while_somebody_looks_is_not_lost() -> None:
    """A look before a step ends must not make the values from before it the newest."""
    array, before, after = SyncedArray(np.zeros((2, 2))), Vector(np.ones(5)), Vector(np.full(5, 2))
    array.move(before, lambda: None)
    looks = threading.Thread(target=lambda: array.host)
    looks.start()
    assert before.asked.wait(60)
    copied = list[bool]()
    trains = threading.Thread(target=array.move, args=(after, lambda: copied.append(True)))
    trains.start()
    trains.join(0.2)
    assert not copied, "nor may it fetch what is being written"
    before.released.set()
    after.released.set()
    looks.join()
    trains.join()
    assert array.device is after
    np.testing.assert_array_equal(array.host, np.full((2, 2), 2))
    assert array.device is None


def test_a_device_that_gives_nothing_back_says_what_to_do() -> None:
    array, vector = SyncedArray(np.zeros(3)), Vector(np.ones(3), OSError("CUDA_ERROR_NOT_INITIALIZED"))
    vector.released.set()
    array.move(vector, lambda: None)
    with pytest.raises(RuntimeError, match=r"CUDA_ERROR_NOT_INITIALIZED.*net.parameters before forking.*checkpoint="):
        array.host  # noqa: B018 - a look
    assert array.device is vector
    assert not array.memory.any()


def test_a_lack_of_the_hosts_memory_is_passed_on() -> None:
    array, vector = SyncedArray(np.zeros(3)), Vector(np.ones(3), MemoryError())
    vector.released.set()
    array.move(vector, lambda: None)
    with pytest.raises(MemoryError):
        array.host  # noqa: B018 - a look
