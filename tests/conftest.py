"""Fixtures that all tests share, and the sampling of large grids."""

from itertools import count

import numpy as np
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but each n-th case of a test marked ``sampled(n)`` as exhaustive."""
    seen: dict[str, count[int]] = {}
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker is not None:
            function = item.nodeid.partition("[")[0]
            if next(seen.setdefault(function, count())) % marker.args[0]:
                item.add_marker(pytest.mark.exhaustive)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a random generator that starts the same in each test."""
    return np.random.default_rng(0)
