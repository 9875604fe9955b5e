"""SyncedArray: an array on the host whose newest values may be on a device."""

import math
import threading
from collections.abc import Callable
from typing import Any

from .backend import Array


class SyncedArray:
    """An array on the host and, if a device has newer values, the device's vector; as Caffe's SyncedMemory.

    At any moment one side owns the values. Reading `host` makes the host the owner: the caller may write to the array,
    so the device's values no longer count. A backend that trains on a device makes the device the owner, by `move`. Any
    thread may read `host` at any time; only the thread that trains may call `move`.

    Parameters
    ----------
    memory : ndarray
        The host's array, which is never replaced.

    Attributes
    ----------
    memory : ndarray
        As given, possibly with old values: for its address, shape and dtype.
    device : device array or None
        A vector that begins with the elements in C order; None if the host owns the values.
    """

    device: Any

    def __init__(self, memory: Array) -> None:
        self.memory, self.device = memory, None
        self._lock = threading.Lock()

    @property
    def dtype(self) -> Any:
        """The dtype of the elements."""
        return self.memory.dtype

    @property
    def host(self) -> Array:
        """The array with the newest values; from now on the host owns them.

        Raises
        ------
        RuntimeError
            If they cannot be copied from the device.
        """
        if self.device is not None:
            with self._lock:
                if self.device is not None:  # another thread may have fetched them meanwhile
                    shape = self.memory.shape
                    self.memory[...] = _fetched(self.device)[: math.prod(shape)].reshape(shape)
                    self.device = None
        return self.memory

    def move(self, vector: Any, copy: Callable[[], None]) -> None:
        """Call ``copy``, which writes the newest values to a device's vector, and make that vector the owner.

        The lock keeps other threads from reading `host` meanwhile: they would take old values for the newest.
        """
        with self._lock:
            copy()
            self.device = vector


def _fetched(vector: Any) -> Array:
    """Copy a device's vector to the host."""
    try:
        found: Array = vector.copy_to_host()
    except MemoryError:  # the host's
        raise
    except Exception as error:  # the driver's own class
        raise RuntimeError(
            f"the GPU does not give back what was trained there ({error}). A process that was forked cannot use the "
            "parent's GPU: look at net.parameters before forking, which fetches them. After an error of the GPU all "
            "that was trained since somebody last looked at net.parameters is lost; fit(..., checkpoint=path) keeps it "
            "in a file"
        ) from error
    return found
