"""The losses: one record each, from which everything that lists losses is generated.

A loss that is a sum over elements is defined by two plain Python functions of one output z and its target y, which use
nothing but `math`. The CPU compiles them with ``jit(scalar=True)``, CUDA as device functions. Constants are cast to the
type of z, so that float32 stays float32. The first line of a function's docstring is its equation, as public docstrings
and the documentation show it.
"""

import math
from dataclasses import dataclass
from typing import Any

from .base import Choice, by_name, equation_of


@dataclass(frozen=True)
class LossSpec(Choice):
    """A loss over a batch of outputs.

    Attributes
    ----------
    name : str
        Name of the public function; its gradient is ``<name>_derivative``.
    code : int
        The integer by which compiled code chooses it: its position in `LOSSES`, which assigns it.
    title : str
        Name for use in sentences, such as ``"squared error"``.
    targets : str
        Kind of targets: ``"values"`` of any size or ``"probabilities"`` from 0 to 1, one for each output (B, k), or
        class ``"labels"`` (B,), instead of which soft labels are allowed: probabilities of the classes (B, k).
    value, slope : callable or None
        ``(z, y) -> float``: the loss of one element and its derivative with respect to z; None where the loss is not a
        sum over elements.
    correct : callable or None
        ``(z, y) -> bool``: whether the output for an element is correct, if the accuracy counts elements.
    row_equations : tuple of str
        Equations of the loss of one row and its derivative, if the loss is not a sum over elements.
    flops, derivative_flops : int
        Floating-point operations per element; an exponential or a logarithm counts as one.
    absolute_error : float
        The loss of an element is accurate to a few roundings of itself and of this times ``|z - y|``.
    source : str
        Where the loss was published.
    """

    title: str
    targets: str
    value: Any = None
    slope: Any = None
    correct: Any = None
    row_equations: tuple[str, str] = ("", "")
    flops: int = 3
    derivative_flops: int = 3
    absolute_error: float = 0.0
    source: str = ""

    @property
    def equation(self) -> str:
        """Equation of one element, or of one row if the loss is a mean over rows, for docstrings and documentation."""
        return self.row_equations[0] if self.value is None else equation_of(self.value)

    @property
    def derivative_equation(self) -> str:
        """The equation of the derivative."""
        return self.row_equations[1] if self.slope is None else equation_of(self.slope)

    @property
    def takes_labels(self) -> bool:
        """Whether targets are class labels (B,), or soft ones (B, k), rather than a number for each output."""
        return self.targets == "labels"

    @property
    def unit_targets(self) -> bool:
        """Whether targets must lie between 0 and 1."""
        return self.targets == "probabilities"

    @property
    def mean_over_outputs(self) -> bool:
        """Whether the loss is reported as a mean over all elements, not as a mean over rows of the sum over outputs."""
        return self.targets == "values"

    @property
    def counts_correct(self) -> bool:
        """Whether this is a classification loss, for which an accuracy is reported."""
        return self.targets != "values"

    @property
    def probabilities(self) -> str:
        """The function from outputs to probabilities: ``"softmax"``, ``"sigmoid"``, or "" if there is none."""
        return {"values": "", "probabilities": "sigmoid", "labels": "softmax"}[self.targets]


# ---------------------------------------------------------------------------------------------- mse


def mse(z: Any, y: Any) -> Any:
    """(z - y)^2."""
    d = z - y
    return d * d


def mse_slope(z: Any, y: Any) -> Any:
    """2 (z - y)."""
    d = z - y
    return d + d


# ---------------------------------------------------------------------------------------------- mae


def mae(z: Any, y: Any) -> Any:
    """|z - y|."""
    return abs(z - y)


def mae_slope(z: Any, y: Any) -> Any:
    """sign(z - y), 0 at 0."""
    real = type(z)
    zero, one = real(0), real(1)
    d = z - y
    return one if d > zero else (-one if d < zero else d)  # d is 0 or NaN


# -------------------------------------------------------------------------------------------- huber


def huber(z: Any, y: Any) -> Any:
    """d^2/2 where |d| <= 1, else |d| - 1/2, with d = z - y."""
    real = type(z)
    half, one = real(0.5), real(1)
    d = z - y
    c = one if d > one else (-one if d < -one else d)
    return c * (d - half * c)


def huber_slope(z: Any, y: Any) -> Any:
    """d where |d| <= 1, else sign(d), with d = z - y."""
    one = type(z)(1)
    d = z - y
    return one if d > one else (-one if d < -one else d)


# ----------------------------------------------------------------------------- binary cross-entropy


def binary_cross_entropy(z: Any, y: Any) -> Any:
    """the sum over its outputs of -y log S - (1 - y) log(1 - S), with S = sigmoid(z).

    As max(z, 0) - z y + log(1 + exp(-|z|)), of a logit z.
    """
    zero = type(z)(0)
    return (z if z > zero else zero) - z * y + math.log1p(math.exp(-abs(z)))


def binary_cross_entropy_slope(z: Any, y: Any) -> Any:
    """sigmoid(z) - y.

    From the exponential that cannot overflow.
    """
    real = type(z)
    zero, one = real(0), real(1)
    e = math.exp(-abs(z))
    return (e if z < zero else one) / (one + e) - y


def binary_correct(z: Any, y: Any) -> bool:
    """Whether the more probable answer is the target's."""
    real = type(z)
    return (z > real(0)) == (y > real(0.5))


# ----------------------------------------------------------------------------------------- log_cosh


def log_cosh(z: Any, y: Any) -> Any:
    """log(cosh(z - y)).

    As |d| + log((1 + exp(-2 |d|)) / 2), of d = z - y, so that nothing overflows.
    """
    half = type(z)(0.5)
    a = abs(z - y)
    return a + math.log1p(half * math.expm1(-(a + a)))


def log_cosh_slope(z: Any, y: Any) -> Any:
    """tanh(z - y)."""
    return math.tanh(z - y)


# -------------------------------------------------------------------------------------------- table

LOSSES = by_name(
    LossSpec("mse", "squared error", "values", mse, mse_slope),
    LossSpec("mae", "absolute error", "values", mae, mae_slope),
    LossSpec("huber", "Huber loss", "values", huber, huber_slope, flops=5, source="Huber 1964, with delta 1"),
    LossSpec(
        "cross_entropy",
        "cross-entropy",
        "labels",
        row_equations=(
            "-sum(y log softmax(z)) = log sum exp(z) - sum(y z), with y = one_hot(label) for a label",
            "softmax(z) - y",
        ),
        derivative_flops=5,
    ),
    LossSpec(
        "binary_cross_entropy",
        "binary cross-entropy",
        "probabilities",
        binary_cross_entropy,
        binary_cross_entropy_slope,
        binary_correct,
        flops=7,
        derivative_flops=4,
    ),
    # Near 0, log(cosh(d)) is d^2/2, computed as the difference of two numbers near |d|.
    LossSpec("log_cosh", "log-cosh loss", "values", log_cosh, log_cosh_slope, flops=6, absolute_error=0.5),
)
"""Every loss by name, in the order of the codes."""

LOSS_BY_CODE = tuple(LOSSES.values())

CROSS_ENTROPY = LOSSES["cross_entropy"].code
"""Code of the one loss that is not a sum over elements."""
