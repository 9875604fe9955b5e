"""DeviceData: the rows that steps read, on the device, and how they get there; and copies of a `SyncedArray`.

Arrays are copied once. The parts of a memory map take turns in the two halves of one vector: a part is copied, from
pinned memory and on a stream of its own, while steps still read the part before it; those over the part before that,
which was in the same half, must be done. Steps get the same vectors for every part, so a step that was captured as a
graph serves them all.
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
        self._rows, self._half = 0, 0  # of a half; the half that the last part is in
        self._read = cuda.event(), cuda.event()  # of each half: the steps over the last part in it are done
        self._stream: Any = None  # of the copies of parts
        self._wait: Callable[[], None]

    def copy(self, name: str, array: Array | None, dtype: Any, changes: bool = False) -> Any:
        """Return a vector on the device that begins with the elements of an array.

        Parameters
        ----------
        name : str
            A field of `StepArrays`, for each of which one copy is kept.
        array : ndarray or None
            Sent where it is another one than the last. None: an array that the steps will not read.
        dtype : dtype
            Of the vector.
        changes : bool, default False
            Whether to send it though it is the same array.

        Raises
        ------
        MemoryError
            If it does not fit the card.
        """
        held, copy = self._copies.pop(name, (None, None))  # of which Ctrl-C may leave a part
        size = 0 if array is None else array.size
        if copy is None or copy.size < size:
            copy = empty(size, dtype, _purpose(name))
        if array is not None and (changes or array is not held):
            send_to(array.astype(dtype, copy=False), copy)
        self._copies[name] = array, copy
        return copy

    def copy_rows(self, X: Array, y: Array, dtype: Any, whole: bool) -> tuple[dict[str, Any], int]:
        """Return ``X``, ``labels`` and ``targets`` of `StepArrays`, and the row of them that X begins with.

        Parameters
        ----------
        X, y : ndarray
            Rows as `CudaEngine.train` is given them.
        dtype : dtype
            Of X and targets on the device.
        whole : bool
            Whether they are a whole epoch's, kept for the next one; else a part, see `copy_part`.

        Raises
        ------
        MemoryError
            If they do not fit the card.
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

        After the launches of the steps over it, `mark_launched` must be called.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            By field of `StepArrays`; of the device's dtypes, and of as many rows each, which take turns in two halves.

        Returns
        -------
        vectors : dict of str to device array
            The same ones for every part that is not larger than those before.
        row : int
            The row of the vectors that the part begins with.

        Raises
        ------
        MemoryError
            If two parts do not fit the card.
        """
        rows = max(map(len, arrays.values()))
        # The first part, one larger than all before, or the first one whose labels are soft, or are not.
        if rows > self._rows or not arrays.keys() <= self._halves.keys():
            cuda.synchronize()  # the steps before may still read the old halves
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
        """Note that all steps over the last part have been launched: its half is free once they are done."""
        self._read[self._half].record()


def move_to_device(array: SyncedArray) -> Any:
    """Return the device's vector of the newest values, which the device owns from now on.

    Raises
    ------
    MemoryError
        If the values are on the host, and do not fit the card.
    """
    vector = array.device  # read once: another thread may look at the values, and make it None
    if vector is None:
        purpose = 'parameters and optimizer state; use a smaller network, or the CPU: backend="cpu"'
        vector = empty(array.memory.size, array.dtype, purpose)
        array.move(vector, partial(send_to, array.memory, vector))
    return vector


def copy_newest(array: SyncedArray, vector: Any) -> None:
    """Copy the newest values to the front of a device vector, over the bus only where the host owns them."""
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
