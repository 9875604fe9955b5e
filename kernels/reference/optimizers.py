"""The update rules in NumPy, in place: the oracle that every kernel is checked against."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .activations import Array


def sgd_update(
    parameters: Array,
    gradient: Array,
    velocity: Array,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
) -> None:
    """v <- momentum v + g;  p <- p - learning_rate v, with nesterov p <- p - learning_rate (g + momentum v).

    In place; with momentum 0, v is left alone. Nesterov's form is PyTorch's (Sutskever et al. 2013).
    """
    if momentum == 0:
        parameters -= learning_rate * gradient
        return
    velocity *= momentum
    velocity += gradient
    parameters -= learning_rate * (gradient + momentum * velocity if nesterov else velocity)


def adam_update(
    parameters: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    step: int,
) -> None:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1); step counts from 1.  In place.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
    p <- p - learning_rate weight_decay p, decoupled (AdamW, Loshchilov and Hutter 2019, in PyTorch's form)
    p <- p - learning_rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
    """
    mean *= beta1
    mean += (1 - beta1) * gradient
    square *= beta2
    square += (1 - beta2) * gradient**2
    parameters *= 1 - learning_rate * weight_decay
    corrected_mean = mean / (1 - beta1**step)
    corrected_square = square / (1 - beta2**step)
    parameters -= learning_rate * corrected_mean / (np.sqrt(corrected_square) + epsilon)


Rule = Callable[[Array, Array, Array, Any, float, int], None]

RULES: dict[str, Rule] = {
    "none": lambda p, g, state, hyper, rate, step: None,
    "sgd": lambda p, g, state, hyper, rate, step: sgd_update(p, g, g, rate, 0.0, False),
    "momentum": lambda p, g, state, hyper, rate, step: sgd_update(p, g, state[0], rate, hyper[0], False),
    "nesterov": lambda p, g, state, hyper, rate, step: sgd_update(p, g, state[0], rate, hyper[0], True),
    "adam": lambda p, g, state, hyper, rate, step: adam_update(p, g, state[0], state[1], rate, *hyper[:4], step),
}
"""Every rule of `specs.optimizers` as ``(parameters, gradient, state, hyper, rate, step)``."""
