"""Dropout: selects the outputs of a hidden layer that a training step keeps (Srivastava et al. 2014).

An element is dropped if a 32-bit hash of (seed, step, layer, row of the batch, column) is below a threshold. So the
mask does not depend on threads, ranks or backends, the backward pass recomputes it instead of storing it, and a resumed
run continues with the same masks. Kept outputs are multiplied by 1 / (1 - rate); prediction applies no dropout.

The functions work on one number: 32 bits in an unsigned 64-bit integer. The CPU and CUDA compile them, and they accept
Python integers too. `reference` states them a second time, in NumPy.
"""

import math
from collections.abc import Callable
from typing import Any

START = 0x9E3779B9
"""Initial key, into which the words are folded."""


def mixed(word: Any) -> Any:
    """Hash a word of 32 bits to 32 bits, each of which depends on all bits of the word; no two words collide.

    Source: Wellons 2018, "Prospecting for Hash Functions", lowbias32. A counter-based generator of ten rounds would
    take a twentieth of the time of a training step.
    """
    unsigned = type(word)
    low = unsigned(0xFFFFFFFF)
    word = ((word ^ (word >> unsigned(16))) * unsigned(0x7FEB352D)) & low
    word = ((word ^ (word >> unsigned(15))) * unsigned(0x846CA68B)) & low
    return word ^ (word >> unsigned(16))


def folding(mixed: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a function that folds a 64-bit word into a 32-bit key; ``mixed`` is the function above, compiled."""

    def folded(key: Any, word: Any) -> Any:
        unsigned = type(word)
        return mixed(mixed(key ^ (word & unsigned(0xFFFFFFFF))) ^ (word >> unsigned(32)))

    return folded


def seed_key(seed: int) -> int:
    """Return the key into which step, layer and row are folded."""
    return int(folding(mixed)(START, seed))


def threshold(rate: float) -> int:
    """Return the threshold, of 2^32, below which an element is dropped."""
    return math.ceil(rate * 2**32)


def scale(rate: float) -> float:
    """Return the factor by which kept elements are multiplied."""
    return 1 / (1 - rate)
