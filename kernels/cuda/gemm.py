"""Matrix products (GEMM) on the device: the interface of all GEMM kernels, and the two simple kernels.

All kernels take the same arguments, a `GemmArgs` and the flat arrays to which its offsets refer, so the same kernel
multiplies matrices in one buffer or in three arrays. `GemmArgs` is a kernel argument, so it lies in the constant bank:
when kernels read it from memory, its values took 16 registers too many, and the fast kernel spilled.

The kernels compute C = A B, with A (M, K) and B (K, N) of any strides, and C (M, N) with contiguous rows; then they add
a bias, and apply an activation or multiply by the derivative of the activation of the layer below. An M or K of -1
means the number of rows in the current batch, which is on the device.

- ``naive``: one thread per element. Each multiplication waits for two loads: the bandwidth of L2 is the limit.
- ``tiled``: a block of 16 x 16 threads shares tiles in shared memory, so it reads global memory 16 times less. Two
  loads from shared memory per FMA are the limit: at most a quarter of the card's peak.
The fast kernels are in `gemm_fast`.

Split-K: dW = dZ^T X is a small result of a long sum. Block z computes one part of the sum and stores its result
separately; the reader of the parts adds them in order, so the bits are the same from run to run.
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

    The thread that holds the element in a register calls it; it neither synchronises nor uses shared memory.

    Parameters
    ----------
    args : GemmArgs or record GEMM_ARGS
        Offsets of C and of what the epilogue reads and writes; a negative offset means that it is absent.
    i, n : int
        Row and column of C.
    total : float32 or float64
        The element of A B, or its sum over one part.
    a, b, c : vectors of the same dtype
        The arrays of A, B and C; the gate's A and Z are in ``a``, the bias is in ``b``, and Z in ``c``.
    part : int
        Number of the part that ``total`` belongs to: it is stored ``part * args.split_step`` elements after C.
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
    """Return a size of `GemmArgs`, or the number of rows in the current batch if the size is negative."""
    return progress[0].batch_rows if size < 0 else size


# ------------------------------------------------------------------------------------------ the variants


@kernel(SIDE * SIDE)
def naive(args: Any, progress: Any, a: Any, b: Any, c: Any) -> None:
    """Compute C = A B with one thread per element. All GEMM kernels have these parameters and this contract.

    It is launched with SIDE * SIDE threads per block, over a grid of (columns, rows, parts) that covers at least C;
    threads outside C return. Block z sums the terms from ``z * args.split`` on, at most ``args.split`` of them, and
    stores every element of C as part z with `store_epilogue`. This kernel has no shared memory and no barrier.

    Parameters
    ----------
    args : GemmArgs
        Sizes, and offsets and strides of any size, in elements; an M or K of -1 means the rows of the current batch.
    progress : vector of one DEVICE_PROGRESS
        Holds the rows of the current batch; read only if a size is -1.
    a, b, c : vectors of float32 or float64
        The arrays to which the offsets refer; they may be the same buffer.
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

    Source: the matrix multiplication in the CUDA C++ Programming Guide, "Shared Memory".

    Parameters
    ----------
    dtype : dtype
        float32 or float64.

    Returns
    -------
    dispatcher
        A kernel of SIDE * SIDE threads per block, with the parameters of `naive`.
    """
    size = SIDE * SIDE
    real = np.dtype(dtype).type

    def cuda_tiled(args: Any, progress: Any, a: Any, b: Any, c: Any) -> None:
        """Compute C = A B, as `naive`. All threads of a block, even those outside C, reach both barriers per tile."""
        left = cuda.shared.array(size, dtype)  # on separate lines: the simulator tells arrays apart by line
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
