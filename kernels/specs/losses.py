"""The losses: one record each, from which everything that lists losses is generated.

The functions of an elementwise loss work on one output z and its target y and use `math` only. The variant `loops` and
CUDA compile them, so that each formula is written once; `reference` states it a second time, in NumPy, as the oracle.
They call no helpers, and their constants have the type of z. ``docs/extending.md`` shows how to add a loss.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LossSpec:
    """A loss over a batch of outputs.

    Attributes
    ----------
    name : str
        Name of the public function; its gradient is ``<name>_derivative``.
    code : int
        The integer by which compiled code chooses it: its position in `LOSSES`.
    value, slope : callable or None
        ``(z, y) -> loss`` and its derivative with respect to z, of one output; None where the loss is no sum over
        outputs.
    equation, derivative_equation : str
        The formulas, in terms of d = y_pred - y_true or of logits Z, for docstrings and documentation.
    mean_over_outputs : bool
        Whether it is reported as the mean over all elements; otherwise as the mean over rows of the sum over outputs.
    takes_labels : bool
        Whether targets are class labels (B,) rather than a matrix (B, k).
    unit_targets : bool
        Whether targets must lie between 0 and 1.
    probabilities : str or None
        Which public function turns outputs into class probabilities: ``"softmax"``, ``"sigmoid"`` or none. The losses
        that have one are for classification: an accuracy is reported with them.
    flops, derivative_flops : int
        Floating-point operations an element.
    source : str
        Where the loss was published.
    """

    name: str
    code: int
    value: Callable[[Any, Any], Any] | None
    slope: Callable[[Any, Any], Any] | None
    equation: str
    derivative_equation: str
    mean_over_outputs: bool = False
    takes_labels: bool = False
    unit_targets: bool = False
    probabilities: str | None = None
    flops: int = 3
    derivative_flops: int = 3
    source: str = ""

    @property
    def counts_correct(self) -> bool:
        """Whether an accuracy is reported with it."""
        return self.probabilities is not None


# -------------------------------------------------------------------------------------------- numbers


def _mse(z: Any, y: Any) -> Any:
    d = z - y
    return d * d


def _mse_slope(z: Any, y: Any) -> Any:
    d = z - y
    return d + d


def _mae(z: Any, y: Any) -> Any:
    return abs(z - y)


def _mae_slope(z: Any, y: Any) -> Any:
    d = z - y
    one = type(d)(1)
    return one if d > one - one else (-one if d < one - one else d)  # otherwise d is 0 or NaN


def _huber(z: Any, y: Any) -> Any:
    d = z - y
    one = type(d)(1)
    c = one if d > one else (-one if d < -one else d)
    return c * (d - type(d)(0.5) * c)  # d^2/2 where c is d, otherwise |d| - 1/2


def _huber_slope(z: Any, y: Any) -> Any:
    d = z - y
    one = type(d)(1)
    return one if d > one else (-one if d < -one else d)


# ------------------------------------------------------------------------------------- logits


def _binary_cross_entropy(z: Any, y: Any) -> Any:
    zero = type(z)(0)
    return ((z if z > zero else zero) - z * y) + math.log1p(math.exp(-abs(z)))


def _binary_cross_entropy_slope(z: Any, y: Any) -> Any:
    one = type(z)(1)
    e = math.exp(-abs(z))
    q = e / (one + e)  # sigmoid(-|z|)
    return (one - y) - q if z > one - one else q - y


LOSSES: dict[str, LossSpec] = {
    spec.name: spec
    for spec in (
        LossSpec(
            name="mse",
            code=0,
            value=_mse,
            slope=_mse_slope,
            equation="d^2",
            derivative_equation="2 d / B",
            mean_over_outputs=True,
        ),
        LossSpec(
            name="mae",
            code=1,
            value=_mae,
            slope=_mae_slope,
            equation="|d|",
            derivative_equation="sign(d) / B, 0 at 0",
            mean_over_outputs=True,
        ),
        LossSpec(
            name="huber",
            code=2,
            value=_huber,
            slope=_huber_slope,
            equation="d^2/2 where |d| <= 1, otherwise |d| - 1/2",
            derivative_equation="d / B where |d| <= 1, otherwise sign(d) / B",
            mean_over_outputs=True,
            flops=5,
            source="Huber 1964, with delta 1",
        ),
        LossSpec(
            name="cross_entropy",
            code=3,
            value=None,
            slope=None,
            equation="-log softmax(Z)[label]",
            derivative_equation="(softmax(Z) - one_hot(label)) / B",
            takes_labels=True,
            probabilities="softmax",
            derivative_flops=5,
        ),
        LossSpec(
            name="binary_cross_entropy",
            code=4,
            value=_binary_cross_entropy,
            slope=_binary_cross_entropy_slope,
            equation="-y log S - (1 - y) log(1 - S) with S = sigmoid(Z)",
            derivative_equation="(sigmoid(Z) - y) / B",
            unit_targets=True,
            probabilities="sigmoid",
            flops=7,
            derivative_flops=4,
        ),
    )
}
"""Every loss by name, in the order of the codes."""

LOSS_BY_CODE = tuple(LOSSES.values())

CROSS_ENTROPY = LOSSES["cross_entropy"].code
BINARY_CROSS_ENTROPY = LOSSES["binary_cross_entropy"].code
