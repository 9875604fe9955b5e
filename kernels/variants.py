"""THE table: every variant of every operation, in ladder order, and the check that each must pass.

Imports the rungs and the contracts. Tests, benchmarks and the training loop iterate over `TABLE` or look
up in it; adding a rung is one function and one line here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import activations, blocked, elementwise, loops, losses, parallel, simd
from ._jit import COMPILES
from .cases import Case
from .contracts import CONTRACTS
from .promises import Array, Problem

__all__ = [
    "CONTRACTS",
    "LADDER",
    "ON_DEVICE",
    "PROMOTED",
    "TABLE",
    "Case",
    "Variant",
    "WrongKernelError",
    "check",
    "find",
    "highest",
    "prepare",
    "variants",
]


@dataclass(frozen=True)
class Variant:
    """One implementation of an operation.

    Attributes
    ----------
    operation : str
        The public function's name; its contract is ``CONTRACTS[operation]``.
    name : str
        The rung.
    function : callable
        Called with the contract's arguments; fills the outputs among them.
    device : str
        Where the arrays must be.
    dtypes : tuple of str
        Which dtypes it takes.
    compiled : bool
        Whether it is made of vector instructions, and has no Python to fall back on.
    promoted_from : float
        From how much work on ``"auto"`` prefers it to lower rungs: floating-point operations of a product, elements of
        everything else. Infinite where a lower rung is always faster.
    """

    operation: str
    name: str
    function: Callable[..., Any]
    device: str = "cpu"
    dtypes: tuple[str, ...] = ("float32", "float64")
    compiled: bool = False
    promoted_from: float = 0


LARGE = 30_000_000
"""Floating-point operations of a product from which all threads pay. 256 cubed, 34 million, gains 1.9 on two cores, and
loses 0.01 where others want the second core; 128 cubed, 4 million, gains 1.3 to 1.8 and may lose 0.2."""

SEVERAL, SOME = 4000, 500
"""Elements from which vectors are worth a loss's scratch arrays, 1.5 us: mse, mae and huber take 0.7 ns an element in
plain loops, 0.3 here; the derivative of binary_cross_entropy 4 and 1.6."""

_ALL: tuple[Variant, ...] = (
    *(Variant(contract.operation, "reference", contract.oracle) for contract in CONTRACTS.values()),
    Variant("matmul", "loops", loops.matmul),
    Variant("dense_forward", "loops", loops.dense_forward),
    Variant("dense_backward_batch", "loops", loops.dense_backward_batch),
    Variant("identity", "loops", partial(loops.apply_activation, elementwise.IDENTITY)),
    Variant("identity_derivative", "loops", partial(loops.apply_derivative, elementwise.IDENTITY)),
    Variant("relu", "loops", partial(loops.apply_activation, elementwise.RELU)),
    Variant("relu_derivative", "loops", partial(loops.apply_derivative, elementwise.RELU)),
    Variant("tanh", "loops", partial(loops.apply_activation, elementwise.TANH)),
    Variant("tanh_derivative", "loops", partial(loops.apply_derivative, elementwise.TANH)),
    Variant("sigmoid", "loops", partial(loops.apply_activation, elementwise.SIGMOID)),
    Variant("sigmoid_derivative", "loops", partial(loops.apply_derivative, elementwise.SIGMOID)),
    Variant("leaky_relu", "loops", partial(loops.apply_activation, elementwise.LEAKY_RELU)),
    Variant("leaky_relu_derivative", "loops", partial(loops.apply_derivative, elementwise.LEAKY_RELU)),
    Variant("gelu", "loops", partial(loops.apply_activation, elementwise.GELU)),
    Variant("gelu_derivative", "loops", partial(loops.apply_derivative, elementwise.GELU)),
    Variant("silu", "loops", partial(loops.apply_activation, elementwise.SILU)),
    Variant("silu_derivative", "loops", partial(loops.apply_derivative, elementwise.SILU)),
    Variant("mse", "loops", loops.mse),
    Variant("mse_derivative", "loops", loops.mse_derivative),
    Variant("mae", "loops", loops.mae),
    Variant("mae_derivative", "loops", loops.mae_derivative),
    Variant("huber", "loops", loops.huber),
    Variant("huber_derivative", "loops", loops.huber_derivative),
    Variant("binary_cross_entropy", "loops", loops.binary_cross_entropy),
    Variant("binary_cross_entropy_derivative", "loops", loops.binary_cross_entropy_derivative),
    Variant("softmax", "loops", loops.softmax),
    Variant("cross_entropy", "loops", loops.cross_entropy),
    Variant("cross_entropy_derivative", "loops", loops.cross_entropy_derivative),
    Variant("accuracy", "loops", loops.accuracy),
    Variant("sgd_update", "loops", loops.sgd_update),
    Variant("adam_update", "loops", loops.adam_update),
    Variant("matmul", "blocked", blocked.matmul),
    Variant("dense_forward", "blocked", blocked.dense_forward),
    Variant("dense_backward_batch", "blocked", blocked.dense_backward_batch),
    Variant("matmul", "simd", simd.matmul, compiled=True),
    Variant("dense_forward", "simd", simd.dense_forward, compiled=True),
    Variant("dense_backward_batch", "simd", simd.dense_backward_batch, compiled=True),
    # identity, relu, leaky_relu and the updates are vectors already in `loops`: a copy here gained nothing. Their
    # derivatives there choose by the activation for each element: 27 us, not 1.6, for 16384.
    Variant("identity_derivative", "simd", partial(activations.apply_derivative, elementwise.IDENTITY), compiled=True),
    Variant("relu_derivative", "simd", partial(activations.apply_derivative, elementwise.RELU), compiled=True),
    Variant(
        "leaky_relu_derivative", "simd", partial(activations.apply_derivative, elementwise.LEAKY_RELU), compiled=True
    ),
    Variant("tanh", "simd", partial(activations.apply_activation, elementwise.TANH), compiled=True),
    Variant("tanh_derivative", "simd", partial(activations.apply_derivative, elementwise.TANH), compiled=True),
    Variant("sigmoid", "simd", partial(activations.apply_activation, elementwise.SIGMOID), compiled=True),
    Variant("sigmoid_derivative", "simd", partial(activations.apply_derivative, elementwise.SIGMOID), compiled=True),
    Variant("gelu", "simd", partial(activations.apply_activation, elementwise.GELU), compiled=True),
    Variant("gelu_derivative", "simd", partial(activations.apply_derivative, elementwise.GELU), compiled=True),
    Variant("silu", "simd", partial(activations.apply_activation, elementwise.SILU), compiled=True),
    Variant("silu_derivative", "simd", partial(activations.apply_derivative, elementwise.SILU), compiled=True),
    Variant("mse", "simd", partial(losses.value, elementwise.MSE), compiled=True, promoted_from=SEVERAL),
    # Training's own, since there the loss comes along; alone, `loops` takes a third of the time.
    Variant("mse_derivative", "simd", partial(losses.gradient, elementwise.MSE), compiled=True, promoted_from=math.inf),
    Variant("mae", "simd", partial(losses.value, elementwise.MAE), compiled=True, promoted_from=SEVERAL),
    Variant("mae_derivative", "simd", partial(losses.gradient, elementwise.MAE), compiled=True, promoted_from=math.inf),
    Variant("huber", "simd", partial(losses.value, elementwise.HUBER), compiled=True, promoted_from=SEVERAL),
    Variant(
        "huber_derivative", "simd", partial(losses.gradient, elementwise.HUBER), compiled=True, promoted_from=math.inf
    ),
    Variant("binary_cross_entropy", "simd", partial(losses.value, elementwise.BINARY_CROSS_ENTROPY), compiled=True),
    Variant(
        "binary_cross_entropy_derivative",
        "simd",
        partial(losses.gradient, elementwise.BINARY_CROSS_ENTROPY),
        compiled=True,
        promoted_from=SOME,
    ),
    Variant("softmax", "simd", losses.softmax, compiled=True),
    Variant("cross_entropy", "simd", partial(losses.value, elementwise.CROSS_ENTROPY), compiled=True),
    Variant("cross_entropy_derivative", "simd", partial(losses.gradient, elementwise.CROSS_ENTROPY), compiled=True),
    Variant("accuracy", "simd", losses.accuracy, compiled=True),
    Variant("matmul", "parallel", parallel.matmul, compiled=True, promoted_from=LARGE),
    Variant("dense_forward", "parallel", parallel.dense_forward, compiled=True, promoted_from=LARGE),
    Variant("dense_backward_batch", "parallel", parallel.dense_backward_batch, compiled=True, promoted_from=LARGE),
)

_RESULTS = {
    "matmul": (2,),
    "dense_forward": (4, 5),
    "dense_backward_batch": (5, 6, 7),
    "sgd_update": (0, 2),
    "adam_update": (0, 2, 3),
}
"""Which arguments an operation fills, where that is not the last alone."""


def _on_device(operation: str, name: str) -> Callable[..., Any]:
    """A CUDA variant, over device arrays; its room, and with it `numba.cuda`, is imported at the first call."""

    def run(*arguments: Any) -> None:
        from . import cuda_steps

        cuda_steps.RUNGS[operation, name](*arguments)

    return run


def _from_host(variant: Variant) -> Callable[..., Any]:
    """The function of a variant over NumPy arrays, wherever it computes."""
    if variant.device == "cpu":
        return variant.function

    def run(*arguments: Any) -> None:
        from . import cuda

        cuda.on_host(variant.function, _RESULTS.get(variant.operation, (-1,)))(*arguments)

    return run


ON_DEVICE: tuple[Variant, ...] = (
    *(
        Variant(operation, name, _on_device(operation, name), device="cuda")
        for name in ("cuda_naive", "cuda_tiled")
        for operation in ("matmul", "dense_forward", "dense_backward_batch")
    ),
    *(Variant(operation, "cuda", _on_device(operation, "cuda"), device="cuda") for operation in CONTRACTS),
)
"""The table's last rungs, whose arrays are on a card. Whether there is one is asked when they are, not before: the
driver takes a fifth of a second to start, and is not to be started before a fork."""

TABLE: tuple[Variant, ...] = tuple(variant for variant in _ALL if COMPILES or not variant.compiled)
"""Every variant that computes on the CPU and is usable here, in ladder order."""

LADDER = tuple(dict.fromkeys(variant.name for variant in (*_ALL, *ON_DEVICE)))
"""The rungs, from the oracle up."""

PROMOTED = "parallel"
"""The rung that training runs on unless told otherwise."""

_LOOKUP = {(variant.operation, variant.name): _from_host(variant) for variant in (*TABLE, *ON_DEVICE)}


def _card_is_usable() -> bool:
    from . import cuda

    return cuda.usable()


def variants(operation: str) -> tuple[str, ...]:
    """Name the variants of an operation that are usable here, in ladder order.

    Parameters
    ----------
    operation : str
        Name of a function of `fastnet.kernels`, such as ``"matmul"``.

    Returns
    -------
    tuple of str
        What the function's ``variant=`` takes, besides ``"auto"``.

    Raises
    ------
    ValueError
        If there is no such operation.
    """
    if operation not in CONTRACTS:
        raise ValueError(f"unknown operation {operation!r}; there are: {', '.join(CONTRACTS)}")
    usable = (*TABLE, *ON_DEVICE) if _card_is_usable() else TABLE
    return tuple(variant.name for variant in usable if variant.operation == operation)


def find(operation: str, variant: str, work: int = 0) -> Callable[..., Any]:
    """Look up the function of a variant; ``"auto"`` is the one promoted for so much work (see `Variant`)."""
    if variant == "auto":
        for least, function in _AUTO.get(operation, ()):
            if work >= least:
                return function
    try:
        return _LOOKUP[operation, variant]
    except (KeyError, TypeError):
        names = ", ".join(variants(operation))
        raise ValueError(f"unknown variant {variant!r} of {operation}; there are: auto, {names}") from None


def highest(operation: str, rung: str) -> Callable[..., Any]:
    """Look up an operation's highest promoted variant that stands no higher than a rung."""
    allowed = LADDER[: LADDER.index(rung) + 1]
    there = {v.name for v in TABLE if v.operation == operation and v.promoted_from < math.inf}
    return next(_LOOKUP[operation, name] for name in reversed(allowed) if name in there)


_AUTO = {
    operation: [(v.promoted_from, _LOOKUP[operation, v.name]) for v in reversed(TABLE) if v.operation == operation]
    for operation in CONTRACTS
}


# ---------------------------------------------------------------------------------------- the check


class WrongKernelError(AssertionError):
    """A variant broke its operation's contract."""


def prepare(operation: str, case: Case, dtype: DTypeLike, seed: int = 0) -> Problem:
    """Make the arguments of one call: a function of operation, case, dtype and seed alone."""
    return CONTRACTS[operation].problem(case, np.dtype(dtype), np.random.default_rng(seed))


def _copies(problem: Problem) -> list[Any]:
    """Copy a problem's arguments; a view that is not contiguous stays as it is, since nothing may write to it."""
    return [
        argument.copy() if isinstance(argument, np.ndarray) and argument.flags.c_contiguous else argument
        for argument in problem.arguments
    ]


def _widened(problem: Problem) -> list[Any]:
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
    contract = CONTRACTS[variant.operation]
    problem = prepare(variant.operation, case, dtype, seed)
    arguments, wide = _copies(problem), _widened(problem)
    pristine = [np.array(argument) for argument in problem.arguments]
    _from_host(variant)(*arguments)
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
