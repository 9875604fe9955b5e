"""Variant `loops`: the equations as compiled loops over elements.

What changed from the reference: no BLAS and no temporary arrays, which decides for small networks. What it costs: each
element of B is read again for every row of A, from whichever cache level holds B, so large products stay far from the
limit.

The product runs in the order i, k, j: its inner loop follows a row of B and of C, which LLVM vectorises without
reordering a sum. The textbook's order i, j, k sums over k, which LLVM may not reorder: 5 to 15 times slower.

Arrays in, arrays out: the caller allocates every output. Scalars are returned in an array of one float64. Shapes as in
`reference`.
"""

from math import exp, log, log1p
from typing import Any

import numpy as np

from ..jit.decorator import jit
from .elementwise import formula
from .layers import dense_layer

sigmoid = formula("sigmoid")

# ------------------------------------------------------------------------------------------- layers


@jit
def matmul(A: Any, B: Any, C: Any) -> None:
    """C (M, N) = A (M, K) B (K, N).  Any strides; a B whose rows are not contiguous is copied once."""
    rows = np.ascontiguousarray(B)
    for i in range(A.shape[0]):
        for j in range(C.shape[1]):
            C[i, j] = 0
        for k in range(A.shape[1]):
            a = A[i, k]
            for j in range(C.shape[1]):
                C[i, j] += a * rows[k, j]


dense_forward, dense_backward_batch = dense_layer(matmul)

# ------------------------------------------------------------------------------------------- losses


@jit
def mse(y_true: Any, y_pred: Any, out: Any) -> None:
    """out[0] = mean over all elements of (y_pred - y_true)^2, summed in float64."""
    total = 0.0
    for i in range(y_true.shape[0]):
        row = 0.0  # a sum of sums loses fewer bits than one long sum
        for j in range(y_true.shape[1]):
            d = y_pred[i, j] - y_true[i, j]
            row += d * d
        total += row
    out[0] = total / y_true.size


@jit
def mse_derivative(y_true: Any, y_pred: Any, out: Any) -> None:
    """Out = 2 (y_pred - y_true) / B."""
    two = out.dtype.type(2)
    rows = out.dtype.type(y_true.shape[0])
    for i in range(y_true.shape[0]):
        for j in range(y_true.shape[1]):
            out[i, j] = two * (y_pred[i, j] - y_true[i, j]) / rows


@jit
def mae(y_true: Any, y_pred: Any, out: Any) -> None:
    """out[0] = mean over all elements of |y_pred - y_true|, summed in float64."""
    total = 0.0
    for i in range(y_true.shape[0]):
        row = 0.0
        for j in range(y_true.shape[1]):
            row += abs(y_pred[i, j] - y_true[i, j])
        total += row
    out[0] = total / y_true.size


@jit
def mae_derivative(y_true: Any, y_pred: Any, out: Any) -> None:
    """Out = sign(y_pred - y_true) / B."""
    zero, share = out.dtype.type(0), out.dtype.type(1) / out.dtype.type(y_true.shape[0])
    for i in range(y_true.shape[0]):
        for j in range(y_true.shape[1]):
            d = y_pred[i, j] - y_true[i, j]
            out[i, j] = share if d > zero else (-share if d < zero else d)  # d is 0 or NaN


@jit
def huber(y_true: Any, y_pred: Any, out: Any) -> None:
    """out[0] = mean over all elements of d^2/2 where |d| <= 1, else |d| - 1/2; summed in float64."""
    half, one = y_pred.dtype.type(0.5), y_pred.dtype.type(1)
    total = 0.0
    for i in range(y_true.shape[0]):
        row = 0.0
        for j in range(y_true.shape[1]):
            d = abs(y_pred[i, j] - y_true[i, j])
            row += half * d * d if d <= one else d - half
        total += row
    out[0] = total / y_true.size


@jit
def huber_derivative(y_true: Any, y_pred: Any, out: Any) -> None:
    """Out = d / B where |d| <= 1, else sign(d) / B."""
    one, rows = out.dtype.type(1), out.dtype.type(y_true.shape[0])
    for i in range(y_true.shape[0]):
        for j in range(y_true.shape[1]):
            d = y_pred[i, j] - y_true[i, j]
            out[i, j] = (-one if d < -one else (one if d > one else d)) / rows


@jit
def binary_cross_entropy(y_true: Any, Z: Any, out: Any) -> None:
    """out[0] = mean over rows of the row's sum of max(z, 0) - z y + log(1 + exp(-|z|)), summed in float64."""
    zero = Z.dtype.type(0)
    total = 0.0
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            z = Z[i, j]
            total += (z if z > zero else zero) - z * y_true[i, j] + log1p(exp(-abs(z)))
    out[0] = total / Z.shape[0]


@jit
def binary_cross_entropy_derivative(y_true: Any, Z: Any, out: Any) -> None:
    """Out = (sigmoid(Z) - y_true) / B."""
    rows = Z.dtype.type(Z.shape[0])
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            out[i, j] = (sigmoid(Z[i, j]) - y_true[i, j]) / rows


@jit
def row_exponentials(z: Any, out: Any) -> Any:
    """Out = exp(z - max z) for one row; returns (max z, sum of out).  A NaN in the row makes the sum NaN."""
    top = z[0]
    for j in range(1, z.size):
        if z[j] > top:
            top = z[j]
    total = z.dtype.type(0)
    for j in range(z.size):
        out[j] = exp(z[j] - top)
        total += out[j]
    return top, total


@jit
def softmax(Z: Any, out: Any) -> None:
    """Out = exp(Z) / sum of the row's exp(Z), shifted by the row's largest."""
    for i in range(Z.shape[0]):
        _, total = row_exponentials(Z[i], out[i])
        for j in range(Z.shape[1]):
            out[i, j] /= total


@jit
def cross_entropy(labels: Any, Z: Any, out: Any) -> None:
    """out[0] = mean over rows of log sum exp(Z) - Z[label], summed in float64."""
    scratch = np.empty(Z.shape[1], Z.dtype)
    total = 0.0
    for i in range(Z.shape[0]):
        top, exponentials = row_exponentials(Z[i], scratch)
        total += log(exponentials) + (top - Z[i, labels[i]])
    out[0] = total / Z.shape[0]


@jit
def cross_entropy_derivative(labels: Any, Z: Any, out: Any) -> None:
    """Out = (softmax(Z) - one_hot(labels)) / B."""
    one = Z.dtype.type(1)
    rows = Z.dtype.type(Z.shape[0])
    softmax(Z, out)
    for i in range(Z.shape[0]):
        out[i, labels[i]] -= one
        for j in range(Z.shape[1]):
            out[i, j] /= rows


@jit
def accuracy(labels: Any, Z: Any, out: Any) -> None:
    """out[0] = share of the rows whose largest output stands at the label (NaN counts as largest)."""
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
