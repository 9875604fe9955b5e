"""The dense layer of the variants `loops` and `blocked`: a matrix product with passes before and after it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..jit.decorator import jit
from ..specs.activations import ACTIVATIONS, FORMULAS
from ..specs.batches import GROUP_ROWS, MICRO_BATCH_ROWS
from .elementwise import elementwise, formula
from .row_parts import sums_parts

ELEMENTWISE = {name: elementwise(f"loops_{name}", formula(name)) for name in FORMULAS}
"""The kernels ``(Z, out)`` of the activations and their derivatives by name, from the formulas of their specs."""

_NAMES = tuple(ACTIVATIONS)  # by code


@jit
def _add_bias(b: Any, Z: Any) -> None:
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            Z[i, j] += b[j]


@jit
def _multiply_and_sum(dL_dA: Any, dZ: Any, db: Any) -> None:
    """dZ *= dL_dA;  db = sum of dZ's rows."""
    db[:] = 0
    for i in range(dZ.shape[0]):
        for j in range(dZ.shape[1]):
            dZ[i, j] *= dL_dA[i, j]
            db[j] += dZ[i, j]


def dense_layer(matmul: Callable[[Any, Any, Any], None]) -> tuple[Callable[..., None], ...]:
    """Make `dense_forward` and `dense_backward_batch` from a variant's ``matmul``; outputs are C-contiguous."""

    def dense_forward(X: Any, W: Any, b: Any, activation: int, A: Any, Z: Any) -> None:
        """Z (B, k) = X (B, n) W^T (n, k) + b;  A = activation(Z)."""
        matmul(X, W.T, Z)
        _add_bias(b, Z)
        ELEMENTWISE[_NAMES[activation]](Z.reshape(-1), A.reshape(-1))

    @sums_parts(GROUP_ROWS)
    @sums_parts(MICRO_BATCH_ROWS)
    def dense_backward_batch(X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any) -> None:
        """dZ = dL_dA * activation'(Z);  dW = dZ^T X;  db = sum of dZ's rows;  dX = dZ W.

        An empty dX is not computed: the first layer's input gradient is never needed.
        """
        dZ = np.empty(Z.shape, Z.dtype)
        ELEMENTWISE[f"{_NAMES[activation]}_derivative"](Z.reshape(-1), dZ.reshape(-1))
        _multiply_and_sum(dL_dA, dZ, db)
        matmul(dZ.T, X, dW)
        if dX.size > 0:
            matmul(dZ, W, dX)

    dense_forward.__module__ = dense_backward_batch.__module__ = matmul.__module__
    return dense_forward, dense_backward_batch
