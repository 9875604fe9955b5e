"""Checks the sizes of arrays before compiled code gets their addresses: that code checks no bounds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..specs.optimizers import HYPER_SIZE, OPTIMIZERS
from .backend import PROGRESS, TOTALS, Array
from .optimizer_state import OptimizerState
from .plan import parameter_count

_VECTORS = {spec.code: spec.state_vectors for spec in OPTIMIZERS.values()}

MOST_VECTORS = 2
"""Most state vectors that the compiled step can pass to an update rule."""


def check_array(name: str, array: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Reject anything but a C-contiguous array of this shape and dtype."""
    if isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == shape and array.flags.c_contiguous:
        return
    arrived = f"a {type(array).__name__}"
    if isinstance(array, np.ndarray):
        arrived = f"an array of {array.dtype}, shape {array.shape}"
        arrived += "" if array.flags.c_contiguous else ", not contiguous"
    raise ValueError(
        f"{name} is {arrived}; expected a C-contiguous array of {np.dtype(dtype)}, shape {shape}: something has "
        "replaced or reshaped it, so make a new Network and Trainer, and write into arrays instead of replacing them"
    )


def check_network(
    parameters: Array, layer_sizes: Sequence[int], codes: Sequence[int], optimizer: OptimizerState
) -> None:
    """Reject parameters that do not fit the layers, and an optimizer's state that does not fit the parameters.

    Raises
    ------
    ValueError
        If something does not fit; nothing has been read or written.
    """
    if len(codes) != len(layer_sizes) - 1 or min(layer_sizes) < 1:
        raise ValueError(
            f"there are {len(codes)} activations for layer sizes {list(layer_sizes)}; expected one a layer"
        )
    size, dtype, vectors = parameter_count(layer_sizes), parameters.dtype, _VECTORS[optimizer.code]
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"the parameters are of {dtype}; expected float32 or float64")
    check_array(f"parameters of a network of layer sizes {list(layer_sizes)}", parameters, (size,), dtype)
    if vectors > MOST_VECTORS:
        raise ValueError(f"the update rule has {vectors} state vectors; compiled steps hold {MOST_VECTORS} at most")
    if vectors != len(optimizer.state):
        raise ValueError(f"the optimizer's state has {len(optimizer.state)} vectors; expected {vectors}")
    for vector in optimizer.state:
        check_array("a state vector of the optimizer", vector, (size,), dtype)
    if optimizer.dropout and len(optimizer.dropout) != len(codes) - 1:
        raise ValueError(f"there are {len(optimizer.dropout)} rates of dropout; expected one for each hidden layer")
    if not all(0 <= rate < 1 for rate in optimizer.dropout):
        raise ValueError(f"the rates of dropout are {optimizer.dropout}; expected numbers >= 0 and < 1")
    check_array("hyper", optimizer.hyper, (HYPER_SIZE,), np.float64)
    check_array("progress", optimizer.progress, (), PROGRESS)
    check_array("totals", optimizer.totals, (), TOTALS)


def check_data(
    arrays: tuple[Array | None, ...], row: tuple[int, ...], target: tuple[tuple[int, ...], Any], rows: tuple[int, ...]
) -> None:
    """Reject data of a call that do not fit the network or each other.

    Parameters
    ----------
    arrays : tuple
        X, targets, sample weights or None, order or None, learning rates.
    row : tuple of int
        Shape of a row of X.
    target : tuple
        Shape of a row's target, and the targets' dtype.
    rows : tuple of int
        Index within the epoch of X's first row, next row to train, and number of rows of the epoch.

    Raises
    ------
    ValueError
        If something does not fit; nothing has been read or written.
    """
    X, y, weights, order, rates = arrays
    assert X is not None
    first, done, epoch = rows
    check_array("X", X, (len(X), *row), X.dtype)
    check_array("y", y, (len(X), *target[0]), target[1])
    held = len(X) if order is None else epoch  # with an order X may hold rows that the epoch does not visit
    if weights is not None:
        check_array("sample_weight", weights, (epoch if order is None else len(X),), np.float64)
    if order is not None:
        check_array("the order of the rows", order, (epoch,), np.int64)
    assert rates is not None
    check_array("the learning rates", rates, (max(1, rates.size),), np.float64)
    if not 0 <= first <= done <= first + held <= epoch:
        raise ValueError(
            f"X holds rows {first} to {first + held} of an epoch of {epoch} that stands at row {done}; expected the "
            "row where training stands among them"
        )
