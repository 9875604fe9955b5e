"""The oracle of every operation: the reference function of that name, with the variants' signature."""

from collections.abc import Callable
from typing import Any

from ..specs.base import OpSpec
from . import activations, layers, losses, optimizers
from .activations import ACTIVATIONS, Array


def oracle(spec: OpSpec) -> Callable[..., None]:
    """Return the reference function of an operation, with the variants' signature: it fills its output arguments.

    Parameters
    ----------
    spec : OpSpec
        The operation; `activations`, `layers`, `losses` or `optimizers` defines the function of that name.

    Returns
    -------
    callable
        Takes arrays of any float dtype, longdouble included.

    Raises
    ------
    LookupError
        If no module of the reference defines the function.
    """
    if spec.operation in _LAYERS:
        return _LAYERS[spec.operation]
    for module in (activations, layers, losses, optimizers):
        function: Any = getattr(module, spec.operation, None)
        if function is not None:
            return _filling(function, spec.results) if not spec.in_place else function
    raise LookupError(f"kernels/reference defines no function {spec.operation}")


def _filling(function: Callable[..., Any], results: tuple[int, ...]) -> Callable[..., None]:
    """Adapt a function that returns one result to the variants' convention: it fills the argument after the inputs."""
    (position,) = results

    def kernel(*arguments: Any) -> None:
        arguments[position][...] = function(*arguments[:position])

    return kernel


def _dense_forward(X: Array, W: Array, b: Array, activation: int, A: Array, Z: Array) -> None:
    A[...], Z[...] = layers.dense_forward(X, W, b, ACTIVATIONS[activation].function)


def _dense_backward_batch(
    X: Array, Z: Array, dL_dA: Array, W: Array, activation: int, dW: Array, db: Array, dX: Array
) -> None:
    derivative = ACTIVATIONS[activation].derivative
    dW[...], db[...], full = layers.dense_backward_batch(X, Z, dL_dA, W, derivative)
    if dX.size > 0:  # the first layer's input gradient is never computed
        dX[...] = full


_LAYERS: dict[str, Callable[..., None]] = {
    "dense_forward": _dense_forward,
    "dense_backward_batch": _dense_backward_batch,
}
"""The layers, whose variants take an activation's code where the reference takes a function."""
