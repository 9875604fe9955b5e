"""Validation of inputs and targets against a network: convert or reject them before anything is computed."""

from __future__ import annotations  # so that help() shows ArrayLike by its name

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import checks
from .kernels.api import validation
from .kernels.specs.base import Array
from .kernels.specs.losses import LOSSES
from .messages import counted
from .optimizers import Optimizer, Schedule


def finite_matrix(name: str, X: ArrayLike, at: Array | None = None, columns: int | None = None) -> Array:
    """Return X as a matrix of finite floats with at least one row and one column; for errors see `check_inputs`."""
    (X,) = validation.floats(**{name: X})
    validation.matrix(name, X, columns)
    validation.nonempty(name, X)
    validation.finite(name, X, at)
    return X


def check_inputs(
    X: ArrayLike, layer_sizes: Sequence[int], dtype: Any, name: str = "X", at: Array | None = None
) -> Array:
    """Return X as a contiguous matrix (B, n_in) of the network's dtype.

    Parameters
    ----------
    X : array_like
    layer_sizes : sequence of int
    dtype : dtype
    name : str, default "X"
        Name of X in messages.
    at : ndarray of int64, optional
        Row numbers for messages, if the rows are a selection.

    Raises
    ------
    TypeError, ValueError
        If X does not consist of finite real numbers, or has another shape.
    """
    X = finite_matrix(name, X, at, layer_sizes[0])
    if X.shape[1] != layer_sizes[0]:
        raise ValueError(
            f"{name} has {counted(X.shape[1], 'column')}; this network takes {layer_sizes[0]} "
            f"(layer sizes {list(layer_sizes)})"
        )
    return _converted(X, dtype, name)


def check_targets(y: ArrayLike, rows: int, network: Any, loss: str, name: str = "y", at: Array | None = None) -> Array:
    """Return y in the form that training needs: labels int64 (B,), or a matrix (B, n_out) of the network's dtype.

    For a loss that takes labels, a matrix holds soft labels.

    For parameters and errors see `check_inputs`; ``rows`` is B, ``network`` a `Network`, ``loss`` a key of `LOSSES`.
    """
    outputs, spec = network.layer_sizes[-1], LOSSES[loss]
    if spec.takes_labels:
        return validation.class_targets(name, y, (rows, outputs), network.dtype, at)
    (y,) = validation.floats(**{name: y})
    expected = f"({rows}, {outputs})" + (f" or ({rows},)" if outputs == 1 else "")
    if y.shape == (rows,) and outputs == 1:
        y = y.reshape(rows, 1)
    if y.shape != (rows, outputs):
        labels = '; for class labels use loss="cross_entropy"' if y.shape == (rows,) else ""
        raise ValueError(f"{name} has shape {y.shape}; expected {expected}, one row for each of X{labels}")
    validation.finite(name, y, at)
    converted = _converted(y, network.dtype, name)
    if spec.unit_targets:
        validation.unit_interval(name, converted, at)
    return converted


def check_loss(loss: str, layer_sizes: Sequence[int], activations: Sequence[str]) -> None:
    """Reject a loss that is unknown or does not fit the network's outputs."""
    checks.choice("loss", loss, LOSSES)
    spec = LOSSES[loss]
    if spec.probabilities and activations[-1] != "identity":
        function = "the sigmoid" if spec.probabilities == "sigmoid" else spec.probabilities
        raise ValueError(
            f"{loss} applies {function} to raw outputs, but this network's output is "
            f'{activations[-1]!r}; build it with output="identity"'
        )
    if spec.takes_labels and layer_sizes[-1] < 2:
        raise ValueError(
            f"{loss} needs one output for each class, at least 2; this network has 1: for two classes "
            'and one output use loss="binary_cross_entropy"'
        )


def takes_softmax(loss: str | None) -> bool:
    """Whether outputs after a loss are logits of a softmax, not of sigmoids; RuntimeError if they are neither."""
    if loss is None or not LOSSES[loss].probabilities:
        trained = f"was trained with {loss}" if loss else "has not been trained"
        raise RuntimeError(
            f"this network {trained}, so its outputs are neither labels nor probabilities: net.predict returns them; "
            'for classes train it with Trainer(net, loss="cross_entropy"), or set net.loss if its parameters were'
        )
    return LOSSES[loss].probabilities == "softmax"


def _converted(array: Array, dtype: Any, name: str) -> Array:
    """Return finite numbers as a contiguous array of the dtype."""
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype)
    if converted.dtype != array.dtype:
        try:
            validation.finite(name, converted)
        except ValueError:
            raise ValueError(f'{name} holds numbers too large for float32; scale it or use dtype="float64"') from None
    return converted


def check_optimizer(optimizer: Optimizer, dtype: Any) -> None:
    """Reject hyper-parameters that overflow or vanish in a network's dtype.

    Raises
    ------
    ValueError
    """
    for field in dataclasses.fields(optimizer):
        value = getattr(optimizer, field.name)
        if isinstance(value, Schedule):
            value = value.learning_rate
        with np.errstate(over="ignore"):
            held = float(dtype.type(value))
        if value != 0 and not 0 < held < math.inf:
            raise ValueError(
                f"{type(optimizer).__name__} {field.name} is {value!r}, which {dtype} cannot hold; "
                'use another, or a network of dtype="float64"'
            )
