"""The public parameter updates, in place: each validates its arguments and calls a variant.

`api.activations` states the rules that all public functions follow.
"""

import operator

from ..registry import find
from ..specs.base import Array
from . import validation


def sgd_update(
    parameters: Array,
    gradient: Array,
    velocity: Array,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    variant: str = "auto",
) -> None:
    """Gradient descent with momentum, in place: v <- momentum v + g, p <- p - learning_rate v.

    Parameters
    ----------
    parameters, gradient, velocity : ndarray, shape (P,)
        Contiguous arrays of one float dtype. ``parameters`` and ``velocity`` are overwritten; with
        momentum 0 ``velocity`` is left alone.
    learning_rate : float
        Step size.
    momentum : float, default 0.0
        Fraction of the previous velocity to keep.
    nesterov : bool, default False
        Whether to use Nesterov momentum in PyTorch's form: p <- p - learning_rate (g + momentum v), with the new v.
    variant : str, default "auto"
        The variant to run.

    Raises
    ------
    TypeError
        If an array is not a NumPy array, or the dtypes differ or are not float32 or float64.
    ValueError
        If the shapes differ, or an array that is overwritten is not contiguous or not writable.
    """
    validation.in_place(parameters=parameters, gradient=gradient, velocity=velocity)
    find("sgd_update", variant, parameters.size)(
        parameters, gradient, velocity, float(learning_rate), float(momentum), bool(nesterov)
    )


def adam_update(
    parameters: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    step: int,
    weight_decay: float = 0.0,
    variant: str = "auto",
) -> None:
    """One step of Adam with bias correction (Kingma and Ba 2015, algorithm 1), or of AdamW, in place.

    Parameters
    ----------
    parameters, gradient, mean, square : ndarray, shape (P,)
        Contiguous arrays of one float dtype. All but ``gradient`` are overwritten; ``mean`` and
        ``square`` are the running moments, zero before the first step.
    learning_rate, beta1, beta2, epsilon : float
        The paper's alpha, beta1, beta2 and epsilon.
    step : int
        Counts from 1.
    weight_decay : float, default 0.0
        First p <- p - learning_rate weight_decay p: decoupled from the gradient (AdamW, Loshchilov and
        Hutter 2019, as PyTorch does it).
    variant : str, default "auto"
        The variant to run.

    Raises
    ------
    TypeError
        If an array is not a NumPy array, or the dtypes differ or are not float32 or float64.
    ValueError
        If the shapes differ, an array that is overwritten is not contiguous or not writable, or ``step``
        is below 1.
    """
    validation.in_place(parameters=parameters, gradient=gradient, mean=mean, square=square)
    step = operator.index(step)
    if step < 1:
        raise ValueError(f"step is {step}; it counts from 1")
    hyper = (float(value) for value in (learning_rate, beta1, beta2, epsilon, weight_decay))
    find("adam_update", variant, parameters.size)(parameters, gradient, mean, square, *hyper, step)


def rmsprop_update(
    parameters: Array,
    gradient: Array,
    square: Array,
    learning_rate: float,
    alpha: float = 0.99,
    epsilon: float = 1e-8,
    variant: str = "auto",
) -> None:
    """One step of RMSprop (Hinton 2012, in PyTorch's form, without momentum), in place.

    v <- alpha v + (1 - alpha) g^2, p <- p - learning_rate g / (sqrt(v) + epsilon).

    Parameters
    ----------
    parameters, gradient, square : ndarray, shape (P,)
        Contiguous arrays of one float dtype. All but ``gradient`` are overwritten; ``square`` is v, the
        running mean of g^2, zero before the first step.
    learning_rate : float
        Step size.
    alpha : float, default 0.99
        Fraction of the running mean to keep.
    epsilon : float, default 1e-8
        Added to the denominator, which keeps the division finite.
    variant : str, default "auto"
        The variant to run.

    Raises
    ------
    TypeError
        If an array is not a NumPy array, or the dtypes differ or are not float32 or float64.
    ValueError
        If the shapes differ, an array that is overwritten is not contiguous or not writable, or there is
        no such variant.
    """
    validation.in_place(parameters=parameters, gradient=gradient, square=square)
    find("rmsprop_update", variant, parameters.size)(
        parameters, gradient, square, float(learning_rate), float(alpha), float(epsilon)
    )


PUBLIC = {function.__name__: function for function in (sgd_update, adam_update, rmsprop_update)}
"""All of them by name."""
