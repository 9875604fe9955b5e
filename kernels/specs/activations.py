"""The activations: one record each, from which everything that lists activations is generated.

The public functions and their docstrings, the rows of the registry, the error bounds, CUDA's device functions, the ONNX
operators and the tables of the documentation all come from `ACTIVATIONS`. ``docs/extending.md`` shows how to add one.

A record's functions work on one number and use `math` only. The variant `loops` and CUDA compile them, so that each
formula is written once; `reference` states it a second time, in NumPy, as the oracle. They call no helpers, and
their constants have the type of z: Numba types a bare literal as int64 or float64, and float32 with either of them
becomes float64, which is slower and rounds differently from NumPy. The first line of a function's docstring is its
equation in terms of the array Z, as public docstrings and the documentation show it; what follows is about rounding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .base import Choice, by_name, equation_of


class OnnxGraph(Protocol):
    """Interface through which an activation adds itself to an ONNX graph; values are identified by name."""

    def add(self, operator: str, *inputs: str) -> str:
        """Add a node with one output and return the output's name."""

    def constant(self, value: float) -> str:
        """Add a scalar of the network's dtype and return its name."""

    def erf(self, x: str) -> str:
        """Add the error function of a value and return the result's name."""


@dataclass(frozen=True)
class ActivationSpec(Choice):
    """An elementwise activation and its derivative.

    Attributes
    ----------
    name : str
        Name of the public function; its derivative is ``<name>_derivative``.
    code : int
        The integer by which compiled code chooses it: its position in `ACTIVATIONS`, which assigns it.
    function : callable
        ``z -> a``.
    derivative : callable
        ``z -> f'(z)``.
    onnx : callable
        ``(graph, z) -> a``: adds the activation to an `OnnxGraph`; both values are names.
    derivative_from_output : callable or None
        ``a -> f'(z)`` from the output a = f(z); None where the derivative needs z.
    he_init : bool
        Whether initial weights have He's scale (the ReLU family) rather than Glorot's.
    max_slope : float
        Largest value of ``|f'|``: the factor by which an error of Z may grow.
    relative_error : float
        Factor on the bound of f's error, if that error is larger than a few roundings of f.
    absolute_error, derivative_absolute_error : float
        Where f or f' is smaller than this, it is accurate to a few roundings of this magnitude.
    source : str
        Where the activation was published.
    """

    function: Callable[[Any], Any]
    derivative: Callable[[Any], Any]
    onnx: Callable[[OnnxGraph, str], str]
    derivative_from_output: Callable[[Any], Any] | None = None
    he_init: bool = False
    max_slope: float = 1.0
    relative_error: float = 1.0
    absolute_error: float = 0.0
    derivative_absolute_error: float = 0.0
    source: str = ""

    @property
    def equation(self) -> str:
        """The formula in terms of Z, for docstrings and documentation."""
        return equation_of(self.function)

    @property
    def derivative_equation(self) -> str:
        """The derivative's formula."""
        return equation_of(self.derivative)

    @property
    def needs_z(self) -> bool:
        """Whether the derivative needs Z; otherwise the output A is enough."""
        return self.derivative_from_output is None


def identity(z: Any) -> Any:
    """Z."""
    return z


def identity_derivative(z: Any) -> Any:
    """1.

    The argument may be z or the output.
    """
    return type(z)(1)


def relu(z: Any) -> Any:
    """max(0, Z)."""
    zero = type(z)(0)
    return zero if z < zero else z  # not max(): it would turn NaN into 0


def relu_derivative(z: Any) -> Any:
    """1 where Z > 0, else 0 (at 0 too: the usual subgradient).

    z and the output have the same sign.
    """
    real = type(z)
    return real(1) if z > real(0) else real(0)


def tanh(z: Any) -> Any:
    """tanh(Z)."""
    return math.tanh(z)


def tanh_derivative(z: Any) -> Any:
    """1 - tanh(Z)^2."""
    one, t = type(z)(1), math.tanh(z)
    return one - t * t


def tanh_derivative_from_output(a: Any) -> Any:
    """1 - a^2."""
    return type(a)(1) - a * a


def sigmoid(z: Any) -> Any:
    """1 / (1 + exp(-Z)).

    From the exponential that cannot overflow.
    """
    real = type(z)
    one, e = real(1), math.exp(-abs(z))
    return (e if z < real(0) else one) / (one + e)


def sigmoid_derivative(z: Any) -> Any:
    """S (1 - S) with S = sigmoid(Z).

    As sigmoid(z) sigmoid(-z), in which nothing cancels.
    """
    real = type(z)
    zero, one, e = real(0), real(1), math.exp(-abs(z))
    return (e if z < zero else one) / (one + e) * ((e if z > zero else one) / (one + e))


def sigmoid_derivative_from_output(a: Any) -> Any:
    """a (1 - a)."""
    return a * (type(a)(1) - a)


def leaky_relu(z: Any) -> Any:
    """Z where Z > 0, else Z / 100."""
    real = type(z)
    return z if z > real(0) else z * real(0.01)


def leaky_relu_derivative(z: Any) -> Any:
    """1 where Z > 0, else 1 / 100 (at 0 too).

    z and the output have the same sign.
    """
    real = type(z)
    return real(1) if z > real(0) else real(0.01)


def _leaky_relu_onnx(graph: OnnxGraph, z: str) -> str:
    """max(z, 0.01 z): ONNX's own LeakyRelu has no float64 in onnxruntime."""
    return graph.add("Max", z, graph.add("Mul", z, graph.constant(0.01)))


def gelu(z: Any) -> Any:
    """Z Phi(Z) = Z/2 (1 + erf(Z / sqrt 2)), the exact form.

    With Phi(z) = erfc(-z / sqrt 2) / 2; Phi(-40) is 0, and 0 times infinity would be NaN.
    """
    real = type(z)
    low = real(-40)
    return (low if z < low else z) * (real(0.5) * math.erfc(z * real(-0.7071067811865476)))


def gelu_derivative(z: Any) -> Any:
    """Phi(Z) + Z phi(Z), where Phi is the normal distribution and phi its density.

    phi(150) is 0, and 0 times infinity would be NaN.
    """
    real = type(z)
    limit = real(150)
    near = -limit if z < -limit else (limit if z > limit else z)
    return real(0.5) * math.erfc(z * real(-0.7071067811865476)) + near * real(0.3989422804014327) * math.exp(
        -near * near * real(0.5)
    )


def _gelu_onnx(graph: OnnxGraph, z: str) -> str:
    """z / 2 (1 + erf(z / sqrt 2))."""
    erf = graph.erf(graph.add("Mul", z, graph.constant(math.sqrt(0.5))))
    return graph.add("Mul", graph.add("Mul", z, graph.constant(0.5)), graph.add("Add", erf, graph.constant(1)))


def silu(z: Any) -> Any:
    """Z sigmoid(Z).

    Below 0 as z e^(z/2) e^(z/2) / (1 + e^z), where the last product alone may underflow.
    """
    real = type(z)
    low = real(-800)  # where the exponential is 0, and 0 times infinity would be NaN
    half = math.exp(-abs(z) * real(0.5))
    return ((low if z < low else z) * half * half if z < real(0) else z) / (real(1) + half * half)


def silu_derivative(z: Any) -> Any:
    """S (1 + Z (1 - S)) with S = sigmoid(Z).

    z is clamped to where S (1 - S) is 0.
    """
    real = type(z)
    zero, one, limit, e = real(0), real(1), real(800), math.exp(-abs(z))
    s, rest = (e if z < zero else one) / (one + e), (e if z > zero else one) / (one + e)
    near = -limit if z < -limit else (limit if z > limit else z)
    return s + near * s * rest


def elu(z: Any) -> Any:
    """Z where Z > 0, else exp(Z) - 1."""
    return z if z > type(z)(0) else math.expm1(z)


def elu_derivative(z: Any) -> Any:
    """1 where Z > 0, else exp(Z)."""
    real = type(z)
    return real(1) if z > real(0) else math.exp(z)


def elu_derivative_from_output(a: Any) -> Any:
    """1 where a > 0, else a + 1."""
    real = type(a)
    return real(1) if a > real(0) else a + real(1)


def _elu_onnx(graph: OnnxGraph, z: str) -> str:
    """max(z, 0) + exp(min(z, 0)) - 1: ONNX's own Elu has no float64 in onnxruntime."""
    zero, one = graph.constant(0), graph.constant(1)
    below = graph.add("Sub", graph.add("Exp", graph.add("Min", z, zero)), one)
    return graph.add("Add", graph.add("Max", z, zero), below)


def softplus(z: Any) -> Any:
    """log(1 + exp(Z)).

    As max(z, 0) + log(1 + e^-|z|), which cannot overflow.
    """
    zero = type(z)(0)
    return (zero if z < zero else z) + math.log1p(math.exp(-abs(z)))


def _softplus_onnx(graph: OnnxGraph, z: str) -> str:
    """max(z, 0) + log(1 + exp(-|z|)): ONNX's own Softplus has no float64 in onnxruntime."""
    decay = graph.add("Exp", graph.add("Neg", graph.add("Abs", z)))
    rest = graph.add("Log", graph.add("Add", decay, graph.constant(1)))
    return graph.add("Add", graph.add("Max", z, graph.constant(0)), rest)


def mish(z: Any) -> Any:
    """Z tanh(log(1 + exp(Z))).

    A rational function of e^-|z|; below 0, as in `silu`, the last product alone may underflow.
    """
    real = type(z)
    one, two, low = real(1), real(2), real(-800)
    half = math.exp(-abs(z) * real(0.5))
    e = half * half
    if z < real(0):
        return (low if z < low else z) * half * half * ((e + two) / (e * (e + two) + two))
    return z * ((one + two * e) / (one + two * e * (one + e)))


def mish_derivative(z: Any) -> Any:
    """t + Z S (1 - t^2) with t = tanh(log(1 + exp(Z))) and S = sigmoid(Z).

    z is clamped to where the product is 0.
    """
    real = type(z)
    one, two, four, limit = real(1), real(2), real(4), real(800)
    near = -limit if z < -limit else (limit if z > limit else z)
    e = math.exp(-abs(z))
    if z < real(0):
        q = one / (e * (e + two) + two)
        return e * q * (e + two + near * four * (one + e) * q)
    q = one / (one + two * e * (one + e))
    return q * (one + two * e + near * four * e * e * (one + e) * q)


# ------------------------------------------------------------------------------------------- table

ACTIVATIONS = by_name(
    ActivationSpec("identity", identity, identity_derivative, lambda graph, z: z, identity_derivative),
    ActivationSpec("relu", relu, relu_derivative, lambda graph, z: graph.add("Relu", z), relu_derivative, he_init=True),
    ActivationSpec(
        "tanh",
        tanh,
        tanh_derivative,
        lambda graph, z: graph.add("Tanh", z),
        tanh_derivative_from_output,
        derivative_absolute_error=0.5,  # 1 - tanh^2 cancels in its tails
    ),
    ActivationSpec(
        "sigmoid", sigmoid, sigmoid_derivative, lambda graph, z: graph.add("Sigmoid", z), sigmoid_derivative_from_output
    ),
    ActivationSpec(
        "leaky_relu", leaky_relu, leaky_relu_derivative, _leaky_relu_onnx, leaky_relu_derivative, he_init=True
    ),
    ActivationSpec(
        "gelu",
        gelu,
        gelu_derivative,
        _gelu_onnx,
        he_init=True,
        max_slope=1.129,
        absolute_error=0.25,  # in the lower tail the error is 1 + z^2 times the rounding of z
        derivative_absolute_error=0.5,  # changes its sign at -0.75
        source="Hendrycks and Gimpel 2016",
    ),
    ActivationSpec(
        "silu",
        silu,
        silu_derivative,
        lambda graph, z: graph.add("Mul", z, graph.add("Sigmoid", z)),
        he_init=True,
        max_slope=1.1,
        relative_error=2.0,  # the reference squares an exponential, and with it its error
        derivative_absolute_error=0.5,  # changes its sign at -1.28
        source="Hendrycks and Gimpel 2016",
    ),
    ActivationSpec(
        "elu",
        elu,
        elu_derivative,
        _elu_onnx,
        elu_derivative_from_output,
        he_init=True,
        source="Clevert, Unterthiner and Hochreiter 2015, with alpha 1",
    ),
    ActivationSpec("softplus", softplus, sigmoid, _softplus_onnx, he_init=True, source="Dugas et al. 2001"),
    ActivationSpec(
        "mish",
        mish,
        mish_derivative,
        lambda graph, z: graph.add("Mul", z, graph.add("Tanh", _softplus_onnx(graph, z))),
        he_init=True,
        max_slope=1.09,
        relative_error=2.0,  # the reference squares an exponential, and with it its error
        derivative_absolute_error=0.5,  # changes its sign at -1.19
        source="Misra 2019",
    ),
)
"""Every activation by name, in the order of the codes."""

ACTIVATION_BY_CODE = tuple(ACTIVATIONS.values())

FORMULAS: dict[str, Callable[[Any], Any]] = {
    **{spec.name: spec.function for spec in ACTIVATION_BY_CODE},
    **{f"{spec.name}_derivative": spec.derivative for spec in ACTIVATION_BY_CODE},
}
"""The functions of one number by the names of the public functions."""

IDENTITY, RELU, TANH, SIGMOID = (ACTIVATIONS[name].code for name in ("identity", "relu", "tanh", "sigmoid"))
"""Codes of the activations that compiled code or other libraries know by name."""
