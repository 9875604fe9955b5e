"""verify."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .registry import Variant, from_host, prepare
from .specs.base import Array, SampleInput
from .specs.cases import Case
from .specs.operations import OP_SPECS

# ---------------------------------------------------------------------------------------- the check


class WrongKernelError(AssertionError):
    """A variant broke its operation's contract."""


def _copies(problem: SampleInput) -> list[Any]:
    """Copy a problem's arguments; a view that is not contiguous stays as it is, since nothing may write to it."""
    return [
        argument.copy() if isinstance(argument, np.ndarray) and argument.flags.c_contiguous else argument
        for argument in problem.arguments
    ]


def _widened(problem: SampleInput) -> list[Any]:
    """Copy the arguments with every float array in a wider dtype."""
    wider = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
    return [
        argument.astype(wider.get(argument.dtype, argument.dtype)) if isinstance(argument, np.ndarray) else argument
        for argument in problem.arguments
    ]


def check(variant: Variant, case: Case, dtype: DTypeLike, seed: int = 0) -> float:
    """Hold a variant against the oracle on one random problem.

    Parameters
    ----------
    variant : Variant
        What to check; it need not stand in the table.
    case : Case
        Sizes.
    dtype : dtype
        float32 or float64.
    seed : int, default 0
        Seed of the inputs.

    Returns
    -------
    float
        The worst error over all elements of all results, as a share of the contract's bound.

    Raises
    ------
    WrongKernelError
        If an element is off by more than the bound, or is not a number, or an input was changed.
    """
    contract = OP_SPECS[variant.operation]
    problem = prepare(variant.operation, case, dtype, seed)
    arguments, wide = _copies(problem), _widened(problem)
    pristine = [np.array(argument) for argument in problem.arguments]
    from_host(variant)(*arguments)
    contract.oracle(*wide)
    truths = tuple(wide[i] for i in problem.results)
    bounds = contract.bound(tuple(_widened(problem)), truths, float(np.finfo(np.dtype(dtype)).eps))
    where = f"{variant.operation}, variant {variant.name}, {np.dtype(dtype)}, case {case} ({case.why})"

    for i, (argument, before) in enumerate(zip(arguments, pristine, strict=True)):
        if i not in problem.results and not np.array_equal(argument, before):
            raise WrongKernelError(f"{where}: argument {i} is an input, but was changed")
    worst = 0.0
    for i, truth, bound in zip(problem.results, truths, bounds, strict=True):
        worst = max(worst, _worst_share(arguments[i], truth, bound, f"{where}: argument {i}"))
    return worst


def _worst_share(result: Array, truth: Array, bound: Array, where: str) -> float:
    """Worst ratio of error to bound; raises unless every element keeps within it (NaN does not)."""
    if truth.size == 0:
        return 0.0
    error = np.abs(np.where(result == truth, 0, result - truth))  # equal infinities differ by NaN
    right = error <= bound
    if not right.all():
        position = tuple(int(i) for i in np.argwhere(~right)[0])
        raise WrongKernelError(
            f"{where}: {np.sum(~right)} of {truth.size} elements are wrong, first at {position}: "
            f"{float(result[position])!r}, truth {float(truth[position])!r}, error allowed {bound[position]:.3g}"
        )
    share = np.divide(error, bound, out=np.zeros_like(error), where=bound > 0)
    return float(share.max())
