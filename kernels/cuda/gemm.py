"""Matrix products on the device: what every kernel of a product is given and must do, and the two simple ones.

All take the same arguments: a `GemmArgs`, and the flat arrays that its offsets refer to, so that a product of matrices
in one buffer and a product of three arrays are the same kernel. `GemmArgs` lies in the constant bank, as arguments do:
read from memory its values took 16 registers too many, and the fast kernel spilled.

C = A B, A (M, K) and B (K, N) of any strides, C (M, N) of contiguous rows; then a bias, an activation, or the
derivative of the layer below's activation. An M or K of -1 is the number of rows of the
present batch, which is on the device.

- ``naive``: a thread an element. Each multiplication waits for two loads: the bandwidth of L2 is the limit.
- ``tiled``: a block of 16 x 16 threads shares tiles in shared memory, so memory is read 16 times less. Two loads from
  shared memory for each FMA: that is the limit, a quarter of the card's at most.
The fast ones are in `gemm_fast`.

Split-K: dW = dZ^T X is a small result of a long sum. Block z takes one part of the sum and stores its result in a
place of its own; whoever reads them adds them up in order, so the bits are the same from run to run.
"""

from functools import cache
from typing import Any

import numpy as np

from .activations import activate, slope
from .device import SIMULATED, cuda, device, kernel

SIDE = 4 if SIMULATED else 16
"""Rows and columns of a block of the naive and the tiled variant."""


# ------------------------------------------------------------------------------------------ epilogue


@device
def store_epilogue(args: Any, i: int, n: int, total: Any, a: Any, b: Any, c: Any, part: int) -> None:
    """Store one element of C with its epilogue: bias, Z, gate, activation.

    Called by the thread that holds the element, in registers; it neither synchronises nor uses shared memory.

    Parameters
    ----------
    args : GemmArgs or record GEMM_ARGS
        Offsets of C and of what the epilogue reads and writes; negative: absent.
    i, n : int
        Row and column of C.
    total : float32 or float64
        The element of A B, or one part's share of it.
    a, b, c : vectors of the same dtype
        The arrays of A, B and C: the gate's A and Z are in the first, the bias in the second, Z in the third.
    part : int
        Which part ``total`` is: it is stored ``part * args.split_step`` elements behind C.
    """
    if args.bias >= 0:
        total += b[args.bias + n]
    place = i * args.c_row + n
    if args.z >= 0:
        c[args.z + place] = total
    code = args.gate_code
    if code > 0:
        z = a[args.gate_z + place] if args.gate_z >= 0 else total
        total *= slope(code, a[args.gate_a + place], z)
    c[args.c + part * args.split_step + place] = activate(args.code, total)


@device
def size_or_batch_rows(size: int, progress: Any) -> int:
    """Return a size of `GemmArgs`: as it is, or, where it is negative, the rows of the present batch."""
    return progress[0].batch_rows if size < 0 else size


# ------------------------------------------------------------------------------------------ the variants


@kernel(SIDE * SIDE)
def naive(args: Any, progress: Any, a: Any, b: Any, c: Any) -> None:
    """C = A B, a thread an element. What every kernel of a product is given, and must do.

    Launched with SIDE * SIDE threads a block, over a grid of (columns, rows, parts) that covers C at least; threads
    beyond its edges return. Block z adds the terms of the sum from ``z * args.split`` on, at most ``args.split`` of
    them, and stores every element of C as part z, by `store_epilogue`. No shared memory, no barrier.

    Parameters
    ----------
    args : GemmArgs
        Sizes, and offsets and strides of any size, in elements; an M or K of -1 is the rows of the present batch.
    progress : vector of one DEVICE_PROGRESS
        Holds the rows of the present batch; read only where a size is -1.
    a, b, c : vectors of float32 or float64
        What the offsets refer to; they may be one buffer.
    """
    n = cuda.blockIdx.x * SIDE + cuda.threadIdx.x % SIDE
    m = cuda.blockIdx.y * SIDE + cuda.threadIdx.x // SIDE
    depth = size_or_batch_rows(args.k, progress)
    if m >= size_or_batch_rows(args.m, progress) or n >= args.n:
        return
    total = c.dtype.type(0)
    top = cuda.blockIdx.z * args.split
    for k in range(top, min(depth, top + args.split)):
        left = a[args.a + m * args.a_long + k * args.a_k]
        total += left * b[args.b + n * args.b_long + k * args.b_k]
    store_epilogue(args, m, n, total, a, b, c, cuda.blockIdx.z)


@cache
def tiled(dtype: Any) -> Any:
    """Make the kernel whose blocks share tiles of SIDE x SIDE of A and B in shared memory.

    Source: CUDA C++ Programming Guide, "Shared Memory": its matrix multiplication.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.

    Returns
    -------
    dispatcher
        A kernel of SIDE * SIDE threads a block, with the parameters of `naive`.
    """
    size = SIDE * SIDE
    real = np.dtype(dtype).type

    def cuda_tiled(args: Any, progress: Any, a: Any, b: Any, c: Any) -> None:
        """C = A B, as `naive`. Two barriers a tile, which all threads of a block reach, also those beyond C's edges."""
        left = cuda.shared.array(size, dtype)  # on lines of their own: the simulator tells arrays apart by lines
        right = cuda.shared.array(size, dtype)
        x, y = cuda.threadIdx.x % SIDE, cuda.threadIdx.x // SIDE
        n, m = cuda.blockIdx.x * SIDE + x, cuda.blockIdx.y * SIDE + y
        rows, columns = size_or_batch_rows(args.m, progress), args.n
        top = cuda.blockIdx.z * args.split
        bottom = min(size_or_batch_rows(args.k, progress), top + args.split)
        total = real(0)
        for k in range(top, bottom, SIDE):
            left[y * SIDE + x] = real(0)
            right[y * SIDE + x] = real(0)
            if m < rows and k + x < bottom:
                left[y * SIDE + x] = a[args.a + m * args.a_long + (k + x) * args.a_k]
            if n < columns and k + y < bottom:
                right[y * SIDE + x] = b[args.b + n * args.b_long + (k + y) * args.b_k]
            cuda.syncthreads()
            for i in range(SIDE):
                total += left[y * SIDE + i] * right[i * SIDE + x]
            cuda.syncthreads()
        if m < rows and n < columns:
            store_epilogue(args, m, n, total, a, b, c, cuda.blockIdx.z)

    cuda_tiled.__name__ = f"cuda_{np.dtype(dtype).name}_tiled"
    return kernel(size)(cuda_tiled)
