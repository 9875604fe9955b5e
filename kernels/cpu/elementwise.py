"""Makes elementwise kernels over vectors from scalar functions; checks vectors for NaN and infinity."""

import functools
from collections.abc import Callable
from math import isfinite
from typing import Any

from ..jit.decorator import jit
from ..specs.activations import FORMULAS


@functools.cache
def formula(name: str) -> Any:
    """Compile the spec's formula of an activation or a derivative, given its public name, for kernels to call."""
    return jit(scalar=True)(FORMULAS[name])


def elementwise(name: str, function: Callable[[Any], Any]) -> Any:
    """Make the kernel ``(x, out)``: out = function(x), elementwise over vectors of one length.

    Parameters
    ----------
    name : str
        Name of the kernel; must be unique, since the compile cache identifies the kernel by it.
    function : callable
        Compiled scalar function.

    Returns
    -------
    callable
        The caller allocates ``out``, which may be ``x``.
    """

    def kernel(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = function(x[i])

    return jit(named(name, kernel))


def named(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Set the name of a function made in a factory; call this before decorating it."""
    kernel.__name__ = kernel.__qualname__ = name
    return kernel


@jit
def all_finite(values: Any) -> bool:
    """Return whether a vector holds neither NaN nor infinity, in one pass (docs/performance-notes/variants.md)."""
    bad = 0
    for i in range(values.size):
        bad |= not isfinite(values[i])
    return bad == 0
