"""Scalar losses that LLVM vectorises in a loop: ``(z, y) -> (loss, derivative with respect to z)``.

This module has those whose spec calls `math`; LLVM vectorises the others as their specs define them.
"""

from typing import Any

from ...jit.decorator import jit
from .bits import constant, with_sign
from .exp import exp_nonpositive, expm1_nonpositive
from .log import log1p_unit


@jit(scalar=True)
def binary_cross_entropy(z: Any, y: Any) -> Any:
    """max(z, 0) - z y + log(1 + exp(-|z|)), and sigmoid(z) - y: for z > 0 as (1 - y) - sigmoid(-z)."""
    zero, one = constant(z, 0.0), constant(z, 1.0)
    e = exp_nonpositive(-abs(z))
    q = e / (one + e)  # sigmoid(-|z|)
    positive = z > zero
    value = ((z if positive else zero) - z * y) + log1p_unit(e)
    return value, ((one - y) - q if positive else q - y)


@jit(scalar=True)
def log_cosh(z: Any, y: Any) -> Any:
    """log(cosh(d)) = |d| + log1p(m / 2) and |tanh(d)| = -m / (2 + m), with d = z - y and m = exp(-2 |d|) - 1."""
    d = z - y
    a = abs(d)
    m = expm1_nonpositive(-(a + a))
    return a + log1p_unit(constant(z, 0.5) * m), with_sign(-m / (constant(z, 2.0) + m), d)
