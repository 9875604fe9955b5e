"""The losses: one record each, from which everything that lists losses is generated.

A loss that is a sum over elements is defined by two plain Python functions of one output z and its target y, which use
nothing but `math`. The CPU compiles them by ``jit(scalar=True)``, CUDA as device functions. A constant has the type of
z, so that float32 stays float32.
"""

import math
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
    title : str
        What it is called in a sentence, such as ``"squared error"``.
    targets : str
        What targets are: ``"values"`` of any size or ``"probabilities"`` from 0 to 1, one for each output (B, k), or
        class ``"labels"`` (B,).
    equation, derivative_equation : str
        Its loss of one element, or of one row where it is a mean over rows, and the derivative, for docstrings and
        documentation.
    value, slope : callable or None
        ``(z, y) -> float``: the loss of one element and its derivative with respect to z; None where the loss is not a
        sum over elements.
    correct : callable or None
        ``(z, y) -> bool``: whether an element is answered correctly, where elements are counted.
    mean_over_outputs : bool
        Whether it is reported as a mean over all elements; otherwise as a mean over rows of the sum over outputs.
    probabilities : str
        What makes probabilities of the outputs: ``"softmax"``, ``"sigmoid"``, or "" where they are none.
    flops, derivative_flops : int
        Floating-point operations an element, an exponential or logarithm counted as one.
    absolute_error : float
        The loss of an element is right to a few roundings of itself and of this times ``|z - y|``.
    source : str
        Where the loss was published.
    """

    name: str
    code: int
    title: str
    targets: str
    equation: str
    derivative_equation: str
    value: Any = None
    slope: Any = None
    correct: Any = None
    mean_over_outputs: bool = False
    probabilities: str = ""
    flops: int = 3
    derivative_flops: int = 3
    absolute_error: float = 0.0
    source: str = ""

    @property
    def takes_labels(self) -> bool:
        """Whether targets are class labels (B,) rather than a matrix (B, k)."""
        return self.targets == "labels"

    @property
    def unit_targets(self) -> bool:
        """Whether targets must lie between 0 and 1."""
        return self.targets == "probabilities"

    @property
    def counts_correct(self) -> bool:
        """Whether it is a loss for classification, of which an accuracy is reported."""
        return self.takes_labels or self.correct is not None


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
    """d^2/2 where |d| <= 1, else |d| - 1/2, of d = z - y."""
    real = type(z)
    half, one = real(0.5), real(1)
    d = z - y
    c = one if d > one else (-one if d < -one else d)
    return c * (d - half * c)


def huber_slope(z: Any, y: Any) -> Any:
    """d where |d| <= 1, else sign(d)."""
    one = type(z)(1)
    d = z - y
    return one if d > one else (-one if d < -one else d)


# ----------------------------------------------------------------------------- binary cross-entropy


def binary_cross_entropy(z: Any, y: Any) -> Any:
    """max(z, 0) - z y + log(1 + exp(-|z|)), of a logit z."""
    zero = type(z)(0)
    return (z if z > zero else zero) - z * y + math.log1p(math.exp(-abs(z)))


def binary_cross_entropy_slope(z: Any, y: Any) -> Any:
    """sigmoid(z) - y, from the exponential that cannot overflow."""
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
    """log(cosh(d)) = |d| + log((1 + exp(-2 |d|)) / 2), of d = z - y, so that nothing overflows."""
    half = type(z)(0.5)
    a = abs(z - y)
    return a + math.log1p(half * math.expm1(-(a + a)))


def log_cosh_slope(z: Any, y: Any) -> Any:
    """tanh(z - y)."""
    return math.tanh(z - y)


# -------------------------------------------------------------------------------------------- table

LOSSES: dict[str, LossSpec] = {
    spec.name: spec
    for spec in (
        LossSpec(
            "mse",
            0,
            "squared error",
            "values",
            "(z - y)^2",
            "2 (z - y)",
            mse,
            mse_slope,
            mean_over_outputs=True,
        ),
        LossSpec(
            "mae",
            1,
            "absolute error",
            "values",
            "|z - y|",
            "sign(z - y), 0 at 0",
            mae,
            mae_slope,
            mean_over_outputs=True,
        ),
        LossSpec(
            "huber",
            2,
            "Huber loss",
            "values",
            "d^2/2 where |d| <= 1, else |d| - 1/2, with d = z - y",
            "d where |d| <= 1, else sign(d), with d = z - y",
            huber,
            huber_slope,
            mean_over_outputs=True,
            flops=5,
            source="Huber 1964, with delta 1",
        ),
        LossSpec(
            "cross_entropy",
            3,
            "cross-entropy",
            "labels",
            "-log softmax(z)[label] = log sum exp(z) - z[label]",
            "softmax(z) - one_hot(label)",
            probabilities="softmax",
            derivative_flops=5,
        ),
        LossSpec(
            "binary_cross_entropy",
            4,
            "binary cross-entropy",
            "probabilities",
            "the sum over its outputs of -y log S - (1 - y) log(1 - S), with S = sigmoid(z)",
            "sigmoid(z) - y",
            binary_cross_entropy,
            binary_cross_entropy_slope,
            binary_correct,
            probabilities="sigmoid",
            flops=7,
            derivative_flops=4,
        ),
        LossSpec(
            "log_cosh",
            5,
            "log-cosh loss",
            "values",
            "log(cosh(z - y))",
            "tanh(z - y)",
            log_cosh,
            log_cosh_slope,
            mean_over_outputs=True,
            flops=6,
            absolute_error=0.5,  # log(cosh(d)) is d^2/2 near 0, the difference of two numbers near |d|
        ),
    )
}
"""Every loss by name, in the order of the codes."""

LOSS_BY_CODE = tuple(LOSSES.values())

CROSS_ENTROPY = LOSSES["cross_entropy"].code
"""Code of the one loss that is not a sum over elements."""
