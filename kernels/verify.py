"""The check that every variant must pass: each element within its operation's bound of the true value."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .reference.oracle import oracle
from .registry import Variant, from_host, prepare
from .specs.base import Array, Case, SampleInput
from .specs.operations import OP_SPECS


class WrongKernelError(AssertionError):
    """A variant broke the contract of its operation."""


def _copies(sample: SampleInput) -> list[Any]:
    """Copy the arguments; a view that is not contiguous stays as it is, since no variant writes to it."""
    return [
        argument.copy() if isinstance(argument, np.ndarray) and argument.flags.c_contiguous else argument
        for argument in sample.arguments
    ]


def _widened(sample: SampleInput) -> list[Any]:
    """Copy the arguments with every float array in a wider dtype."""
    wider = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
    return [
        argument.astype(wider.get(argument.dtype, argument.dtype)) if isinstance(argument, np.ndarray) else argument
        for argument in sample.arguments
    ]


def check(variant: Variant, case: Case, dtype: DTypeLike, seed: int = 0) -> float:
    """Compare a variant with the oracle on one random input.

    Parameters
    ----------
    variant : Variant
        What to check; it need not be in the table.
    case : Case
        Sizes.
    dtype : dtype
        float32 or float64.
    seed : int, default 0
        Seed of the inputs.

    Returns
    -------
    float
        The worst error over all elements of all results, as a ratio to the bound.

    Raises
    ------
    WrongKernelError
        If an element is off by more than the bound, or is not a number, or an input was changed.
    """
    spec = OP_SPECS[variant.operation]
    sample = prepare(variant.operation, case, dtype, seed)
    arguments, wide = _copies(sample), _widened(sample)
    pristine = [np.array(argument) for argument in sample.arguments]
    from_host(variant)(*arguments)
    oracle(spec)(*wide)
    expected = tuple(wide[i] for i in sample.results)
    bounds = spec.bound(tuple(_widened(sample)), expected, float(np.finfo(np.dtype(dtype)).eps))
    where = f"{variant.operation}, variant {variant.name}, {np.dtype(dtype)}, case {case} ({case.why})"

    for i, (argument, before) in enumerate(zip(arguments, pristine, strict=True)):
        if i not in sample.results and not np.array_equal(argument, before):
            raise WrongKernelError(f"{where}: argument {i} is an input, but was changed")
    worst = 0.0
    for i, true, bound in zip(sample.results, expected, bounds, strict=True):
        worst = max(worst, _worst_ratio(arguments[i], true, bound, f"{where}: argument {i}"))
    return worst


def _worst_ratio(result: Array, true: Array, bound: Array, where: str) -> float:
    """Worst ratio of error to bound; raises unless every element keeps within it (NaN does not)."""
    if true.size == 0:
        return 0.0
    error = np.abs(np.where(result == true, 0, result - true))  # equal infinities differ by NaN
    right = error <= bound
    if not right.all():
        position = tuple(int(i) for i in np.argwhere(~right)[0])
        raise WrongKernelError(
            f"{where}: {np.sum(~right)} of {true.size} elements are wrong, first at {position}: "
            f"{float(result[position])!r}, true {float(true[position])!r}, error allowed {bound[position]:.3g}"
        )
    ratio = np.divide(error, bound, out=np.zeros_like(error), where=bound > 0)
    return float(ratio.max())
