"""Preparation: scales a table's columns to a network's inputs, and its outputs back to the table's units."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .kernels.api import validation
from .kernels.specs.base import Array
from .validation import finite_matrix


@dataclass(frozen=True, eq=False)
class Preparation:
    """Scales the columns of a table to inputs of a network, and its outputs to the target's units or classes.

    A network keeps it as ``net.preparation``, and a model file with it. ``net.predict`` does not apply it:
    its arrays are those that the layers take and return. `fastnet predict` and ``net.to_onnx`` apply it, and so does

    ``net.preparation.restore(net.predict(net.preparation.inputs(X)))``

    Parameters
    ----------
    shift, scale : ndarray of float64, shape (n_in,)
        Inputs are (X - shift) / scale: mean 0 and standard deviation 1 over the rows that were measured.
    features : tuple of str, optional
        Names of the columns, in order.
    target : str
        Name of the predicted column.
    target_shift, target_scale : float
        For regression, the same for the target.
    classes : tuple of str or of int, optional
        For classification, the class of each label 0, 1, ...

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
            For regression, the target; it is scaled too. For classification leave it out and give classes.
        features, target, classes
            As the class takes them.

        Returns
        -------
        Preparation
            A column that is constant has scale 1.

        Raises
        ------
        TypeError, ValueError
            If X or y has elements that are not finite numbers or too large to be scaled, or another shape.
        """
        X = finite_matrix("X", X)
        names, labels = (None if given is None else tuple(given) for given in (features, classes))
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
        return cls(shift, scale, names, target, target_shift, target_scale, labels)

    def inputs(self, X: ArrayLike) -> Array:
        """Inputs of the network: (X - shift) / scale.

        Parameters
        ----------
        X : array_like, shape (rows, n)
            In the units of the table and the order of its columns.

        Returns
        -------
        ndarray of float64, shape (rows, n)

        Raises
        ------
        TypeError, ValueError
            If X does not hold numbers, or has another number of columns.
        """
        (X,) = validation.floats(X=X)
        validation.matrix("X", X)
        if X.shape[1] != len(self.shift):
            raise ValueError(f"X has {X.shape[1]} columns; expected {len(self.shift)}, as in the table trained on")
        with np.errstate(over="ignore"):  # the network rejects infinite inputs
            return (X - self.shift) / self.scale

    def targets(self, y: ArrayLike) -> Array:
        """Return the targets that the network is trained on: (y - target_shift) / target_scale, float64."""
        (y,) = validation.floats(y=y)
        return (y - np.float64(self.target_shift)) / self.target_scale

    def restore(self, outputs: ArrayLike) -> Array:
        """Return outputs in the units of the target: outputs * target_scale + target_shift, float64."""
        (outputs,) = validation.floats(outputs=outputs)
        return outputs * np.float64(self.target_scale) + self.target_shift

    # ------------------------------------------------------------------------------------------ as text

    def to_text(self) -> str:
        """Return the preparation as JSON, which reproduces every number exactly."""
        scaling = {"input_shift": self.shift.tolist(), "input_scale": self.scale.tolist()}
        rest = {name: getattr(self, name) for name in ("target", "target_shift", "target_scale", "classes")}
        return json.dumps({"features": self.features, **scaling, **rest}, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str, inputs: int, outputs: int) -> Preparation:
        """Read the result of `to_text`, for a network with these numbers of inputs and outputs.

        Raises
        ------
        ValueError
            If the text is anything else.
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
        if not (np.isfinite([*shift, target_shift, *scales]).all() and (scales > 0).all()):
            raise ValueError("its scaling holds a number that is not finite, or a scale that is not above 0")
        is_named = isinstance(features, list) and all(isinstance(name, str) for name in features)
        if features is not None and not (is_named and len({*features}) == inputs):
            raise ValueError(f"its feature names are not {inputs} different names")
        if not isinstance(target, str):
            raise ValueError("its target has no name")
        if classes is not None and not _classes(classes, outputs):
            raise ValueError(f"its classes are not different labels for {outputs} outputs")
        names = None if features is None else tuple(features)
        return cls(shift, scale, names, target, target_shift, target_scale, classes and tuple(classes))


def _classes(found: Any, outputs: int) -> bool:
    """Whether these are different labels of one type: one for each output, or two for a single output."""
    if not isinstance(found, list) or not (all(type(c) is str for c in found) or all(type(c) is int for c in found)):
        return False
    fits = len(found) == outputs if outputs > 1 else len(found) == 2
    return fits and len({*found}) == len(found) and all(type(c) is str or abs(c) < 2**63 for c in found)


def _moments(columns: Array, names: Sequence[str]) -> tuple[Array, Array]:
    """Return mean and standard deviation of every column; 1 where the deviation is only rounding error."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = columns.mean(axis=0, dtype=np.float64)
        deviation = columns.std(axis=0, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(deviation))
    if wrong.size:
        raise ValueError(f"column {names[wrong[0]]!r} holds numbers too large to be scaled; divide it first")
    constant = (columns == columns[0]).all(axis=0) | (deviation <= 1e-14 * np.abs(mean)) | (deviation < 1e-300)
    return mean, np.where(constant, 1.0, deviation)
