"""SyncedArray: an array on the host whose newest values may be on a device."""

import math
import threading
from collections.abc import Callable
from typing import Any

from .backend import Array


class SyncedArray:
    """An array on the host, and the vector on a device that has its newest values, if one does; as in Caffe.

    At any moment one side owns the values. `host` makes it the host: whoever gets the array may write to it, so what
    the device has does not count any more. A backend that trains on a device makes it the device, by `move`. Any thread
    may ask for `host` at any time; `move` is for the one that trains.

    Parameters
    ----------
    memory : ndarray
        The host's, which stays the same.

    Attributes
    ----------
    memory : ndarray
        As given, whoever owns the values: for its address, shape and dtype.
    device : device array or None
        A vector that begins with the elements in C order; None where the host owns the values.
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
        """The array with the newest values, which the host owns from now on.

        Raises
        ------
        RuntimeError
            If the device does not give them back.
        """
        if self.device is not None:
            with self._lock:
                if self.device is not None:  # of several threads, the first fetches
                    shape = self.memory.shape
                    self.memory[...] = _fetched(self.device)[: math.prod(shape)].reshape(shape)
                    self.device = None
        return self.memory

    def move(self, vector: Any, copy: Callable[[], None]) -> None:
        """Make a device's vector the owner, once ``copy`` has written the newest values to it.

        Meanwhile no other thread fetches: it would get the old values, and then call them the newest.
        """
        with self._lock:
            copy()
            self.device = vector


def _fetched(vector: Any) -> Array:
    """Return a device's vector on the host."""
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
