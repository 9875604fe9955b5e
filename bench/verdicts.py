"""When two commits differ: the rule by which `compare` decides.

Imports the standard library only. Several sets of processes each give one ratio new over old, itself a median over
turns, and one ratio old over old, the control. A commit is slower where **every** set says so by more than a threshold:
the largest that the controls strayed from 1, half as much again, and at least FLOOR. So a single disturbed set can hide
a change, which measuring again will show, but cannot make one up.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

FLOOR = 0.03
"""Differences below 3% are not told from the luck of code's and memory's placement."""

MARGIN = 1.5


class Verdict(NamedTuple):
    """Whether new is slower, faster, or the same as old; by how much, and how much it takes."""

    word: str
    ratio: float
    threshold: float


def verdict(changes: Sequence[float], controls: Sequence[float]) -> Verdict:
    """Decide from ratios new / old and old / old, one of each a set of processes.

    Raises
    ------
    ValueError
        If there are fewer than two sets, or ratios that are no numbers above 0.
    """
    if len(changes) < 2 or len(changes) != len(controls):
        raise ValueError(f"{len(changes)} changes and {len(controls)} controls; expected as many, and at least 2")
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in (*changes, *controls)):
        raise ValueError("a ratio is not a number above 0")
    threshold = max(math.log1p(FLOOR), MARGIN * max(abs(math.log(ratio)) for ratio in controls))
    logs = [math.log(ratio) for ratio in changes]
    word = "slower" if min(logs) > threshold else "faster" if max(logs) < -threshold else "same"
    return Verdict(word, math.exp(statistics.median(logs)), math.expm1(threshold))
