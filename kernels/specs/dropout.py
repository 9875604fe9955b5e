"""Dropout: which outputs of a hidden layer count in a training step (Srivastava et al. 2014).

An element is dropped where 32 bits, a function of (seed, step, layer, row of the batch, column), are below a threshold.
So the mask depends on neither threads nor ranks nor backends, the backward pass makes it anew instead of storing it,
and a run that is resumed goes on with it. Outputs that stay are multiplied by 1 / (1 - rate), and prediction does
nothing.

The functions work on one number, an unsigned one of 64 bits that holds 32; the CPU and CUDA compile them, and Python's
integers will do. `reference` states them a second time, in NumPy.
"""

import math
from collections.abc import Callable
from typing import Any

START = 0x9E3779B9
"""What the words are folded into first."""


def mixed(word: Any) -> Any:
    """Return 32 bits each of which depends on all 32 bits of a word; no two words give the same.

    Source: Wellons 2018, "Prospecting for Hash Functions", lowbias32. A counter-based generator of ten rounds would
    take as long as a twentieth of a training step.
    """
    unsigned = type(word)
    low = unsigned(0xFFFFFFFF)
    word = ((word ^ (word >> unsigned(16))) * unsigned(0x7FEB352D)) & low
    word = ((word ^ (word >> unsigned(15))) * unsigned(0x846CA68B)) & low
    return word ^ (word >> unsigned(16))


def folding(mixed: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Return what makes a key of 32 bits from another and a word of 64; ``mixed`` is the function above, compiled."""

    def folded(key: Any, word: Any) -> Any:
        unsigned = type(word)
        return mixed(mixed(key ^ (word & unsigned(0xFFFFFFFF))) ^ (word >> unsigned(32)))

    return folded


def seed_key(seed: int) -> int:
    """Return the key into which step, layer and row are folded."""
    return int(folding(mixed)(START, seed))


def threshold(rate: float) -> int:
    """Return below which of 2^32 numbers an element is dropped."""
    return math.ceil(rate * 2**32)


def scale(rate: float) -> float:
    """Return what the other elements are multiplied by."""
    return 1 / (1 - rate)
