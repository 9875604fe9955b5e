"""Validation of numbers and names: convert or reject them, with a message that says what was expected.

`fastnet.kernels.api.validation` checks arrays.
"""

import numbers
import operator
import secrets
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from itertools import pairwise
from math import inf, isfinite
from typing import Any

import numpy as np

from .kernels.api.validation import FLOATS
from .kernels.jit.quota import memory_total
from .kernels.specs.activations import ACTIVATIONS
from .messages import counted

SURELY_FITS = 1 << 26
"""So many bytes are allocated without a look at how much memory the system has."""


def number(
    name: str, value: Any, least: float = -inf, above: float = -inf, below: float = inf, most: float = inf
) -> float:
    """Return a finite number with ``value >= least``, ``value > above``, ``value < below`` and ``value <= most``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; expected a number")
    try:
        found = float(value)
    except OverflowError:  # an int with hundreds of digits
        found = inf
    limits = [f">= {least:g}"] * (least > -inf) + [f"> {above:g}"] * (above > -inf)
    limits += [f"< {below:g}"] * (below < inf) + [f"<= {most:g}"] * (most < inf)
    if not (isfinite(found) and least <= found <= most and above < found < below):
        raise ValueError(f"{name} is {value!r}; expected a finite number {' and '.join(limits)}".rstrip())
    return found


def integer(name: str, value: Any, least: int, hint: str = "") -> int:
    """Return a whole number of at least ``least``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected a whole number{hint}") from None
    if whole < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}{hint}")
    return whole


def count_or_none(name: str, value: Any, meaning: str = "") -> int | None:
    """Return a whole number of at least 1, or None; messages explain None by ``meaning``."""
    return None if value is None else integer(name, value, least=1, hint=f", or None{meaning}")


def seed(value: Any) -> int:
    """Return a seed: a whole number from 0 to 2^64 - 1; None draws one."""
    if value is None:
        return secrets.randbits(32)
    whole = integer("seed", value, least=0)
    if whole >= 2**64:
        raise ValueError(f"seed is {value!r}; expected at most 2**64 - 1")
    return whole


def choice(name: str, value: Any, known: Collection[str]) -> str:
    """Return the value, which must be one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"unknown {name} {value!r}; there are: {', '.join(known)}")
    return value


def callbacks(value: Any) -> list[Callable[[dict[str, float]], Any]]:
    """Return callbacks, the functions to call after each epoch, as a list."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        name = getattr(value, "__name__", "")
        hint = f": write callbacks=[{name if name.isidentifier() else 'function'}]" if callable(value) else ""
        raise TypeError(f"callbacks is {value!r}; expected a list of functions of an epoch's row{hint}")
    found = list(value)
    for callback in found:
        if not callable(callback):
            raise TypeError(f"callbacks holds {callback!r}; expected functions of an epoch's row")
    return found


def layer_sizes(sizes: Any) -> tuple[int, ...]:
    """Return the layer sizes of a network as a tuple of at least two whole numbers above 0."""
    if isinstance(sizes, (str, bytes)) or not hasattr(sizes, "__iter__"):
        raise TypeError(f"sizes is {sizes!r}; expected a list such as [64, 128, 10]")
    found = tuple(integer(f"sizes[{i}]", size, least=1) for i, size in enumerate(sizes))
    if len(found) < 2:
        raise ValueError(f"sizes is {list(found)}; expected at least inputs and outputs, such as [64, 10]")
    if sum(n * k + k for n, k in pairwise(found)) >= 2**59:  # their bytes would overflow an int64
        raise ValueError(f"sizes is {list(found)}; no memory holds as many parameters")
    return found


def activations(hidden: Any, output: Any, hidden_layers: int) -> tuple[str, ...]:
    """Return the name of each layer's activation."""
    if not isinstance(hidden, (str, list, tuple)):
        raise TypeError(f"hidden is {hidden!r}; expected the name of an activation, or a list with one for each layer")
    names = [hidden] * hidden_layers if isinstance(hidden, str) else list(hidden)
    if len(names) != hidden_layers:
        raise ValueError(f"hidden names {len(names)} activations; expected {hidden_layers}, one for each hidden layer")
    for name in [hidden] if isinstance(hidden, str) else names:
        choice("hidden activation", name, ACTIVATIONS)
    if output == "softmax":
        raise ValueError('output is "softmax"; leave it out and train with loss="cross_entropy", which applies it')
    return (*names, choice("output activation", output, ACTIVATIONS))


def dropout(value: Any, hidden_layers: int) -> tuple[float | tuple[float, ...], tuple[float, ...]]:
    """Return the rates as given, a number or a tuple, and those of the hidden layers, empty if all are 0."""
    if isinstance(value, (list, tuple)) or np.ndim(value) > 0:
        rates = tuple(number(f"dropout[{i}]", rate, least=0, below=1) for i, rate in enumerate(value))
        if len(rates) != hidden_layers:
            raise ValueError(
                f"dropout has {counted(len(rates), 'rate')}; expected {hidden_layers}, one for each hidden layer"
            )
        return rates, rates if any(rates) else ()
    rate = number("dropout", value, least=0, below=1)
    if rate and not hidden_layers:
        raise ValueError(f"dropout is {value!r}, but the network has no hidden layer whose outputs could be dropped")
    return rate, (rate,) * hidden_layers if rate else ()


def dtype(value: Any) -> np.dtype[Any]:
    """Return float32 or float64 as a dtype."""
    with suppress(TypeError):
        if value is not None and np.dtype(value) in FLOATS:  # np.dtype(None) is float64
            return np.dtype(value)
    raise ValueError(f"dtype is {value!r}; expected 'float32' or 'float64'")


def memory(nbytes: float, what: str, remedy: str) -> None:
    """Reject what is larger than all memory, before it is allocated: filling it would have the system kill the process.

    Raises
    ------
    MemoryError
        Its message begins with ``what``.
    """
    if nbytes > SURELY_FITS and nbytes > (most := memory_total()):
        at_most = f"expected at most {gibibytes(most)}, the memory that this process may use"
        raise MemoryError(f"{what}; {at_most}: {remedy}")


def gibibytes(nbytes: float) -> str:
    """Return a number of bytes for a message about memory."""
    return f"{nbytes / 2**30:.1f} GiB"
