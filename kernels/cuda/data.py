"""DeviceData: copies to the device the rows that steps read; and functions that copy `SyncedArray`s.

Arrays are copied once. The parts of a memory map alternate between the two halves of one vector: a part is copied, from
pinned memory and on a separate stream, while steps still read the previous part; the steps over the part before that,
which was in the same half, must be done. Steps get the same vectors for every part, so one captured graph of a step
serves all parts.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..engine.backend import Array
from ..engine.synced import SyncedArray
from .device import cuda, empty
from .graph import side_stream


class DeviceData:
    """Copies of one engine's data; freed with it."""

    def __init__(self) -> None:
        self._copies: dict[str, tuple[Array | None, Any]] = {}  # arrays, and the device's copies of them
        self._halves: dict[str, tuple[Array, Any]] = {}  # pinned, and on the device
        self._rows, self._half = 0, 0  # rows of a half; the half that holds the last part
        self._read = cuda.event(), cuda.event()  # for each half: the steps over the last part in it are done
        self._stream: Any = None  # for the copies of parts
        self._wait: Callable[[], None]

    def copy(self, name: str, array: Array | None, dtype: Any, changes: bool = False) -> Any:
        """Return a vector on the device that begins with the elements of an array.

        Parameters
        ----------
        name : str
            A field of `StepArrays`; one copy is kept for each.
        array : ndarray or None
            Sent if it is not the array of the last call. None stands for an array that the steps will not read.
        dtype : dtype
            Dtype of the vector.
        changes : bool, default False
            Whether to send it even if it is the same array.

        Raises
        ------
        MemoryError
            If it does not fit on the card.
        """
        held, copy = self._copies.pop(name, (None, None))  # popped, since Ctrl-C may leave a partial copy
        size = 0 if array is None else array.size
        if copy is None or copy.size < size:
            copy = empty(size, dtype, _purpose(name))
        if array is not None and (changes or array is not held):
            send_to(array.astype(dtype, copy=False), copy)
        self._copies[name] = array, copy
        return copy

    def copy_rows(self, X: Array, y: Array, dtype: Any, whole: bool) -> tuple[dict[str, Any], int]:
        """Return ``X``, ``labels`` and ``targets`` of `StepArrays`, and the row in them at which X begins.

        Parameters
        ----------
        X, y : ndarray
            Rows, as passed to `CudaEngine.train`.
        dtype : dtype
            Of X and targets on the device.
        whole : bool
            Whether they are a whole epoch, kept for the next one; otherwise they are a part, see `copy_part`.

        Raises
        ------
        MemoryError
            If they do not fit on the card.
        """
        name, kind = ("labels", np.int64) if y.ndim == 1 else ("targets", dtype)
        if whole:
            data, begins = {"X": self.copy("X", X, dtype), name: self.copy(name, y, kind)}, 0
        else:
            part = {"X": X.astype(dtype, copy=False), name: y.astype(kind, copy=False)}
            data, begins = self.copy_part(part)
        absent, kind = ("targets", dtype) if y.ndim == 1 else ("labels", np.int64)
        return data | {absent: self.copy(absent, None, kind)}, begins

    def copy_part(self, arrays: Mapping[str, Array]) -> tuple[dict[str, Any], int]:
        """Copy a part of a memory map into the half that no step reads, once none does.

        The caller must call `mark_launched` after it has launched the steps over the part.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            By field of `StepArrays`; of the device's dtypes, and with the same number of rows.

        Returns
        -------
        vectors : dict of str to device array
            The same vectors for every part that is not larger than all earlier ones.
        row : int
            The row of the vectors at which the part begins.

        Raises
        ------
        MemoryError
            If two parts do not fit on the card.
        """
        rows = max(map(len, arrays.values()))
        # The first part, one larger than all earlier ones, or the first one with soft labels, or with integer labels.
        if rows > self._rows or not arrays.keys() <= self._halves.keys():
            cuda.synchronize()  # earlier steps may still read the old halves
            self._halves.clear()
            for name, array in arrays.items():
                size, purpose = 2 * array.size, _purpose(name)
                self._halves[name] = cuda.pinned_array(size, array.dtype), empty(size, array.dtype, purpose)
            self._rows = rows
            self._stream, self._wait = side_stream()
        self._half = 1 - self._half
        self._read[self._half].synchronize()
        for name, array in arrays.items():
            host, vector = self._halves[name]
            start = self._half * (host.size // 2)
            host, place = host[start : start + array.size], vector[start : start + array.size]
            host[...] = array.reshape(-1)
            place.copy_to_device(host, stream=self._stream)
        self._wait()
        return {name: vector for name, (_, vector) in self._halves.items()}, self._half * self._rows

    def mark_launched(self) -> None:
        """Record that all steps over the last part have been launched: its half is free once they are done."""
        self._read[self._half].record()


def move_to_device(array: SyncedArray) -> Any:
    """Return the device's vector of the newest values, and make the device their owner.

    Raises
    ------
    MemoryError
        If the values are on the host, and do not fit on the card.
    """
    vector = array.device  # read once: another thread may access the values on the host, which makes it None
    if vector is None:
        purpose = 'parameters and optimizer state; use a smaller network, or the CPU: backend="cpu"'
        vector = empty(array.memory.size, array.dtype, purpose)
        array.move(vector, partial(send_to, array.memory, vector))
    return vector


def copy_newest(array: SyncedArray, vector: Any) -> None:
    """Copy the newest values to the front of a device vector, over the bus only if the host owns them."""
    source = array.device
    if source is None:
        send_to(array.host, vector)
    else:
        copy_between(source, vector, array.memory.size)


def copy_between(source: Any, target: Any, size: int) -> None:
    """Copy the first elements of a device vector to the front of another, after all steps launched so far."""
    if size:
        target[:size].copy_to_device(source[:size])


def send_to(array: Array, vector: Any) -> None:
    """Copy a host array, flattened, to the front of a device vector of its dtype, after all steps launched so far."""
    if array.size:
        vector[: array.size].copy_to_device(np.ascontiguousarray(array).reshape(-1))


def _purpose(name: str) -> str:
    """Return the end of the message of a MemoryError."""
    return f"{name}; train on parts of it, or on the CPU"
