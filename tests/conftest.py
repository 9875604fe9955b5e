"""Fixtures that all tests share."""

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a random generator that starts the same in each test."""
    return np.random.default_rng(0)
