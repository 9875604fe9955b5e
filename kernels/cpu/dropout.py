"""Dropout over the rows of a matrix, in place: one pass over values that the layer's product has just left in cache."""

from typing import Any

import numpy as np
from numba import types

from ..jit.call_by_address import by_address
from ..jit.decorator import jit
from ..specs import dropout

_mixed = jit(scalar=True)(dropout.mixed)
_folded = jit(scalar=True)(dropout.folding(_mixed))


@by_address(lambda real: (types.Array(real, 2, "C"), *[types.uint64] * 5, types.float64))
@jit
def drop_rows(values: Any, key: Any, step: Any, layer: Any, first_row: Any, threshold: Any, scale: Any) -> None:
    """Multiply elements by the scale, or set them to 0 where `specs.dropout` drops them.

    Parameters
    ----------
    values : ndarray, shape (rows, columns)
        Outputs of a layer, or the gradient with respect to them. One array is both source and target, because LLVM's
        run-time check for overlap would select the scalar loop for two that overlap.
    key : uint64
        `specs.dropout.seed_key` of the seed.
    step, layer, first_row : uint64
        Number of steps taken before; index of the layer, from 0; index within the batch of the first of these rows.
    threshold : uint64
    scale : float64
    """
    zero, factor = values.dtype.type(0), values.dtype.type(scale)
    layer_key = _folded(_folded(key, step), layer)
    for i in range(values.shape[0]):
        row, row_key = values[i], _folded(layer_key, first_row + np.uint64(i))
        for j in range(row.size):
            row[j] = row[j] * factor if _mixed(row_key ^ np.uint64(j)) >= threshold else zero
