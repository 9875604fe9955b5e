"""The public losses, generated from their specs, and other measures of outputs: softmax and accuracy.

Each validates its arguments, allocates the result and calls a variant. `api.activations` states the rules that all
public functions follow.
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


def _outputs_name(spec: LossSpec) -> str:
    return "y_pred" if spec.targets == "values" else "Z"


def _convert(spec: LossSpec, y_true: ArrayLike, outputs: ArrayLike) -> tuple[Array, Array, tuple[int, ...]]:
    """Return targets in the form that kernels take, outputs (B, k), and the shape of the gradient."""
    if spec.takes_labels:
        Z = _logits(outputs)
        return validation.class_targets("y_true", y_true, Z.shape, Z.dtype), Z, Z.shape
    name = _outputs_name(spec)
    targets, found = validation.floats(**{"y_true": y_true, name: outputs})
    validation.same_shape("y_true", targets, name, found)
    validation.nonempty("y_true", targets)
    if targets.ndim == 0:
        raise ValueError(f"y_true and {name} are single numbers; expected at least one dimension, one sample a row")
    shape, rows = targets.shape, len(targets)
    targets, found = np.ascontiguousarray(targets).reshape(rows, -1), np.ascontiguousarray(found).reshape(rows, -1)
    if spec.unit_targets:
        validation.unit_interval("y_true", targets)
    return targets, found, shape


def _logits(Z: ArrayLike) -> Array:
    (Z,) = validation.floats(Z=Z)
    validation.matrix("Z", Z)
    validation.nonempty("Z", Z)
    return np.ascontiguousarray(Z)


def _value(spec: LossSpec) -> Callable[..., Any]:
    def compute(y_true: ArrayLike, outputs: ArrayLike, variant: str) -> float:
        targets, found, _ = _convert(spec, y_true, outputs)
        out = np.empty(1)
        find(spec.name, variant, found.size)(targets, found, out)
        return float(out[0])

    over, one, unit = ("the rows", "a row", ", in nats")
    if spec.mean_over_outputs:
        over, one, unit = ("all elements", "an element", "")
    source = f" From {spec.source}." if spec.source else ""
    return _public(
        spec,
        spec.name,
        compute,
        title=f"{spec.title[0].upper()}{spec.title[1:]}: a mean over {over}",
        equation=f"The loss of {one} is {spec.equation}.{source}",
        returns=f"float\n    The loss{unit}.",
    )


def _derivative(spec: LossSpec) -> Callable[..., Any]:
    name = f"{spec.name}_derivative"

    def compute(y_true: ArrayLike, outputs: ArrayLike, variant: str) -> Array:
        targets, found, shape = _convert(spec, y_true, outputs)
        out = np.empty_like(found)
        find(name, variant, found.size)(targets, found, out)
        return out.reshape(shape)

    note = f"\nWith k outputs it is k times the derivative of `{spec.name}`." if spec.mean_over_outputs else ""
    return _public(
        spec,
        name,
        compute,
        title=f"Gradient of the batch's {spec.title}",
        equation=f"{spec.derivative_equation}, for each row, divided by the number of rows B.{note}",
        returns=f"ndarray\n    Gradient with respect to ``{_outputs_name(spec)}``, of its shape.",
    )


def _public(spec: LossSpec, name: str, compute: Callable[..., Any], **parts: str) -> Callable[..., Any]:
    """Give a function the public signature and docstring of its kind of targets; ``parts`` complete the docstring."""

    def of_values(y_true: ArrayLike, y_pred: ArrayLike, variant: str = "auto") -> Any:
        """{title}.

        {equation}

        Parameters
        ----------
        y_true, y_pred : array_like, shape (B,) or (B, k)
            Targets y and outputs z, of the same shape: (B,) against (B, 1), which NumPy would broadcast to
            (B, B), is refused.
        variant : str, default "auto"
            The variant to run.

        Returns
        -------
        {returns}

        Raises
        ------
        TypeError
            If an input is not made of real numbers.
        ValueError
            If the shapes differ, there are no elements, or there is no such variant.
        """
        return compute(y_true, y_pred, variant)

    def of_probabilities(y_true: ArrayLike, Z: ArrayLike, variant: str = "auto") -> Any:
        """{title}.

        {equation}

        Parameters
        ----------
        y_true : array_like, shape (B,) or (B, k)
            Targets y from 0 to 1: one yes or no for each output.
        Z : array_like, shape (B,) or (B, k)
            Outputs z of the same shape: logits of any size, before any sigmoid.
        variant : str, default "auto"
            The variant to run.

        Returns
        -------
        {returns}

        Raises
        ------
        TypeError
            If an input is not made of real numbers.
        ValueError
            If the shapes differ, there are no elements, a target is outside 0..1, or there is no such variant.
        """
        return compute(y_true, Z, variant)

    def of_labels(y_true: ArrayLike, Z: ArrayLike, variant: str = "auto") -> Any:
        """{title}.

        {equation}

        Parameters
        ----------
        y_true : array_like, shape (B,) or (B, k)
            Integer labels 0..k-1, or soft labels: rows y of probabilities, which sum to 1.
        Z : array_like, shape (B, k)
            Outputs z: logits of any size, before any softmax.
        variant : str, default "auto"
            The variant to run.

        Returns
        -------
        {returns}

        Raises
        ------
        TypeError
            If an input is not made of real numbers.
        ValueError
            If the shapes do not fit, a label is out of range, a row is no probabilities, or there is no such variant.
        """
        return compute(y_true, Z, variant)

    function = {"values": of_values, "probabilities": of_probabilities, "labels": of_labels}[spec.targets]
    function.__annotations__["return"] = compute.__annotations__["return"]
    return validation.public(function, name, **parts)


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
    """Fraction of rows whose largest output is at the label.

    Parameters
    ----------
    y_true : array_like, shape (B,) or (B, k)
        Integer labels 0..k-1, or soft labels, whose most probable class counts as the label (the first, if equal).
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
    targets = validation.class_targets("y_true", y_true, Z.shape, Z.dtype)
    labels = targets if targets.ndim == 1 else targets.argmax(axis=1)
    find("accuracy", variant, Z.size)(labels, Z, out)
    return float(out[0])


PUBLIC = {
    **{spec.name: _value(spec) for spec in LOSS_BY_CODE},
    **{f"{spec.name}_derivative": _derivative(spec) for spec in LOSS_BY_CODE},
    "softmax": softmax,
    "accuracy": accuracy,
}
"""All of them by name."""
