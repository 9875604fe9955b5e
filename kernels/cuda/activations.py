"""Device functions that choose an activation, or its derivative, by code; compiled from the formulas of the specs."""

from collections.abc import Callable, Sequence
from typing import Any

from ..specs.activations import ACTIVATION_BY_CODE
from .device import device


def _by_code(functions: Sequence[Callable[..., Any]]) -> Any:
    """Make ``(code, a, z) -> functions[code](a, z)``: a chain of comparisons, which NVVM inlines into its callers."""
    *rest, last = functions
    chain = _ignoring_code(device(last))
    for code in reversed(range(len(rest))):
        chain = _choice(code, device(functions[code]), chain)
    return chain


def _ignoring_code(function: Any) -> Any:
    @device
    def choose(code: int, a: Any, z: Any) -> Any:
        return function(a, z)

    return choose


def _choice(own: int, function: Any, others: Any) -> Any:
    @device
    def choose(code: int, a: Any, z: Any) -> Any:
        return function(a, z) if code == own else others(code, a, z)

    return choose


def _of_z(formula: Callable[[Any], Any]) -> Callable[..., Any]:
    formula = device(formula)
    return lambda a, z: formula(z)


def _of_a(formula: Callable[[Any], Any]) -> Callable[..., Any]:
    formula = device(formula)
    return lambda a, z: formula(a)


_activate = _by_code([_of_z(spec.function) for spec in ACTIVATION_BY_CODE])
_derivative = _by_code([_of_z(spec.derivative) for spec in ACTIVATION_BY_CODE])

slope = _by_code(
    [
        _of_z(spec.derivative) if spec.derivative_from_output is None else _of_a(spec.derivative_from_output)
        for spec in ACTIVATION_BY_CODE
    ]
)
"""``(code, a, z) -> f'(z)``, from the output a where that is enough."""


@device
def activate(code: int, z: Any) -> Any:
    """Return the activation of one number."""
    return _activate(code, z, z)


@device
def derivative(code: int, z: Any) -> Any:
    """Return the activation's derivative at one number."""
    return _derivative(code, z, z)
