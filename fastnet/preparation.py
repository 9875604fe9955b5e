"""Preparation: what turns a user's columns into a network's inputs, and its outputs into the user's units.

Imports NumPy and `fastnet.kernels.doors`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .kernels.api import validation
from .kernels.specs.base import Array


@dataclass(frozen=True, eq=False)
class Preparation:
    """How the columns of a table become inputs of a network, and its outputs what the table calls them.

    A network keeps it as ``net.preparation``, and a model file with it. ``net.predict`` does not apply it:
    that takes and returns arrays as the layers see them. `fastnet predict` and ``net.to_onnx`` do, and so does

    ``net.preparation.restore(net.predict(net.preparation.inputs(X)))``

    Parameters
    ----------
    shift, scale : ndarray of float64, shape (n_in,)
        Inputs are (X - shift) / scale: mean 0 and standard deviation 1 on the rows it was made from.
    features : tuple of str, optional
        Names of the columns, in order.
    target : str
        Name of the column that is predicted.
    target_shift, target_scale : float
        For regression, the same of the target.
    classes : tuple of str or of int, optional
        For classification, what label 0, 1, ... stands for.

    Examples
    --------
    >>> from fastnet.data import Preparation
    >>> preparation = Preparation.of([[1.0, 50.0], [3.0, 70.0]], [10.0, 30.0])
    >>> preparation.inputs([[2.0, 80.0]])
    array([[0., 2.]])
    >>> preparation.restore([[0.5]])
    array([[25.]])
    """

    shift: Array
    scale: Array
    features: tuple[str, ...] | None = None
    target: str = "y"
    target_shift: float = 0.0
    target_scale: float = 1.0
    classes: tuple[str, ...] | tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        features: Sequence[str] | None = None,
        target: str = "y",
        classes: Sequence[Any] | None = None,
    ) -> Preparation:
        """Measure columns: their means and standard deviations.

        Parameters
        ----------
        X : array_like, shape (rows, n)
            The rows to train on, not those held out.
        y : array_like, shape (rows,), optional
            For regression, the target; it is scaled too. For classification leave it away and give classes.
        features, target, classes
            As the class takes them.

        Returns
        -------
        Preparation
            A column that is constant has scale 1.

        Raises
        ------
        TypeError, ValueError
            If X or y is not made of finite numbers, or is of another shape, or too large to be scaled.
        """
        (X,) = validation.floats(X=X)
        validation.matrix("X", X)
        validation.nonempty("X", X)
        validation.finite("X", X)
        names = tuple(features) if features is not None else None
        if names is not None and len(names) != X.shape[1]:
            raise ValueError(f"features names {len(names)} columns; X has {X.shape[1]}")
        shift, scale = _moments(X, names or [f"{i} of X" for i in range(X.shape[1])])
        target_shift, target_scale = 0.0, 1.0
        if y is not None:
            (y,) = validation.floats(y=y)
            if y.shape != (len(X),):
                raise ValueError(f"y has shape {y.shape}; expected ({len(X)},), one number for each row of X")
            validation.finite("y", y)
            (target_shift,), (target_scale,) = (part.tolist() for part in _moments(y.reshape(-1, 1), [target]))
        kept = tuple(classes) if classes is not None else None
        return cls(shift, scale, names, target, target_shift, target_scale, kept)

    def inputs(self, X: ArrayLike) -> Array:
        """Inputs of the network: (X - shift) / scale.

        Parameters
        ----------
        X : array_like, shape (rows, n)
            In the units, and the order of columns, of the table.

        Returns
        -------
        ndarray of float64, shape (rows, n)

        Raises
        ------
        TypeError, ValueError
            If X is not made of numbers or has other columns.
        """
        (X,) = validation.floats(X=X)
        validation.matrix("X", X)
        if X.shape[1] != len(self.shift):
            raise ValueError(f"X has {X.shape[1]} columns; expected {len(self.shift)}, as in the table trained on")
        with np.errstate(over="ignore"):  # the network refuses what is infinite
            return (X - self.shift) / self.scale

    def targets(self, y: ArrayLike) -> Array:
        """Targets as a network learns them: (y - target_shift) / target_scale, of float64."""
        (y,) = validation.floats(y=y)
        return (y - np.float64(self.target_shift)) / self.target_scale

    def restore(self, outputs: ArrayLike) -> Array:
        """Outputs in the units of the target: outputs * target_scale + target_shift, of float64."""
        (outputs,) = validation.floats(outputs=outputs)
        return outputs * np.float64(self.target_scale) + self.target_shift

    # ------------------------------------------------------------------------------------------ as text

    def to_text(self) -> str:
        """As JSON, which gives back every number to the bit."""
        return json.dumps(
            {
                "features": self.features,
                "input_shift": self.shift.tolist(),
                "input_scale": self.scale.tolist(),
                "target": self.target,
                "target_shift": self.target_shift,
                "target_scale": self.target_scale,
                "classes": self.classes,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_text(cls, text: str, inputs: int, outputs: int) -> Preparation:
        """Read what `to_text` wrote, for a network of so many inputs and outputs.

        Raises
        ------
        ValueError
            If it is anything else.
        """
        try:
            found = json.loads(text)
            shift, scale = (np.array(found[name], np.float64) for name in ("input_shift", "input_scale"))
            features, target, classes = found["features"], found["target"], found["classes"]
            target_shift, target_scale = float(found["target_shift"]), float(found["target_scale"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise ValueError("its preparation is not as fastnet writes it") from None
        if shift.shape != (inputs,) or scale.shape != (inputs,):
            raise ValueError(f"its scaling is not of the network's {inputs} inputs")
        scales = np.append(scale, target_scale)
        if not (np.isfinite(shift).all() and math.isfinite(target_shift) and (scales > 0).all()):
            raise ValueError("its scaling holds a number that is not finite, or a scale that is not above 0")
        if not np.isfinite(scales).all():
            raise ValueError("its scaling holds a number that is not finite")
        if features is not None and not _names(features, inputs):
            raise ValueError(f"its feature names are not {inputs} different names")
        if not isinstance(target, str):
            raise ValueError("its target has no name")
        if classes is not None and not _classes(classes, outputs):
            raise ValueError(f"its classes are not different labels for {outputs} outputs")
        names = None if features is None else tuple(features)
        return cls(shift, scale, names, target, target_shift, target_scale, classes and tuple(classes))


def _names(found: Any, count: int) -> bool:
    return isinstance(found, list) and all(isinstance(name, str) for name in found) and len({*found}) == count


def _classes(found: Any, outputs: int) -> bool:
    """Whether labels of one type, all different, fit: one output each, or two for a single output."""
    if not isinstance(found, list) or not (all(type(c) is str for c in found) or all(type(c) is int for c in found)):
        return False
    fits = len(found) == outputs if outputs > 1 else len(found) == 2
    return fits and len({*found}) == len(found) and all(type(c) is str or abs(c) < 2**63 for c in found)


def _moments(columns: Array, names: Sequence[str]) -> tuple[Array, Array]:
    """Mean and standard deviation of every column; 1 where that is nothing but rounding."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = columns.mean(axis=0, dtype=np.float64)
        deviation = columns.std(axis=0, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(deviation))
    if wrong.size:
        raise ValueError(f"column {names[wrong[0]]!r} holds numbers too large to be scaled; divide it first")
    constant = (columns == columns[0]).all(axis=0) | (deviation <= 1e-14 * np.abs(mean)) | (deviation < 1e-300)
    return mean, np.where(constant, 1.0, deviation)
