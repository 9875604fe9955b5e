"""Random numbers as a function of (seed, purpose, index): initial weights, the order of rows, splits.

Imports NumPy only. Counter-based (Philox), so that no state is carried from epoch to epoch: the order of
epoch 17 is the same whether training ran through or was taken up again. Built on the raw 64-bit words,
which NumPy keeps stable across versions, and not on Generator's methods, which it may change.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

WEIGHTS, ORDER, SPLIT = range(3)
"""Purposes: the same seed gives unrelated numbers for each."""


def _words(seed: int, purpose: int, index: int, size: int) -> NDArray[np.uint64]:
    key = np.array([seed, (purpose << 48) | index], dtype=np.uint64)
    raw: Any = np.random.Philox(key=key).random_raw(size)
    return np.asarray(raw, dtype=np.uint64)


def uniform(seed: int, purpose: int, index: int, size: int) -> NDArray[np.float64]:
    """``size`` numbers in [0, 1), from the top 53 bits of each word."""
    return (_words(seed, purpose, index, size) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def symmetric(seed: int, purpose: int, index: int, shape: tuple[int, ...], limit: float) -> NDArray[np.float64]:
    """Numbers in [-limit, limit), of any shape."""
    return ((2 * uniform(seed, purpose, index, int(np.prod(shape))) - 1) * limit).reshape(shape)


def permutation(seed: int, purpose: int, index: int, size: int) -> NDArray[np.int64]:
    """0..size-1 in random order: the order that sorts random words, whose ties (1 in 2^64) keep theirs."""
    return np.argsort(_words(seed, purpose, index, size), kind="stable")
