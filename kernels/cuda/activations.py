"""Device functions of the activations and their derivatives, selected by code and compiled from the specs' formulas."""

from typing import Any

from ..specs.activations import ACTIVATION_BY_CODE, ActivationSpec
from .device import by_code, device


def _slope(spec: ActivationSpec) -> Any:
    """Return ``(a, z) -> f'(z)``, computed from the output a if the spec has such a formula, otherwise from z."""
    of_a, of_z = spec.derivative_from_output, device(spec.derivative)
    if of_a is None:
        return lambda a, z: of_z(z)
    of_a = device(of_a)
    return lambda a, z: of_a(a)


activate = by_code({spec.code: spec.function for spec in ACTIVATION_BY_CODE})
"""``(code, z) -> f(z)``."""

derivative = by_code({spec.code: spec.derivative for spec in ACTIVATION_BY_CODE})
"""``(code, z) -> f'(z)``."""

slope = by_code({spec.code: _slope(spec) for spec in ACTIVATION_BY_CODE})
"""``(code, a, z) -> f'(z)``, computed from the output a if that is enough."""
