"""Random numbers as functions of (seed, purpose, index): initial weights, the order of rows, splits.

They are counter-based, so no state is carried from epoch to epoch: the order of epoch 17 is the same whether training
ran without a break or was resumed. Weights and splits use Philox's raw 64-bit words, which NumPy keeps stable across
versions, not Generator's methods, which it may change. The order of an epoch's rows comes from a compiled SplitMix64
(Steele, Lea and Flood 2014; docs/performance-notes/engine.md).

Seeds are integers from 0 to 2^64 - 1; indices are integers from 0 to 2^48 - 1.
"""

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ..jit.call_by_address import by_address
from ..jit.decorator import jit

WEIGHTS, _, SPLIT = range(3)
"""Purposes: each gets unrelated numbers from the same seed."""


def _words(seed: int, purpose: int, index: int, size: int) -> NDArray[np.uint64]:
    """Return ``size`` random 64-bit words, shape (size,)."""
    key = np.array([seed, (purpose << 48) | index], dtype=np.uint64)
    raw: Any = np.random.Philox(key=key).random_raw(size)
    return np.asarray(raw, dtype=np.uint64)


def uniform(seed: int, purpose: int, index: int, size: int) -> NDArray[np.float64]:
    """Return float64 numbers (size,) in [0, 1), from the top 53 bits of each word."""
    return (_words(seed, purpose, index, size) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def symmetric(seed: int, purpose: int, index: int, shape: tuple[int, ...], limit: float) -> NDArray[np.float64]:
    """Return float64 numbers in [-limit, limit), of a given shape."""
    return ((2 * uniform(seed, purpose, index, int(np.prod(shape))) - 1) * limit).reshape(shape)


def permutation(seed: int, purpose: int, index: int, size: int) -> NDArray[np.int64]:
    """Return 0..size-1 in random order, int64 (size,): the order that stably sorts random words."""
    return np.argsort(_words(seed, purpose, index, size), kind="stable")


# ------------------------------------------------------------------------------------- order of rows

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@jit
def _mix(z: Any) -> Any:
    """Return SplitMix64's finalizer of z (uint64): each bit depends on all bits of z."""
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    return z ^ (z >> _31)


@by_address(lambda real: (types.Array(types.int64, 1, "C"), types.uint64, types.uint64))
@jit
def shuffle_rows(order: Any, seed: Any, index: Any) -> None:
    """Fill order, int64 (n,), with a permutation of 0..n-1; seed and index are uint64. See `shuffle`."""
    key = _mix(_mix(seed + _GOLDEN) + index * _GOLDEN)
    for i in range(order.size):
        order[i] = i
    for i in range(order.size - 1, 0, -1):
        word = _mix(key + np.uint64(i) * _GOLDEN)
        j = np.int64(word % np.uint64(i + 1))
        order[i], order[j] = order[j], order[i]


def shuffle(order: NDArray[np.int64], seed: int, epoch: int) -> None:
    """Fill ``order``, int64 (n,), with 0..n-1 in an order that depends on seed and epoch: Fisher and Yates' shuffle."""
    with np.errstate(over="ignore"):  # in plain Python; compiled integers wrap around silently
        shuffle_rows(order, np.uint64(seed), np.uint64(epoch))
