"""Variant `blocked`: loops over blocks that fit the caches, eight terms of the sum at a time.

What changed from `loops`: the product is computed block by block, and its innermost loop adds eight rows of B, each
times an element of A, to a row of C. Why that is faster: an element of C is loaded and stored once for eight products
instead of once for each, and the eight rows of B stay in L1 for all rows of the block of C. LLVM vectorises that loop:
it has nine streams, the most that LLVM checks for overlap. What it costs: a row of C still passes through L1 for every
eight k, so the load ports, not the FMA units, are the limit (docs/performance-notes/variants.md); a B whose rows are
not contiguous is copied.
"""

from typing import Any

import numpy as np

from ..jit.decorator import jit
from .layers import dense_layer
from .row_parts import sums_terms

ROWS = 64
"""Rows of a block of C; with COLUMNS it takes 128 KiB in float32, which fit L2."""

COLUMNS = 512
"""Columns of a block; eight rows of B then take 16 KiB in float32, half of L1."""


@sums_terms
def matmul(A: Any, B: Any, C: Any) -> None:
    """C (M, N) = A (M, K) B (K, N).  Any strides; a B whose rows are not contiguous is copied."""
    _multiply(A, np.ascontiguousarray(B), C)


@jit
def _multiply(A: Any, rows: Any, C: Any) -> None:
    M, K = A.shape
    N = C.shape[1]
    whole = K - K % 8
    for j0 in range(0, N, COLUMNS):
        j1 = min(j0 + COLUMNS, N)
        for i0 in range(0, M, ROWS):
            i1 = min(i0 + ROWS, M)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    C[i, j] = 0
            for k in range(0, whole, 8):
                b0, b1, b2, b3 = rows[k, j0:j1], rows[k + 1, j0:j1], rows[k + 2, j0:j1], rows[k + 3, j0:j1]
                b4, b5, b6, b7 = rows[k + 4, j0:j1], rows[k + 5, j0:j1], rows[k + 6, j0:j1], rows[k + 7, j0:j1]
                for i in range(i0, i1):
                    a0, a1, a2, a3 = A[i, k], A[i, k + 1], A[i, k + 2], A[i, k + 3]
                    a4, a5, a6, a7 = A[i, k + 4], A[i, k + 5], A[i, k + 6], A[i, k + 7]
                    c = C[i, j0:j1]
                    for j in range(j1 - j0):
                        s = c[j] + a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j]
                        c[j] = s + a4 * b4[j] + a5 * b5[j] + a6 * b6[j] + a7 * b7[j]
            for k in range(whole, K):
                for i in range(i0, i1):
                    a = A[i, k]
                    for j in range(j0, j1):
                        C[i, j] += a * rows[k, j]


dense_forward, dense_backward_batch = dense_layer(matmul)
