"""SyncedArray: an array on the host whose newest values may be on a device."""

import math
import threading
from typing import Any

from .backend import Array


class SyncedArray:
    """An array on the host, and the vector on a device that has its newest values, if one does; as in Caffe.

    At any moment one side owns the values. `host` makes it the host: whoever gets the array may write to it, so what
    the device has does not count any more. A backend that trains on a device makes it the device, by setting `device`.

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

    def __init__(self, memory: Array) -> None:
        self.memory, self.device = memory, None
        self._lock = threading.Lock()

    device: Any

    @property
    def dtype(self) -> Any:
        """The dtype of the elements."""
        return self.memory.dtype

    @property
    def host(self) -> Array:
        """The array with the newest values, which the host owns from now on."""
        if self.device is not None:
            with self._lock:
                if self.device is not None:  # of several threads, the first fetches
                    shape = self.memory.shape
                    self.memory[...] = self.device.copy_to_host()[: math.prod(shape)].reshape(shape)
                    self.device = None
        return self.memory
