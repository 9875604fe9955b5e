"""Dropout in NumPy: the oracle of its masks."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def mask(rate: float, seed: int, step: int, layer: int, rows: range, columns: int) -> Array:
    """Return a bool mask (len(rows), columns), true for kept outputs, for some rows of the batch of a step."""
    keys = np.full((1, 1), 0x9E3779B9, np.uint32)
    for words in ([seed], [step], [layer], list(rows)):
        low, high = np.divmod(np.array(words, np.uint64)[:, None], 2**32)[::-1]
        keys = _mixed(_mixed(keys ^ low.astype(np.uint32)) ^ high.astype(np.uint32))
    bits: Array = _mixed(keys ^ np.arange(columns, dtype=np.uint32))
    return bits >= rate * 2**32


def _mixed(x: Array) -> Array:
    """Hash uint32 values; their products wrap around."""
    x = (x ^ x >> 16) * np.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * np.uint32(0x846CA68B)
    return x ^ x >> 16


def drop(rate: float, mask: Array) -> Callable[[Array], Array]:
    """Return a function that multiplies outputs, or the gradient with respect to them, by mask / (1 - rate)."""
    return lambda A: np.where(mask, A * A.dtype.type(1 / (1 - rate)), A.dtype.type(0))
