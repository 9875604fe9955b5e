"""THE table: every variant of every operation, in the order of the variants.

The public functions look up in it; tests, benchmarks and the profiler iterate over `TABLE`. The compiled training loop
calls the fastest kernels by address, not through it. A variant is a module whose
functions have the names of operations; adding one takes the function and one line here (``docs/extending.md``).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .cpu import activations, blocked, layers, loops, losses, optimizers
from .cpu.gemm import dense, gemm, parallel
from .jit.target import COMPILES
from .reference.oracle import oracle
from .specs.base import Case, SampleInput
from .specs.operations import OP_SPECS


@dataclass(frozen=True)
class Variant:
    """One implementation of an operation.

    Attributes
    ----------
    operation : str
        The public function's name; its contract is ``OP_SPECS[operation]``.
    name : str
        The variant's name, such as ``"simd"``.
    function : callable
        Called with the contract's arguments; fills the outputs among them.
    device : str
        Where the arrays must be: ``"cpu"`` or ``"cuda"``.
    dtypes : tuple of str
        Which dtypes it takes.
    compiled : bool
        Whether it consists of vector instructions and cannot run as plain Python.
    min_work : float
        From how much work ``"auto"`` prefers it to the variants before it: floating-point operations of a product,
        elements of everything else. Infinite where an earlier variant is always faster.
    """

    operation: str
    name: str
    function: Callable[..., Any]
    device: str = "cpu"
    dtypes: tuple[str, ...] = ("float32", "float64")
    compiled: bool = False
    min_work: float = 0


PARALLEL_MIN_WORK = 30_000_000
"""Floating-point operations of a product from which all threads pay off (docs/performance-notes/variants.md)."""

_LOSS_MIN_WORK, _LOSS_DERIVATIVE_MIN_WORK = 4000, 500
"""Elements from which vectors pay for a loss's scratch arrays (docs/performance-notes/variants.md)."""

_SIMD_MIN_WORK = {
    **dict.fromkeys(("mse", "mae", "huber"), _LOSS_MIN_WORK),
    # Training's kernels compute the loss as well; for the derivative alone, `loops` takes a third of the time.
    **dict.fromkeys(("mse_derivative", "mae_derivative", "huber_derivative"), math.inf),
    "binary_cross_entropy_derivative": _LOSS_DERIVATIVE_MIN_WORK,
}

Functions = Mapping[str, Callable[..., Any]]


def _variant(
    name: str, *sources: ModuleType | Functions, compiled: bool = False, min_work: float | Mapping[str, float] = 0
) -> Iterator[Variant]:
    """List a variant's operations: the functions of their names that modules define or that mappings hold.

    ``compiled`` and ``min_work`` as of `Variant`; of a mapping, operations that it does not name get 0.
    """
    for source in sources:
        functions = _defined_in(source) if isinstance(source, ModuleType) else source
        for operation, function in functions.items():
            least = min_work.get(operation, 0) if isinstance(min_work, Mapping) else min_work
            yield Variant(operation, name, function, compiled=compiled, min_work=least)


def _defined_in(module: ModuleType) -> Functions:
    found = {name: vars(module)[name] for name in OP_SPECS if name in vars(module)}
    return {name: function for name, function in found.items() if function.__module__ == module.__name__}


_ORACLES = {operation: oracle(spec) for operation, spec in OP_SPECS.items()}

_ALL: tuple[Variant, ...] = (
    *_variant("reference", _ORACLES),
    *_variant("loops", loops, layers.ELEMENTWISE, loops.LOSSES, optimizers.KERNELS),
    *_variant("blocked", blocked),
    *_variant("simd", gemm, dense, activations.KERNELS, losses.KERNELS, compiled=True, min_work=_SIMD_MIN_WORK),
    *_variant("parallel", parallel, compiled=True, min_work=PARALLEL_MIN_WORK),
)


def _on_device(operation: str, name: str) -> Callable[..., Any]:
    """Return a CUDA variant, over device arrays; `numba.cuda` is imported at its first call."""

    def run(*arguments: Any) -> None:
        from .cuda import variants

        variants.VARIANTS[operation, name](*arguments)

    return run


def from_host(variant: Variant) -> Callable[..., Any]:
    """Return the function of a variant over NumPy arrays, on whichever device it computes."""
    if variant.device == "cpu":
        return variant.function

    def run(*arguments: Any) -> None:
        from .cuda import device

        device.on_host(variant.function, OP_SPECS[variant.operation].results, arguments)

    return run


_PRODUCTS = ("matmul", "dense_forward", "dense_backward_batch")

_CUDA_OPERATIONS = {
    "cuda_naive": _PRODUCTS,
    "cuda_tiled": _PRODUCTS,
    "cuda": tuple(OP_SPECS),
    "cuda_tf32x3": _PRODUCTS,
}
"""The operations of every CUDA variant; `cuda.launch.GEMM_VARIANTS` holds the kernels of the same names."""

_CUDA_DTYPES = {"cuda_tf32x3": ("float32",)}
"""Which dtypes a CUDA variant takes, where these are not both."""

CUDA_VARIANTS = tuple(
    Variant(operation, name, _on_device(operation, name), "cuda", _CUDA_DTYPES.get(name, Variant.dtypes))
    for name, operations in _CUDA_OPERATIONS.items()
    for operation in operations
)
"""The table's last variants, whose arrays are on a CUDA device. Whether there is one is determined when a variant is
needed: the driver takes a fifth of a second to start and must not be started before a fork."""

TABLE = tuple(variant for variant in _ALL if COMPILES or not variant.compiled)
"""Every variant that computes on the CPU and is usable here, in the order of the variants."""

VARIANT_ORDER = tuple(dict.fromkeys(variant.name for variant in (*_ALL, *CUDA_VARIANTS)))
"""Names of the variants, from the oracle to the fastest."""

_LOOKUP = {(variant.operation, variant.name): from_host(variant) for variant in (*TABLE, *CUDA_VARIANTS)}


def _of_the_card() -> tuple[Variant, ...]:
    """Start the driver, and return the CUDA variants that can run here."""
    from .cuda import device

    return () if device.missing() else tuple(variant for variant in CUDA_VARIANTS if not device.too_old(variant.name))


def variants(operation: str) -> tuple[str, ...]:
    """Name the variants of an operation that are usable here, in the order of the variants.

    Parameters
    ----------
    operation : str
        Name of a function of `fastnet.kernels`, such as ``"matmul"``.

    Returns
    -------
    tuple of str
        Values of the function's argument ``variant``, besides ``"auto"``.

    Raises
    ------
    ValueError
        If there is no operation of this name.
    """
    if operation not in OP_SPECS:
        raise ValueError(f"unknown operation {operation!r}; there are: {', '.join(OP_SPECS)}")
    return tuple(variant.name for variant in (*TABLE, *_of_the_card()) if variant.operation == operation)


def find(operation: str, variant: str, work: int = 0) -> Callable[..., Any]:
    """Look up the function of a variant; ``"auto"`` chooses it by the work (see `Variant.min_work`)."""
    if variant == "auto":
        for min_work, function in _AUTO.get(operation, ()):
            if work >= min_work:
                return function
    try:
        return _LOOKUP[operation, variant]
    except (KeyError, TypeError):
        names = ", ".join(variants(operation))
        raise ValueError(f"unknown variant {variant!r} of {operation}; there are: auto, {names}") from None


_AUTO = {
    operation: [(v.min_work, _LOOKUP[operation, v.name]) for v in reversed(TABLE) if v.operation == operation]
    for operation in OP_SPECS
}


def prepare(operation: str, case: Case, dtype: DTypeLike, seed: int = 0) -> SampleInput:
    """Make the arguments of one call, which depend on operation, case, dtype and seed alone."""
    spec = OP_SPECS[operation]
    return SampleInput(spec.sample(case, np.dtype(dtype), np.random.default_rng(seed)), spec.results)
