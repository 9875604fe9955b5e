"""Limits rounding errors: gradients of many rows and products of many terms are summed part by part."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..specs.batches import MICRO_BATCH_ROWS

Backward = Callable[..., None]
Product = Callable[[Any, Any, Any], None]


def sums_parts(rows: int) -> Callable[[Backward], Backward]:
    """Make a variant's `dense_backward_batch` process at most ``rows`` rows at a time, and add dW and db in order.

    The rounding error then grows with the number of parts plus the length of one, not with the product of both. The
    parts depend on the number of rows alone.
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

    The last chain has the remaining terms; the variant `simd` cuts K into blocks of about equal size instead, which in
    float32 have at most as many terms. With 16 million terms of one sign, the relative error of an element is then
    2e-6; in a single chain it was 2e-2.
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
