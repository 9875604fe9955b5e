"""When two measurements differ: the rule by which bench/compare.py decides of commits, and `baseline` of two runs.

Several sets, of processes or of rounds, each give one ratio new over old, itself a median over turns, and one ratio of
equal code, the control. New is slower where **every** set says so by more than a threshold: the largest that the
controls strayed from 1, half as much again, and at least a floor. So a single disturbed set can hide a change, which
measuring again will show, but cannot make one up.
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


def verdict(changes: Sequence[float], controls: Sequence[float], floor: float = FLOOR) -> Verdict:
    """Decide from ratios new / old and old / old, one of each a set; smaller differences than the floor are none.

    Raises
    ------
    ValueError
        If there are fewer than two sets, or ratios that are no numbers above 0.
    """
    if len(changes) < 2 or len(changes) != len(controls):
        raise ValueError(f"{len(changes)} changes and {len(controls)} controls; expected as many, and at least 2")
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in (*changes, *controls)):
        raise ValueError("a ratio is not a number above 0")
    threshold = max(math.log1p(floor), MARGIN * max(abs(math.log(ratio)) for ratio in controls))
    logs = [math.log(ratio) for ratio in changes]
    word = "slower" if min(logs) > threshold else "faster" if max(logs) < -threshold else "same"
    return Verdict(word, math.exp(statistics.median(logs)), math.expm1(threshold))
