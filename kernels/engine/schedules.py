"""Learning rates over time, as factors of the base rate.

Imports NumPy only. Time is counted in epochs, and may be a fraction: a step in the middle of epoch 3 is at 3.5.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def step_times(epoch: int, steps: int) -> Array:
    """The middle of each of an epoch's steps, so that a warm-up's first rate is not 0."""
    return epoch + (np.arange(steps) + 0.5) / steps


def step_decay(time: Array, every: float, factor: float) -> Array:
    """factor^floor(time / every)."""
    return factor ** np.floor(time / every)


def cosine_decay(time: Array, epochs: float, final: float) -> Array:
    """From 1 at time 0 along half a cosine to ``final`` at ``epochs``, and ``final`` after that.

    Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    return final + (1 - final) * (1 + np.cos(np.pi * np.minimum(time / epochs, 1))) / 2


def warm_up(time: Array, epochs: float) -> Array:
    """Linear from 0 at time 0 to 1 at ``epochs``, and 1 after that."""
    return np.minimum(time / epochs, 1)
