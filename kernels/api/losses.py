"""The public losses, generated from their specs, and what else measures outputs.

Each validates its arguments, allocates the result and calls a variant. What holds for all public functions is said in
`api.activations`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..registry import find
from ..specs.base import Array
from ..specs.losses import LOSS_BY_CODE, LossSpec
from . import validation

_VALUE_DOC = """{title}

{equation}.{source}

Parameters
----------
{parameters}

Returns
-------
float
    {result}.

Raises
------
{errors}
"""

_DERIVATIVE_DOC = """{title}

{equation}, for each row, divided by the number of rows B.{note}

Parameters
----------
{parameters}

Returns
-------
ndarray
    Gradient with respect to ``{outputs}``, of its shape.

Raises
------
{errors}
"""

_PARAMETERS = {
    "values": """y_true, y_pred : array_like, shape (B,) or (B, k)
    Targets y and outputs z, of the same shape: (B,) against (B, 1), which NumPy would broadcast to
    (B, B), is refused.""",
    "probabilities": """y_true : array_like, shape (B,) or (B, k)
    Targets y from 0 to 1: one yes or no for each output.
Z : array_like, shape (B,) or (B, k)
    Outputs z of the same shape: logits of any size, before any sigmoid.""",
    "labels": """y_true : array_like, shape (B,) or (B, k)
    Integer labels 0..k-1, or one-hot rows.
Z : array_like, shape (B, k)
    Outputs z: logits of any size, before any softmax.""",
}
_VARIANT = """
variant : str, default "auto"
    The variant to run."""
_MISMATCHES = {
    "values": "the shapes differ, there are no elements",
    "probabilities": "the shapes differ, there are no elements, a target is outside 0..1",
    "labels": "the shapes do not fit, a label is out of range",
}


def _errors(mismatch: str) -> str:
    return f"""TypeError
    If an input is not made of real numbers.
ValueError
    If {mismatch}, or there is no such variant."""


def _title(spec: LossSpec) -> str:
    return spec.title[0].upper() + spec.title[1:]


def _value_doc(spec: LossSpec) -> str:
    over = "all elements" if spec.mean_over_outputs else "the rows"
    return _VALUE_DOC.format(
        title=f"{_title(spec)}: a mean over {over}.",
        equation=f"The loss of {'an element' if spec.mean_over_outputs else 'a row'} is {spec.equation}",
        source=spec.source and f" From {spec.source}.",
        parameters=_PARAMETERS[spec.targets] + _VARIANT,
        result="The loss" if spec.mean_over_outputs else "The loss, in nats",
        errors=_errors(_MISMATCHES[spec.targets]),
    )


def _derivative_doc(spec: LossSpec) -> str:
    return _DERIVATIVE_DOC.format(
        title=f"Gradient of the batch's {spec.title}.",
        equation=spec.derivative_equation,
        note=f"\nWith k outputs it is k times the derivative of `{spec.name}`." if spec.mean_over_outputs else "",
        parameters=_PARAMETERS[spec.targets] + _VARIANT,
        outputs=_outputs_name(spec),
        errors=_errors(_MISMATCHES[spec.targets]),
    )


def _outputs_name(spec: LossSpec) -> str:
    return "y_pred" if spec.targets == "values" else "Z"


def _convert(spec: LossSpec, y_true: ArrayLike, outputs: ArrayLike) -> tuple[Array, Array, tuple[int, ...]]:
    """Return targets as kernels take them, outputs (B, k), and the shape of the gradient."""
    name = _outputs_name(spec)
    if spec.takes_labels:
        Z = _logits(outputs)
        return validation.labels("y_true", y_true, *Z.shape), Z, Z.shape
    targets, found = validation.floats(**{"y_true": y_true, name: outputs})
    validation.same_shape("y_true", targets, name, found)
    validation.nonempty("y_true", targets)
    if targets.ndim == 0:
        raise ValueError(f"y_true and {name} are single numbers; expected at least one dimension, one sample a row")
    shape, rows = targets.shape, len(targets)
    targets, found = np.ascontiguousarray(targets).reshape(rows, -1), np.ascontiguousarray(found).reshape(rows, -1)
    if spec.targets == "probabilities":
        validation.unit_interval("y_true", targets)
    return targets, found, shape


def _logits(Z: ArrayLike) -> Array:
    (Z,) = validation.floats(Z=Z)
    validation.matrix("Z", Z)
    validation.nonempty("Z", Z)
    return np.ascontiguousarray(Z)


def _value(spec: LossSpec) -> Callable[..., float]:
    def compute(y_true: ArrayLike, outputs: ArrayLike, variant: str) -> float:
        targets, found, _ = _convert(spec, y_true, outputs)
        out = np.empty(1)
        find(spec.name, variant, found.size)(targets, found, out)
        return float(out[0])

    return _public(spec, spec.name, compute, _value_doc(spec))


def _derivative(spec: LossSpec) -> Callable[..., Array]:
    name = f"{spec.name}_derivative"

    def compute(y_true: ArrayLike, outputs: ArrayLike, variant: str) -> Array:
        targets, found, shape = _convert(spec, y_true, outputs)
        out = np.empty_like(found)
        find(name, variant, found.size)(targets, found, out)
        return out.reshape(shape)

    return _public(spec, name, compute, _derivative_doc(spec))


def _public(spec: LossSpec, name: str, compute: Callable[..., Any], doc: str) -> Callable[..., Any]:
    """Give a function its public signature: outputs are called y_pred, or Z where they are logits."""

    def of_values(y_true: ArrayLike, y_pred: ArrayLike, variant: str = "auto") -> Any:
        return compute(y_true, y_pred, variant)

    def of_logits(y_true: ArrayLike, Z: ArrayLike, variant: str = "auto") -> Any:
        return compute(y_true, Z, variant)

    function: Callable[..., Any] = of_values if spec.targets == "values" else of_logits
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__annotations__["return"] = compute.__annotations__["return"]
    return function


def softmax(Z: ArrayLike, variant: str = "auto") -> Array:
    """Probabilities exp(Z) / sum exp(Z) of every row.

    Parameters
    ----------
    Z : array_like, shape (B, k)
        Outputs of any size: nothing overflows.
    variant : str, default "auto"
        The variant to run.

    Returns
    -------
    ndarray, shape (B, k)
        Each row sums to 1.

    Raises
    ------
    TypeError
        If Z is not made of real numbers.
    ValueError
        If Z is not a matrix with elements, or there is no such variant.
    """
    Z = _logits(Z)
    out = np.empty_like(Z)
    find("softmax", variant, Z.size)(Z, out)
    return out


def accuracy(y_true: ArrayLike, Z: ArrayLike, variant: str = "auto") -> float:
    """Share of the rows whose largest output stands at the label.

    Parameters
    ----------
    y_true : array_like, shape (B,) or (B, k)
        Integer labels 0..k-1, or one-hot rows.
    Z : array_like, shape (B, k)
        Outputs, or probabilities. The first of equal outputs counts; NaN counts as largest.
    variant : str, default "auto"
        The variant to run.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    TypeError
        If an input is not made of real numbers.
    ValueError
        If the shapes do not fit, a label is out of range, or there is no such variant.
    """
    Z = _logits(Z)
    out = np.empty(1)
    find("accuracy", variant, Z.size)(validation.labels("y_true", y_true, *Z.shape), Z, out)
    return float(out[0])


PUBLIC = {
    **{spec.name: _value(spec) for spec in LOSS_BY_CODE},
    **{f"{spec.name}_derivative": _derivative(spec) for spec in LOSS_BY_CODE},
    "softmax": softmax,
    "accuracy": accuracy,
}
"""All of them by name."""
