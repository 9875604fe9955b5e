"""DeviceData: the rows that steps read, on the device, and how they get there.

Arrays are copied once. The parts of a memory map take turns in the two halves of one vector: a part is copied, from
pinned memory and on a stream of its own, while steps still read the part before it; those over the part before that,
which was in the same half, must be done. Steps get the same vectors for every part, so a step that was captured as a
graph serves them all.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..engine.backend import Array
from ..jit.decorator import jit
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


def send_to(array: Array, vector: Any) -> None:
    """Copy a host array, flattened, to the front of a device vector of its dtype, after all steps launched so far."""
    if array.size:
        vector[: array.size].copy_to_device(np.ascontiguousarray(array).reshape(-1))


@jit
def settle(kept: tuple[Array, Array, Array, Array], new: tuple[Array, Array, Array, Array]) -> None:
    """Write everything that came back, in one compiled call: no KeyboardInterrupt comes in between.

    Parameters
    ----------
    kept, new : tuple of ndarray
        Parameters (P,), state (vectors, P), PROGRESS (1,), TOTALS (1,): the host's arrays, and what they become.
    """
    kept[0][:] = new[0]
    kept[1][:, :] = new[1]
    kept[2][:] = new[2]
    kept[3][:] = new[3]


def _purpose(name: str) -> str:
    """Return the end of the message of a MemoryError."""
    return f"{name}; train on parts of it, or on the CPU"
