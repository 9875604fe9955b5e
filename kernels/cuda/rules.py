"""Device functions of the losses and update rules, chosen by code; compiled from the formulas of the specs."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..specs.losses import LOSS_BY_CODE
from ..specs.optimizers import HYPER_SIZE, OPTIMIZER_BY_CODE
from .device import device

CONSTANTS = HYPER_SIZE
"""Numbers that all elements of an update share, computed once a step on the host, in float64."""


def _element_choice(own: int, function: Callable[..., Any], others: Any) -> Any:
    """Return ``function(z, y)`` where the code is ``own``, and otherwise what ``others`` gives."""
    function = device(function)
    if others is None:
        return device(lambda code, z, y: function(z, y))

    @device
    def choose(code: int, z: Any, y: Any) -> Any:
        return function(z, y) if code == own else others(code, z, y)

    return choose


def _rule_choice(own: int, rule: Callable[..., Any], others: Any) -> Any:
    rule = device(rule)
    if others is None:
        return device(lambda code, p, g, s, t, c: rule(p, g, s, t, c))

    @device
    def choose(code: int, p: Any, g: Any, s: Any, t: Any, c: Any) -> Any:
        if code == own:
            return rule(p, g, s, t, c)
        return others(code, p, g, s, t, c)

    return choose


@device
def _never(code: int, z: Any, y: Any) -> bool:
    return False


loss_value: Any = None
loss_slope: Any = None
is_correct: Any = _never
updated: Any = None
for _loss in LOSS_BY_CODE:
    if _loss.value is not None and _loss.slope is not None:
        loss_value = _element_choice(_loss.code, _loss.value, loss_value)
        loss_slope = _element_choice(_loss.code, _loss.slope, loss_slope)
    if _loss.correct is not None:
        is_correct = _element_choice(_loss.code, _loss.correct, is_correct)
for _rule in OPTIMIZER_BY_CODE:
    updated = _rule_choice(_rule.code, _rule.rule, updated)


@device
def update_element(
    code: int, vectors: int, p: Any, p_at: int, g: Any, s: Any, s_at: int, t: Any, t_at: int, c: Any
) -> None:
    """Update one parameter and its state in place; of ``vectors`` state vectors the rule has, s is the first."""
    zero = g - g
    first = s[s_at] if vectors > 0 else zero
    second = t[t_at] if vectors > 1 else zero
    new, first, second = updated(code, p[p_at], g, first, second, c)
    p[p_at] = new
    if vectors > 0:
        s[s_at] = first
    if vectors > 1:
        t[t_at] = second


def constants(code: int, rate: float, step: int, hyper: Any) -> tuple[float, ...]:
    """Return the CONSTANTS numbers that a step's updates share, in float64; step counts from 1."""
    found = OPTIMIZER_BY_CODE[code].constants(hyper, rate, step)
    return (*found, *np.zeros(CONSTANTS - len(found)))
