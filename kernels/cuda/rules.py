"""Device functions of the losses and update rules, selected by code and compiled from the formulas of the specs."""

from typing import Any

import numpy as np

from ..engine.optimizer_state import OptimizerState
from ..specs.losses import LOSS_BY_CODE
from ..specs.optimizers import HYPER_SIZE, OPTIMIZER_BY_CODE, OptimizerSpec, flushed
from .device import by_code, device

CONSTANTS = HYPER_SIZE
"""Number of constants that all elements of an update share; the host computes them once per step, in float64."""

INVERSE_WEIGHT, L2, MAX_ROW_LOSS = range(CONSTANTS, CONSTANTS + 3)
RATES = CONSTANTS + 3
"""Number of columns of the rate table, which has one row per step: the update rule's constants, 1 / the batch's weight,
the step's l2, and the largest loss that a row may contribute."""

loss_value = by_code({loss.code: loss.value for loss in LOSS_BY_CODE if loss.value is not None})
"""``(code, z, y)`` -> the loss of one element, for losses that are sums over elements."""

loss_slope = by_code({loss.code: loss.slope for loss in LOSS_BY_CODE if loss.slope is not None})
"""``(code, z, y)`` -> its derivative with respect to z."""

is_correct = by_code(
    {loss.code: loss.correct for loss in LOSS_BY_CODE if loss.correct is not None} | {-1: lambda z, y: False}
)
"""``(code, z, y)`` -> whether an element's answer is correct; always False if the loss does not count elements."""

_flushed = device(flushed)
_updated = by_code({rule.code: rule.rule for rule in OPTIMIZER_BY_CODE})


@device
def update_element(code: int, vectors: int, arrays: Any, places: Any, g: Any, c: Any) -> None:
    """Update one parameter and its state in place, and flush denormals.

    One thread calls it for an element; it neither synchronises nor uses shared memory.

    Parameters
    ----------
    code : int
        Code of the OptimizerSpec.
    vectors : int
        Number of the rule's state vectors, 0 to 2.
    arrays : tuple of vectors
        (p, s, t): parameters, first and second state vector, float32 or float64. Only ``vectors`` state vectors are
        read and written; the others may be any vector of the dtype.
    places : tuple of int
        The element's index in each of these vectors.
    g : float
        Its gradient, of the same dtype.
    c : tuple of float
        The step's CONSTANTS numbers, of the same dtype; see `constants`.
    """
    (p, s, t), (p_at, s_at, t_at) = arrays, places
    zero = g - g
    first = s[s_at] if vectors > 0 else zero
    second = t[t_at] if vectors > 1 else zero
    value, first, second = _updated(code, p[p_at], g, first, second, c)
    p[p_at] = _flushed(value)
    if vectors > 0:
        s[s_at] = _flushed(first)
    if vectors > 1:
        t[t_at] = _flushed(second)


def constants(rule: OptimizerSpec, hyper: Any, rate: float, step: int) -> tuple[float, ...]:
    """Return the constants that all elements of a step's update share, in float64.

    Parameters
    ----------
    rule : OptimizerSpec
    hyper : sequence of float
        HYPER_SIZE hyperparameters, in the order of the spec.
    rate : float
        Learning rate of the step.
    step : int
        Number of the step over all epochs, from 1.

    Returns
    -------
    tuple of float, length CONSTANTS
        The rule's constants, padded with zeros.
    """
    found = rule.constants(hyper, rate, step)
    return (*found, *(0.0,) * (CONSTANTS - len(found)))


def rate_table(
    optimizer: OptimizerState, rates: Any, batch_weights: Any, steps: range, steps_before: int
) -> np.ndarray[Any, Any]:
    """Return an epoch's rate table, which the steps read on the device.

    Parameters
    ----------
    optimizer : OptimizerState
        Provides the rule, its hyperparameters, l2 per row and per batch, and the largest loss of a row.
    rates : ndarray of float64, shape (steps,), or None
        Learning rate of each step of the epoch; further steps use the last one. Not read if ``steps`` is empty.
    batch_weights : ndarray of float64, shape (batches,)
        Sum of the sample weights of each batch of the epoch.
    steps : range
        The batches to train on: only their constants are computed; those of other batches are 0.
    steps_before : int
        Steps taken in all epochs before the first step of this one.

    Returns
    -------
    ndarray of float64, shape (batches, RATES)
        The step's `constants`; 1 / the batch's weight, or 0 for a weight of 0; the factor of the weights in l2's
        gradient; and the largest loss.
    """
    table = np.zeros((len(batch_weights), RATES))
    np.divide(1, batch_weights, out=table[:, INVERSE_WEIGHT], where=batch_weights > 0)
    table[:, L2] = optimizer.l2 + optimizer.l2_per_batch * table[:, INVERSE_WEIGHT]
    table[:, MAX_ROW_LOSS] = optimizer.max_row_loss
    rule, values = OPTIMIZER_BY_CODE[optimizer.code], optimizer.hyper.tolist()
    for step in steps:
        rate = float(rates[min(step, len(rates) - 1)])
        table[step, :CONSTANTS] = constants(rule, values, rate, step + steps_before + 1)
    return table


def batch_weights_of(weights: Any, order: Any, rows: int, batch: int) -> np.ndarray[Any, Any]:
    """Return the weight of every batch of an epoch.

    Parameters
    ----------
    weights : ndarray of float64, shape (rows,), or None
        Sample weights; None means that each row has weight 1.
    order : ndarray of int64, shape (rows,), or None
        The order in which rows are visited.
    rows, batch : int
        Rows of the epoch and of a batch; the last may have fewer.

    Returns
    -------
    ndarray of float64, shape (batches,)
    """
    starts = np.arange(0, rows, batch)
    if weights is None:
        return np.minimum(batch, rows - starts).astype(np.float64)
    return np.add.reduceat(weights if order is None else weights[order], starts)
