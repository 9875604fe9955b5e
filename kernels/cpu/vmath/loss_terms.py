"""Losses of one element that a plain loop vectorises: ``(z, y) -> (loss, derivative with respect to z)``.

Here stand those whose spec calls `math`; the others are vectorised as their specs give them.
"""

from typing import Any

from ...jit.decorator import jit
from .bits import constant
from .exp import exp_nonpositive
from .log import log1p_unit


@jit(scalar=True)
def binary_cross_entropy(z: Any, y: Any) -> Any:
    """max(z, 0) - z y + log(1 + exp(-|z|)), and sigmoid(z) - y, of which 1 - y is exact where z > 0."""
    zero, one = constant(z, 0.0), constant(z, 1.0)
    e = exp_nonpositive(-abs(z))
    q = e / (one + e)  # sigmoid(-|z|)
    positive = z > zero
    value = ((z if positive else zero) - z * y) + log1p_unit(e)
    return value, ((one - y) - q if positive else q - y)
