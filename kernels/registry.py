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

from .cpu import activations, blocked, loops, losses, optimizers
from .cpu.gemm import dense, gemm, parallel
from .jit.target import COMPILES
from .specs import codes
from .specs.base import SampleInput
from .specs.cases import Case
from .specs.operations import OP_SPECS


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
    min_work: float = 0


PARALLEL_MIN_WORK = 30_000_000
"""Floating-point operations of a product from which all threads pay. 256 cubed, 34 million, gains 1.9 on two cores, and
loses 0.01 where others want the second core; 128 cubed, 4 million, gains 1.3 to 1.8 and may lose 0.2."""

SEVERAL, SOME = 4000, 500
"""Elements from which vectors are worth a loss's scratch arrays, 1.5 us: mse, mae and huber take 0.7 ns an element in
plain loops, 0.3 here; the derivative of binary_cross_entropy 4 and 1.6."""

_ALL: tuple[Variant, ...] = (
    *(Variant(contract.operation, "reference", contract.oracle) for contract in OP_SPECS.values()),
    Variant("matmul", "loops", loops.matmul),
    Variant("dense_forward", "loops", loops.dense_forward),
    Variant("dense_backward_batch", "loops", loops.dense_backward_batch),
    Variant("identity", "loops", partial(loops.apply_activation, codes.IDENTITY)),
    Variant("identity_derivative", "loops", partial(loops.apply_derivative, codes.IDENTITY)),
    Variant("relu", "loops", partial(loops.apply_activation, codes.RELU)),
    Variant("relu_derivative", "loops", partial(loops.apply_derivative, codes.RELU)),
    Variant("tanh", "loops", partial(loops.apply_activation, codes.TANH)),
    Variant("tanh_derivative", "loops", partial(loops.apply_derivative, codes.TANH)),
    Variant("sigmoid", "loops", partial(loops.apply_activation, codes.SIGMOID)),
    Variant("sigmoid_derivative", "loops", partial(loops.apply_derivative, codes.SIGMOID)),
    Variant("leaky_relu", "loops", partial(loops.apply_activation, codes.LEAKY_RELU)),
    Variant("leaky_relu_derivative", "loops", partial(loops.apply_derivative, codes.LEAKY_RELU)),
    Variant("gelu", "loops", partial(loops.apply_activation, codes.GELU)),
    Variant("gelu_derivative", "loops", partial(loops.apply_derivative, codes.GELU)),
    Variant("silu", "loops", partial(loops.apply_activation, codes.SILU)),
    Variant("silu_derivative", "loops", partial(loops.apply_derivative, codes.SILU)),
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
    Variant("sgd_update", "loops", optimizers.sgd_update),
    Variant("adam_update", "loops", optimizers.adam_update),
    Variant("matmul", "blocked", blocked.matmul),
    Variant("dense_forward", "blocked", blocked.dense_forward),
    Variant("dense_backward_batch", "blocked", blocked.dense_backward_batch),
    Variant("matmul", "simd", gemm.matmul, compiled=True),
    Variant("dense_forward", "simd", dense.dense_forward, compiled=True),
    Variant("dense_backward_batch", "simd", dense.dense_backward_batch, compiled=True),
    # identity, relu, leaky_relu and the updates are vectors already in `loops`: a copy here gained nothing. Their
    # derivatives there choose by the activation for each element: 27 us, not 1.6, for 16384.
    Variant("identity_derivative", "simd", partial(activations.apply_derivative, codes.IDENTITY), compiled=True),
    Variant("relu_derivative", "simd", partial(activations.apply_derivative, codes.RELU), compiled=True),
    Variant("leaky_relu_derivative", "simd", partial(activations.apply_derivative, codes.LEAKY_RELU), compiled=True),
    Variant("tanh", "simd", partial(activations.apply_activation, codes.TANH), compiled=True),
    Variant("tanh_derivative", "simd", partial(activations.apply_derivative, codes.TANH), compiled=True),
    Variant("sigmoid", "simd", partial(activations.apply_activation, codes.SIGMOID), compiled=True),
    Variant("sigmoid_derivative", "simd", partial(activations.apply_derivative, codes.SIGMOID), compiled=True),
    Variant("gelu", "simd", partial(activations.apply_activation, codes.GELU), compiled=True),
    Variant("gelu_derivative", "simd", partial(activations.apply_derivative, codes.GELU), compiled=True),
    Variant("silu", "simd", partial(activations.apply_activation, codes.SILU), compiled=True),
    Variant("silu_derivative", "simd", partial(activations.apply_derivative, codes.SILU), compiled=True),
    Variant("mse", "simd", partial(losses.value, codes.MSE), compiled=True, min_work=SEVERAL),
    # Training's own, since there the loss comes along; alone, `loops` takes a third of the time.
    Variant("mse_derivative", "simd", partial(losses.gradient, codes.MSE), compiled=True, min_work=math.inf),
    Variant("mae", "simd", partial(losses.value, codes.MAE), compiled=True, min_work=SEVERAL),
    Variant("mae_derivative", "simd", partial(losses.gradient, codes.MAE), compiled=True, min_work=math.inf),
    Variant("huber", "simd", partial(losses.value, codes.HUBER), compiled=True, min_work=SEVERAL),
    Variant("huber_derivative", "simd", partial(losses.gradient, codes.HUBER), compiled=True, min_work=math.inf),
    Variant("binary_cross_entropy", "simd", partial(losses.value, codes.BINARY_CROSS_ENTROPY), compiled=True),
    Variant(
        "binary_cross_entropy_derivative",
        "simd",
        partial(losses.gradient, codes.BINARY_CROSS_ENTROPY),
        compiled=True,
        min_work=SOME,
    ),
    Variant("softmax", "simd", losses.softmax, compiled=True),
    Variant("cross_entropy", "simd", partial(losses.value, codes.CROSS_ENTROPY), compiled=True),
    Variant("cross_entropy_derivative", "simd", partial(losses.gradient, codes.CROSS_ENTROPY), compiled=True),
    Variant("accuracy", "simd", losses.accuracy, compiled=True),
    Variant("matmul", "parallel", parallel.matmul, compiled=True, min_work=PARALLEL_MIN_WORK),
    Variant("dense_forward", "parallel", parallel.dense_forward, compiled=True, min_work=PARALLEL_MIN_WORK),
    Variant(
        "dense_backward_batch", "parallel", parallel.dense_backward_batch, compiled=True, min_work=PARALLEL_MIN_WORK
    ),
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
        from .cuda import steps

        steps.RUNGS[operation, name](*arguments)

    return run


def from_host(variant: Variant) -> Callable[..., Any]:
    """The function of a variant over NumPy arrays, wherever it computes."""
    if variant.device == "cpu":
        return variant.function

    def run(*arguments: Any) -> None:
        from .cuda import device

        device.on_host(variant.function, _RESULTS.get(variant.operation, (-1,)))(*arguments)

    return run


CUDA_VARIANTS: tuple[Variant, ...] = (
    *(
        Variant(operation, name, _on_device(operation, name), device="cuda")
        for name in ("cuda_naive", "cuda_tiled")
        for operation in ("matmul", "dense_forward", "dense_backward_batch")
    ),
    *(Variant(operation, "cuda", _on_device(operation, "cuda"), device="cuda") for operation in OP_SPECS),
)
"""The table's last rungs, whose arrays are on a card. Whether there is one is asked when they are, not before: the
driver takes a fifth of a second to start, and is not to be started before a fork."""

TABLE: tuple[Variant, ...] = tuple(variant for variant in _ALL if COMPILES or not variant.compiled)
"""Every variant that computes on the CPU and is usable here, in ladder order."""

VARIANT_ORDER = tuple(dict.fromkeys(variant.name for variant in (*_ALL, *CUDA_VARIANTS)))
"""The rungs, from the oracle up."""

DEFAULT_VARIANT = "parallel"
"""The rung that training runs on unless told otherwise."""

_LOOKUP = {(variant.operation, variant.name): from_host(variant) for variant in (*TABLE, *CUDA_VARIANTS)}


def _card_is_usable() -> bool:
    from .cuda import device

    return device.usable()


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
    if operation not in OP_SPECS:
        raise ValueError(f"unknown operation {operation!r}; there are: {', '.join(OP_SPECS)}")
    usable = (*TABLE, *CUDA_VARIANTS) if _card_is_usable() else TABLE
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


def best_variant(operation: str, variant: str) -> Callable[..., Any]:
    """Look up an operation's highest promoted variant that stands no higher than a rung."""
    allowed = VARIANT_ORDER[: VARIANT_ORDER.index(variant) + 1]
    there = {v.name for v in TABLE if v.operation == operation and v.min_work < math.inf}
    return next(_LOOKUP[operation, name] for name in reversed(allowed) if name in there)


_AUTO = {
    operation: [(v.min_work, _LOOKUP[operation, v.name]) for v in reversed(TABLE) if v.operation == operation]
    for operation in OP_SPECS
}


def prepare(operation: str, case: Case, dtype: DTypeLike, seed: int = 0) -> SampleInput:
    """Make the arguments of one call: a function of operation, case, dtype and seed alone."""
    return OP_SPECS[operation].problem(case, np.dtype(dtype), np.random.default_rng(seed))
