"""How many hostile trials run: a few by default, for a share of FASTNET_FUZZ_MINUTES minutes where that is set."""

import os
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

MINUTES = float(os.environ.get("FASTNET_FUZZ_MINUTES", "0"))
"""Minutes of the whole run; 0 for the usual few trials."""

SEED = int(os.environ.get("FASTNET_FUZZ_SEED", "0"))
"""Trial number i draws from the seed (SEED, i)."""

COUNTS: Counter[str] = Counter()
"""Trials by name, printed at the end of the run."""

SHARES: dict[str, float] = {}
"""The share of the minutes that each name has claimed; together they are 1 at most."""


def trials(name: str, usual: int, share: float) -> Iterator[tuple[int, np.random.Generator]]:
    """Yield the number of each trial, which reproduces it, and its random generator.

    Parameters
    ----------
    name : str
        Under which they are counted.
    usual : int
        How many by default.
    share : float
        The share of the minutes that they take in a long run.
    """
    SHARES[name] = share
    assert sum(SHARES.values()) < 1 + 1e-9, SHARES
    end, number = time.monotonic() + 60 * MINUTES * share, 0
    while number < usual or (MINUTES and time.monotonic() < end):
        yield number, np.random.default_rng((SEED, number))
        COUNTS[name] += 1
        number += 1
