"""The public activations and their derivatives, generated from their specs.

Everywhere in the kernels' public functions: float32 and float64 are used as they are, mixed floats promote, integers
become float64, lists and arrays of any strides are converted; NaN and infinity pass through the arithmetic. The
argument ``variant`` names an implementation, "auto" the one that is fastest for the size; `variants` lists them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ..registry import find
from ..specs.activations import ACTIVATION_BY_CODE
from ..specs.base import Array
from . import validation


def _elementwise(operation: str, **parts: str) -> Callable[..., Array]:
    """Make the public function of an elementwise operation; ``parts`` complete its docstring."""

    def function(Z: ArrayLike, variant: str = "auto") -> Array:
        """{equation}, elementwise.

        {note}Parameters
        ----------
        Z : array_like
            Any shape.
        variant : str, default "auto"
            The variant to run.

        Returns
        -------
        ndarray
            {result}, in Z's shape and dtype; a number for a number. NaN stays NaN{nan}.

        Raises
        ------
        TypeError
            If Z is not made of real numbers.
        ValueError
            If there is no such variant.
        """
        (Z,) = validation.floats(Z=Z)
        flat = np.ascontiguousarray(Z).reshape(-1)
        out = np.empty_like(flat)
        find(operation, variant, flat.size)(flat, out)
        shaped: Array = out.reshape(Z.shape)[()]  # a number for a number, as NumPy does
        return shaped

    return validation.public(function, operation, **parts)


FUNCTIONS = tuple(
    _elementwise(
        spec.name,
        equation=spec.equation,
        note=f"From {spec.source}.\n\n" if spec.source else "",
        result="The activation of each element",
        nan="",
    )
    for spec in ACTIVATION_BY_CODE
)
"""The activations by code."""

DERIVATIVES = tuple(
    _elementwise(
        f"{spec.name}_derivative",
        equation=spec.derivative_equation,
        note=f"The derivative of `{spec.name}` with respect to Z.\n\n",
        result="The derivative at each element",
        nan=", except where the derivative is piecewise constant",
    )
    for spec in ACTIVATION_BY_CODE
)
"""Their derivatives by code."""

PUBLIC = {function.__name__: function for pair in zip(FUNCTIONS, DERIVATIVES, strict=True) for function in pair}
"""Both by name."""
