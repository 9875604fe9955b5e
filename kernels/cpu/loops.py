"""Variant `loops`: the equations as compiled loops over elements.

What changed from the reference: no BLAS calls and no temporary arrays, whose cost dominates in small networks. What it
costs: each element of B is read again for every row of A, from whichever cache level holds B, so large products stay
far from the machine's limit.

The product runs in the order i, k, j: its inner loop follows a row of B and of C, which LLVM vectorises without
reordering a sum. The textbook order i, j, k sums over k in the inner loop, which LLVM may not reorder: it is 5 to 15
times slower.

Arrays in, arrays out: the caller allocates every output. Scalars are returned in an array of one float64. Shapes are
those of `reference`. Compiled functions allocate nothing: an exception that leaves one would leak its references to
the arrays.
"""

from math import exp, log
from typing import Any

import numpy as np

from ..jit.decorator import jit
from ..specs.batches import MICRO_BATCH_ROWS
from ..specs.losses import LOSS_BY_CODE, LossSpec
from .elementwise import named
from .layers import dense_layer
from .row_parts import sums_terms

# ------------------------------------------------------------------------------------------- layers


@jit
def _multiply(A: Any, B: Any, C: Any) -> None:
    for i in range(A.shape[0]):
        for j in range(C.shape[1]):
            C[i, j] = 0
        for k in range(A.shape[1]):
            a = A[i, k]
            for j in range(C.shape[1]):
                C[i, j] += a * B[k, j]


@sums_terms
def matmul(A: Any, B: Any, C: Any) -> None:
    """C (M, N) = A (M, K) B (K, N).  Any strides; a B whose rows are not contiguous is copied."""
    _multiply(A, np.ascontiguousarray(B), C)


dense_forward, dense_backward_batch = dense_layer(matmul)

# ------------------------------------------------------------------------------------------- losses


def _loss(spec: LossSpec) -> Any:
    """Make the kernel ``(y_true, outputs, out)`` of a loss that is a sum over elements; out[0] is the batch's mean."""
    value = jit(scalar=True)(spec.value)
    over_outputs = spec.mean_over_outputs

    def kernel(y_true: Any, outputs: Any, out: Any) -> None:
        total = 0.0
        for i in range(outputs.shape[0]):
            row = 0.0  # float64; summing row by row loses fewer bits than one long chain
            for j in range(outputs.shape[1]):
                row += value(outputs[i, j], y_true[i, j])
            total += row
        out[0] = total / (outputs.size if over_outputs else outputs.shape[0])

    return jit(named(f"loops_{spec.name}", kernel))


def _loss_derivative(spec: LossSpec) -> Any:
    """Make the kernel ``(y_true, outputs, out)`` of the derivative of such a loss: out (B, k) = slope / B."""
    slope = jit(scalar=True)(spec.slope)

    def kernel(y_true: Any, outputs: Any, out: Any) -> None:
        rows = out.dtype.type(outputs.shape[0])
        for i in range(outputs.shape[0]):
            for j in range(outputs.shape[1]):
                out[i, j] = slope(outputs[i, j], y_true[i, j]) / rows

    return jit(named(f"loops_{spec.name}_derivative", kernel))


LOSSES = {
    name: kernel
    for spec in LOSS_BY_CODE
    if spec.value is not None
    for name, kernel in ((spec.name, _loss(spec)), (f"{spec.name}_derivative", _loss_derivative(spec)))
}
"""Losses that are sums over elements, and their derivatives, by operation."""


@jit
def row_exponentials(z: Any, out: Any) -> Any:
    """out = exp(z - max z) for one row; returns (max z, sum of out).  A NaN in the row makes the sum NaN.

    The sum is cut into parts, since the error of a single float32 chain grows with its length: 3% for 16 million terms.
    """
    top = z[0]
    for j in range(1, z.size):
        if z[j] > top:
            top = z[j]
    total = 0.0
    for start in range(0, z.size, MICRO_BATCH_ROWS):
        part = z.dtype.type(0)
        for j in range(start, min(start + MICRO_BATCH_ROWS, z.size)):
            out[j] = exp(z[j] - top)
            part += out[j]
        total += part
    return top, z.dtype.type(total)


@jit
def softmax(Z: Any, out: Any) -> None:
    """out = exp(Z) / sum of the row's exp(Z), shifted by the row's largest."""
    for i in range(Z.shape[0]):
        _, total = row_exponentials(Z[i], out[i])
        for j in range(Z.shape[1]):
            out[i, j] /= total


def cross_entropy(y: Any, Z: Any, out: Any) -> None:
    """out[0] = mean over rows of log sum exp(Z) - sum(Y Z), summed in float64; y: labels, or probabilities Y."""
    _cross_entropy(y, Z, np.empty(Z.shape[1], Z.dtype), out)


@jit
def _cross_entropy(y: Any, Z: Any, scratch: Any, out: Any) -> None:
    total = 0.0
    for i in range(Z.shape[0]):
        top, exponentials = row_exponentials(Z[i], scratch)
        if y.ndim == 1:  # known to Numba, which compiles only one branch
            below = top - Z[i, y[i]]
        else:
            below = 0.0
            for j in range(Z.shape[1]):
                if y[i, j] != 0:  # Z may be -inf there
                    below += y[i, j] * (top - Z[i, j])
        total += log(exponentials) + below
    out[0] = total / Z.shape[0]


@jit
def cross_entropy_derivative(y: Any, Z: Any, out: Any) -> None:
    """out = (softmax(Z) - Y) / B; y: labels, or probabilities Y."""
    one = Z.dtype.type(1)
    rows = Z.dtype.type(Z.shape[0])
    softmax(Z, out)
    for i in range(Z.shape[0]):
        if y.ndim == 1:
            out[i, y[i]] -= one
        else:
            for j in range(Z.shape[1]):
                out[i, j] -= y[i, j]
        for j in range(Z.shape[1]):
            out[i, j] /= rows


@jit
def accuracy(labels: Any, Z: Any, out: Any) -> None:
    """out[0] = fraction of rows whose largest output is the label's (NaN counts as largest)."""
    right = 0
    for i in range(Z.shape[0]):
        best = 0
        for j in range(Z.shape[1]):
            if np.isnan(Z[i, best]):
                break
            if np.isnan(Z[i, j]) or Z[i, j] > Z[i, best]:
                best = j
        if best == labels[i]:
            right += 1
    out[0] = right / Z.shape[0]
