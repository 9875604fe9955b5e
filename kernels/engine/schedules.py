"""Learning-rate schedules, as factors of the base rate.

Times are float64 arrays of any shape, counted in epochs from 0: a step in the middle of epoch 3 is at 3.5. Factors are
float64 of the same shape.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def step_times(epoch: int, steps: int) -> Array:
    """Return the midpoints of an epoch's steps, shape (steps,); midpoints, so that a warm-up's first rate is not 0."""
    return epoch + (np.arange(steps) + 0.5) / steps


def step_decay(time: Array, every: float, factor: float) -> Array:
    """Return factor^floor(time / every); ``every`` is in epochs."""
    return factor ** np.floor(time / every)


def cosine_decay(time: Array, epochs: float, final: float) -> Array:
    """Return 1 at time 0, then half a cosine down to ``final`` at ``epochs``, and ``final`` after that.

    Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    return final + (1 - final) * (1 + np.cos(np.pi * np.minimum(time / epochs, 1))) / 2


def warm_up(time: Array, epochs: float) -> Array:
    """Return 0 at time 0, rising linearly to 1 at ``epochs``, and 1 after that."""
    return np.minimum(time / epochs, 1)
