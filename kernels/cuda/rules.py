"""Device functions of the losses and update rules, chosen by code; compiled from the formulas of the specs."""

from typing import Any

import numpy as np

from ..specs.losses import LOSS_BY_CODE
from ..specs.optimizers import HYPER_SIZE, OPTIMIZER_BY_CODE, OptimizerSpec, flushed
from .device import by_code, device

CONSTANTS = HYPER_SIZE
"""Numbers that all elements of an update share, computed once a step on the host, in float64."""

RATES = CONSTANTS + 1
"""Columns of the table of rates, a row a step: the update rule's constants, 1 / the batch's weight."""

loss_value = by_code({loss.code: loss.value for loss in LOSS_BY_CODE if loss.value is not None})
"""``(code, z, y)`` -> the loss of one element, where the loss is a sum over elements."""

loss_slope = by_code({loss.code: loss.slope for loss in LOSS_BY_CODE if loss.slope is not None})
"""``(code, z, y)`` -> its derivative with respect to z."""

is_correct = by_code(
    {loss.code: loss.correct for loss in LOSS_BY_CODE if loss.correct is not None} | {-1: lambda z, y: False}
)
"""``(code, z, y)`` -> whether an element is answered correctly; never, where elements are not counted."""

_flushed = device(flushed)
_updated = by_code({rule.code: rule.rule for rule in OPTIMIZER_BY_CODE})


@device
def update_element(code: int, vectors: int, arrays: Any, places: Any, g: Any, c: Any) -> None:
    """Update one parameter and its state in place; of ``vectors`` state vectors the rule has, s is the first.

    ``arrays``, ``places``: those of p, s and t, and where in them the element is; ``c``: the step's constants.
    """
    (p, s, t), (p_at, s_at, t_at) = arrays, places
    zero = g - g
    first = s[s_at] if vectors > 0 else zero
    second = t[t_at] if vectors > 1 else zero
    p[p_at], first, second = _updated(code, p[p_at], g, first, second, c)
    if vectors > 0:
        s[s_at] = _flushed(first)
    if vectors > 1:
        t[t_at] = _flushed(second)


def constants(rule: OptimizerSpec, hyper: Any, rate: float, step: int) -> tuple[float, ...]:
    """Return the CONSTANTS numbers that a step's updates share, in float64; step counts from 1."""
    found = rule.constants(hyper, rate, step)
    return (*found, *(0.0,) * (CONSTANTS - len(found)))


def rate_table(
    code: int, hyper: Any, rates: Any, batch_weights: Any, steps: range, steps_before: int
) -> np.ndarray[Any, Any]:
    """Return an epoch's table of rates (batches, RATES), with the constants of ``steps``; the others' are 0."""
    table = np.zeros((len(batch_weights), RATES))
    np.divide(1, batch_weights, out=table[:, CONSTANTS], where=batch_weights > 0)
    rule, values = OPTIMIZER_BY_CODE[code], hyper.tolist()
    for step in steps:
        rate = float(rates[min(step, len(rates) - 1)])
        table[step, :CONSTANTS] = constants(rule, values, rate, step + steps_before + 1)
    return table


def batch_weights_of(weights: Any, order: Any, rows: int, batch: int) -> np.ndarray[Any, Any]:
    """The weight of every batch of an epoch: its rows, where rows have none."""
    starts = np.arange(0, rows, batch)
    if weights is None:
        return np.minimum(batch, rows - starts).astype(np.float64)
    return np.add.reduceat(weights if order is None else weights[order], starts)
