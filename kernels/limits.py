"""What this machine can do at most: the rate of FMAs on registers alone.

Imports `_jit` and `microkernel`. A kernel's rate means little by itself; its share of this rate says what is left to
gain. The rate drifts by some 3% within a minute, so measure it beside whatever is set against it.
"""

import time
from typing import Any

import numpy as np
from llvmlite import ir

from ._jit import jit
from .microkernel import MR, NV, VECTOR, Vectors, intrinsic, types

CHAINS = MR * NV
"""Sums that do not wait for each other: as many as the largest tile has."""

UNROLLED = 4


@intrinsic
def _chains(typing_context: Any, dtype: Any, count: Any) -> Any:
    """Run ``count`` times UNROLLED FMAs on each of CHAINS registers; returns a sum that depends on all of them."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code = Vectors(builder, dtype.dtype)
        count = arguments[1]
        constant = [ir.Constant(code.scalar, value) for value in (0.5, 1e-9)]
        half = ir.Constant(code.vector, [constant[0]] * code.lanes)
        # Not known at compile time, and far below 1, so that the values stay finite.
        factor = code.splat(builder.fmul(builder.sitofp(count, code.scalar), constant[1]))
        before, loop, after = builder.block, builder.append_basic_block("chains"), builder.append_basic_block("sum")
        builder.branch(loop)
        builder.position_at_end(loop)
        left = code.phi((count, before))
        values = phis = [code.phi((code.zero, before)) for _ in range(CHAINS)]
        for _ in range(UNROLLED):
            values = [code.fma(x, factor, half) for x in values]
        for phi, value in zip((left, *phis), (builder.sub(left, left.type(1)), *values), strict=True):
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed(">", left, left.type(1)), loop, after)
        builder.position_at_end(after)
        total = values[0]
        for value in values[1:]:
            total = builder.fadd(total, value)
        return builder.extract_element(total, ir.IntType(32)(0))

    return dtype.dtype(dtype, types.intp), codegen


@jit
def _run_chains(like: Any, count: int) -> Any:
    return _chains(like.dtype, count)


def fma_peak(dtype: Any = np.float32, seconds: float = 0.01) -> float:
    """Billions of floating-point operations a second of one thread, in FMAs on registers alone.

    Parameters
    ----------
    dtype : dtype, default float32
        float32 or float64.
    seconds : float, default 0.01
        About how long to measure.

    Returns
    -------
    float
        GFLOP/s; an FMA counts as two. Without FMA instructions, multiplications and additions.
    """
    like = np.empty(0, dtype)
    count = 2000
    _run_chains(like, count)
    flops = 2 * count * UNROLLED * CHAINS * VECTOR // like.itemsize
    best, end = np.inf, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        _run_chains(like, count)
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return float(flops / best / 1e9)
