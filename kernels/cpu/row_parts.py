"""Gradients of many rows, and products of many terms, summed part by part."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..specs.batches import MICRO_BATCH_ROWS

Backward = Callable[..., None]
Product = Callable[[Any, Any, Any], None]


def sums_parts(rows: int) -> Callable[[Backward], Backward]:
    """Make a variant's `dense_backward_batch` process at most N ``rows`` at a time, and add their dW and db in order.

    An error of rounding then grows with the number of parts and with the length of one, not with the product of both.
    The parts follow from the number of rows alone.
    """

    def decorate(backward: Backward) -> Backward:
        @functools.wraps(backward)
        def summed(X: Any, Z: Any, dL_dA: Any, W: Any, activation: int, dW: Any, db: Any, dX: Any) -> None:
            if len(X) <= rows:
                backward(X, Z, dL_dA, W, activation, dW, db, dX)
                return
            part_w, part_b = np.empty_like(dW), np.empty_like(db)
            dW[...], db[...] = 0, 0
            for start in range(0, len(X), rows):
                part = slice(start, start + rows)
                backward(X[part], Z[part], dL_dA[part], W, activation, part_w, part_b, dX[part])
                with np.errstate(all="ignore"):
                    dW += part_w
                    db += part_b

        return summed

    return decorate


def sums_terms(product: Product) -> Product:
    """Make a variant's ``matmul(A, B, C)`` sum at most MICRO_BATCH_ROWS terms in a chain, and add those sums in order.

    Here the last sum has the rest; the variant `simd` cuts K into about equal blocks, of at most as many terms in
    float32. Of 16 million terms of one sign, an element is then off by 2e-6 of itself; as one chain it was by 2e-2.
    """

    @functools.wraps(product)
    def summed(A: Any, B: Any, C: Any) -> None:
        if len(B) <= MICRO_BATCH_ROWS:
            product(A, B, C)
            return
        part_c = np.empty_like(C)
        C[...] = 0
        for start in range(0, len(B), MICRO_BATCH_ROWS):
            part = slice(start, start + MICRO_BATCH_ROWS)
            product(A[:, part], B[part], part_c)
            with np.errstate(all="ignore"):
                C += part_c

    return summed
