"""Optimizers and learning-rate schedules: hyper-parameters as frozen dataclasses.

Their state lives in the Trainer, their arithmetic in the kernels.
"""

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from .checks import number
from .hints import hinting
from .kernels.engine import schedules
from .kernels.specs.base import Array
from .kernels.specs.optimizers import OPTIMIZERS, OptimizerSpec

_LIMITS: dict[str, dict[str, float]] = {
    **{name: {"above": 0} for name in ("learning_rate", "then", "every", "epochs", "epsilon")},
    **{name: {"least": 0, "below": 1} for name in ("momentum", "beta1", "beta2", "alpha")},
    "weight_decay": {"least": 0},
    "factor": {"above": 0, "most": 1},
    "final": {"least": 0, "most": 1},
}
"""The range of every numeric hyper-parameter, as arguments of `checks.number`."""

_OPTIONAL = ("weight_decay",)
"""Hyper-parameters that default to 0 for optimizers without them: Adam has no weight_decay."""


@dataclass(frozen=True)
class _Checked:
    """Base of schedules and optimizers: checks every field that `_LIMITS` names."""

    takes: ClassVar[tuple[type, ...]] = ()
    """Schedules that are accepted as the learning rate instead of a number."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_schedule = field.name in ("learning_rate", "then") and isinstance(value, self.takes)
            if field.name in _LIMITS and not is_schedule:
                number(f"{type(self).__name__} {field.name}", value, **_LIMITS[field.name])


# ------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True)
class StepDecay(_Checked):
    """A learning rate that is multiplied by a factor every ``every`` epochs.

    Parameters
    ----------
    learning_rate : float
        The initial rate, above 0.
    every : float
        Epochs between changes, above 0.
    factor : float, default 0.1
        0 < factor <= 1.
    """

    learning_rate: float
    every: float
    factor: float = 0.1

    def rates(self, times: Array) -> Array:
        """The rate at each time, in epochs."""
        return float(self.learning_rate) * schedules.step_decay(times, float(self.every), float(self.factor))


@dataclass(frozen=True)
class CosineDecay(_Checked):
    """A learning rate that falls along half a cosine (Loshchilov and Hutter 2017), then stays constant.

    Parameters
    ----------
    learning_rate : float
        The initial rate, above 0.
    epochs : float
        Epochs until the final rate is reached, above 0.
    final : float, default 0.0
        The final rate, as a fraction of the initial one, 0 <= final <= 1.
    """

    learning_rate: float
    epochs: float
    final: float = 0.0

    def rates(self, times: Array) -> Array:
        """The rate at each time, in epochs."""
        return float(self.learning_rate) * schedules.cosine_decay(times, float(self.epochs), float(self.final))


@dataclass(frozen=True)
class WarmUp(_Checked):
    """A learning rate that grows linearly from 0, then follows another rate or schedule.

    Parameters
    ----------
    epochs : float
        Length of the warm-up in epochs, above 0.
    then : float or StepDecay or CosineDecay
        The rate or schedule that it grows to; the schedule's time, too, counts from the first epoch.
    """

    epochs: float
    then: float | StepDecay | CosineDecay

    takes = (StepDecay, CosineDecay)

    @property
    def learning_rate(self) -> float:
        """The rate at time 0 without warm-up."""
        return self.then.learning_rate if isinstance(self.then, (StepDecay, CosineDecay)) else float(self.then)

    def rates(self, times: Array) -> Array:
        """The rate at each time, in epochs."""
        then = self.then.rates(times) if isinstance(self.then, (StepDecay, CosineDecay)) else float(self.then)
        return then * schedules.warm_up(times, float(self.epochs))


Schedule = StepDecay | CosineDecay | WarmUp

SCHEDULE_CLASSES: dict[str, type[Schedule]] = {made.__name__: made for made in (StepDecay, CosineDecay, WarmUp)}
"""The schedules by class name, as checkpoints write it."""

# ------------------------------------------------------------------------------------------- optimizers

OPTIMIZER_CLASSES: dict[str, type["Optimizer"]] = {}
"""The optimizers by class name, as checkpoints write it; classes of this module register themselves."""


@dataclass(frozen=True)
class Optimizer(_Checked):
    """Base class of optimizers: a learning rate, and a kernels' update rule to which the other fields belong.

    A subclass has a field for each hyper-parameter of its rule, under the name that the rule's spec gives it.

    Parameters
    ----------
    learning_rate : float or schedule
        Step size, above 0; or `StepDecay`, `CosineDecay`, `WarmUp`.
    """

    learning_rate: float | Schedule

    takes = (StepDecay, CosineDecay, WarmUp)

    rule: ClassVar[str]
    """Name of the update rule, a key of the kernels' `OPTIMIZERS`."""

    def __init_subclass__(cls) -> None:
        if cls.__module__ == __name__:  # a user's class of the same name must not change what checkpoints mean
            OPTIMIZER_CLASSES[cls.__name__] = cls

    @property
    def spec(self) -> OptimizerSpec:
        """The kernels' record of the update rule."""
        return OPTIMIZERS[self.rule]

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = OPTIMIZERS.get(getattr(self, "rule", "sgd"))
        if rule is None:
            raise ValueError(f"{type(self).__name__} rule is {self.rule!r}; there are: {', '.join(OPTIMIZERS)}")
        wanted = self.spec.hyperparameters
        missing = [name for name in wanted if not hasattr(self, name) and name not in _OPTIONAL]
        if missing:
            raise TypeError(
                f"{type(self).__name__} has no field {', '.join(missing)}; its update rule {self.spec.name!r} takes "
                f"{', '.join(wanted)}: give it a field of each of these names"
            )

    @property
    def hyper(self) -> tuple[float, ...]:
        """The hyper-parameters in the order of the rule's spec."""
        return tuple(float(getattr(self, name, 0.0)) for name in self.spec.hyperparameters)

    def rates(self, epoch: int, steps: int) -> Array:
        """Return the rate of each of an epoch's steps, or a single one if it is constant."""
        if isinstance(self.learning_rate, Schedule):
            return self.learning_rate.rates(schedules.step_times(epoch, steps))
        return np.array([float(self.learning_rate)])


@hinting
@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, optionally with momentum.

    v <- momentum v + gradient;  parameters <- parameters - learning_rate v,
    with nesterov parameters <- parameters - learning_rate (gradient + momentum v)

    Parameters
    ----------
    learning_rate : float or schedule, default 0.01
        Step size, above 0; or `StepDecay`, `CosineDecay`, `WarmUp`.
    momentum : float, default 0.0
        How much of the last step to keep, 0 <= momentum < 1.
    nesterov : bool, default False
        Look ahead (Sutskever et al. 2013, in PyTorch's form); needs a momentum.

    Raises
    ------
    TypeError
        If a hyper-parameter is not a number.
    ValueError
        If a hyper-parameter is out of range.
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.nesterov, bool):
            raise TypeError(f"SGD nesterov is {self.nesterov!r}; expected True or False")
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD nesterov is True; expected a momentum above 0 with it, such as 0.9")

    @property
    def spec(self) -> OptimizerSpec:
        """The kernels' record of the update rule; there is a separate one for SGD without momentum."""
        return OPTIMIZERS["sgd" if self.momentum == 0 else "nesterov" if self.nesterov else "momentum"]


@hinting
@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1).

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
        Step size, above 0; or `StepDecay`, `CosineDecay`, `WarmUp`.
    beta1, beta2 : float, default 0.9 and 0.999
        How much of the running mean of the gradient, and of its square, to keep; 0 <= beta < 1.
    epsilon : float, default 1e-8
        Keeps the division finite, above 0.

    Raises
    ------
    TypeError
        If a hyper-parameter is not a number.
    ValueError
        If a hyper-parameter is out of range.
    """

    rule = "adam"

    learning_rate: float | Schedule = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


@hinting
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Before each step of Adam, parameters <- (1 - learning_rate weight_decay) parameters; all of them, biases included.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`.
    weight_decay : float, default 0.01
        0 or above.

    Raises
    ------
    TypeError
        If a hyper-parameter is not a number.
    ValueError
        If a hyper-parameter is out of range.
    """

    weight_decay: float = 0.01


@hinting
@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012), in PyTorch's form and without momentum.

    v <- alpha v + (1 - alpha) gradient^2;  parameters <- parameters - learning_rate gradient / (sqrt(v) + epsilon)

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
        Step size, above 0; or `StepDecay`, `CosineDecay`, `WarmUp`.
    alpha : float, default 0.99
        How much of the running mean of the squared gradient to keep, 0 <= alpha < 1.
    epsilon : float, default 1e-8
        Keeps the division finite, above 0.

    Raises
    ------
    TypeError
        If a hyper-parameter is not a number.
    ValueError
        If a hyper-parameter is out of range.
    """

    rule = "rmsprop"

    learning_rate: float | Schedule = 0.001
    alpha: float = 0.99
    epsilon: float = 1e-8
