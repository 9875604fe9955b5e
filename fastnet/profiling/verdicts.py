"""Decides whether two measurements differ; used by bench/compare.py for commits, and by `baseline` for two runs.

Several sets, of processes or of rounds, each give one ratio new over old, itself a median over turns, and one ratio of
equal code, the control. New is slower if **every** set says so by more than a threshold: 1.5 times the largest
deviation of a control from 1, but at least a floor. So a single disturbed set can hide a change, which a second
measurement will show, but cannot cause a false one.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

FLOOR = 0.03
"""Differences below 3% cannot be told from effects of the placement of code and memory."""

MARGIN = 1.5


class Verdict(NamedTuple):
    """Whether new is slower or faster than old, or the same; the ratio, and the threshold."""

    word: str
    ratio: float
    threshold: float


def verdict(changes: Sequence[float], controls: Sequence[float], floor: float = FLOOR) -> Verdict:
    """Decide from ratios new / old and old / old, one of each per set; differences below the floor do not count.

    Raises
    ------
    ValueError
        If there are fewer than two sets, or a ratio is not a number above 0.
    """
    if len(changes) < 2 or len(changes) != len(controls):
        raise ValueError(f"{len(changes)} changes and {len(controls)} controls; expected as many, and at least 2")
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in (*changes, *controls)):
        raise ValueError("a ratio is not a number above 0")
    threshold = max(math.log1p(floor), MARGIN * max(abs(math.log(ratio)) for ratio in controls))
    logs = [math.log(ratio) for ratio in changes]
    word = "slower" if min(logs) > threshold else "faster" if max(logs) < -threshold else "same"
    return Verdict(word, math.exp(statistics.median(logs)), math.expm1(threshold))
