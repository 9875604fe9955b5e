"""Scalar hyperbolic tangent, which LLVM vectorises in a loop."""

from typing import Any

import numpy as np

from ...jit.decorator import jit
from .bits import by_dtype, constant, pair, polynomial, power_of_two, with_sign
from .exp import LN2_HIGH, LN2_LOW, LOG2_E, ROUND_HALVED, Q
from .sigmoid import over_one_plus

# Above these, tanh rounds to 1.
_FLAT = pair(9.02, 19.1)
_NOTHING = np.float32(-0.0)  # LLVM removes its addition; adding 0.0 would turn -0.0 into 0.0


@jit(scalar=True)
def tanh(x: Any) -> Any:
    """Hyperbolic tangent: h / (1 + h) with h = (e^2|x| - 1) / 2, which is summed without cancellation."""
    a = abs(x)
    magic = by_dtype(x, ROUND_HALVED)
    t = a * constant(x, 2 * LOG2_E) + magic
    scale = power_of_two(t)
    n = t - magic
    coarse, fine = (a + a) - n * by_dtype(x, LN2_HIGH), n * by_dtype(x, LN2_LOW)
    r = coarse - fine
    lost = by_dtype(x, (_NOTHING, (coarse - r) - fine))  # only float64 needs it: 2.25 ulp without; float32 has 1.86
    h = scale * ((polynomial(r, by_dtype(r, Q)) * (r * r) + lost) + r) + (scale - constant(x, 0.5))
    y = constant(x, 1.0) if a > by_dtype(x, _FLAT) else over_one_plus(h)
    return with_sign(y, x)
