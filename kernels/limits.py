"""Measures this machine: the peak rate of FMAs, and the bandwidth of each level of the memory hierarchy.

A kernel's rate means little by itself; its ratio to these limits says how much can still be gained. The limits drift as
other processes come and go, so they must be measured beside whatever is compared with them
(docs/performance-notes/profiling.md).
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .jit.decorator import jit
from .jit.machine import MACHINE
from .jit.target import registers
from .llvm.builder import VECTOR, VectorBuilder, intrinsic, types

CHAINS = 3 * registers() // 4
"""Independent sums, each in a register of its own: as many as the product's largest micro-tile has."""

UNROLLED = 4
"""FMAs on each sum in an iteration of the loop."""


@intrinsic
def _chains(typing_context: Any, dtype: Any, count: Any) -> Any:
    """Run ``count`` iterations of UNROLLED FMAs on each of CHAINS registers; return a sum that depends on all."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code = VectorBuilder(builder, dtype.dtype)
        count = arguments[1]
        half = ir.Constant(code.vector, [ir.Constant(code.scalar, 0.5)] * code.lanes)
        # Unknown at compile time, and far below 1, so that the sums stay finite.
        factor = code.splat(builder.fmul(builder.sitofp(count, code.scalar), ir.Constant(code.scalar, 1e-9)))
        before, loop, after = builder.block, builder.append_basic_block("chains"), builder.append_basic_block("sum")
        builder.branch(loop)
        builder.position_at_end(loop)
        remaining = code.phi((count, before))
        values = phis = [code.phi((code.zero, before)) for _ in range(CHAINS)]
        for _ in range(UNROLLED):
            values = [code.fma(x, factor, half) for x in values]
        for phi, value in zip((remaining, *phis), (builder.sub(remaining, remaining.type(1)), *values), strict=True):
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed(">", remaining, remaining.type(1)), loop, after)
        builder.position_at_end(after)
        return builder.extract_element(functools.reduce(builder.fadd, values), ir.IntType(32)(0))

    return dtype.dtype(dtype, types.intp), codegen


@jit
def _run_chains(like: Any, count: int) -> Any:
    return _chains(like.dtype, count)


def fma_peak(dtype: Any = np.float32, seconds: float = 0.01, threads: int = 1) -> float:
    """Measure the peak rate of floating-point operations: FMAs on registers alone.

    Parameters
    ----------
    dtype : dtype, default float32
        float32 or float64.
    seconds : float, default 0.01
        About how long to measure.
    threads : int, default 1
        Number of threads that compute at the same time.

    Returns
    -------
    float
        GFLOP/s of all threads together in the fastest round. An FMA counts as two operations; on a CPU without FMA
        instructions, multiplications and additions are measured.

    Raises
    ------
    ValueError
        If ``threads`` is below 1.
    """
    like = np.empty(0, dtype)
    _run_chains(like, 1)  # compiles
    count = 2000 if threads == 1 else 100_000  # 30 us; 1.5 ms, long against the time of the barriers
    flops = threads * 2 * count * UNROLLED * CHAINS * VECTOR // like.itemsize
    return float(flops / _best_round(lambda _: _run_chains(like, count), threads, seconds) / 1e9)


def _best_round(work: Callable[[int], Any], threads: int, seconds: float) -> float:
    """Return the seconds of the shortest round, in which all threads run ``work(thread)`` at the same time."""
    _check(threads)
    starts, ends = np.zeros(threads), np.zeros(threads)
    best, stop = np.inf, False
    barrier = threading.Barrier(threads)

    def repeat(thread: int) -> None:
        nonlocal best, stop
        wait = barrier.wait if threads > 1 else int
        end = time.perf_counter() + seconds
        while not stop:
            wait()
            start = time.perf_counter()
            work(thread)
            starts[thread], ends[thread] = start, time.perf_counter()
            wait()
            if thread == 0:
                best = min(best, float(ends.max() - starts.min()))
                stop = bool(ends[0] > end)
            wait()

    errors: list[BaseException] = []

    def repeat_until_broken(thread: int) -> None:
        try:
            repeat(thread)
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:  # or the caller would wait at the barrier for ever
            errors.append(error)
            barrier.abort()

    others = [threading.Thread(target=repeat_until_broken, args=(i,), daemon=True) for i in range(1, threads)]
    try:
        for other in others:
            other.start()
        repeat(0)
    except BaseException:  # an interrupted caller must not leave the others waiting
        barrier.abort()
        if errors:
            raise errors[0] from None
        raise
    for other in others:
        other.join()
    return best


def _check(threads: int) -> None:
    if threads < 1:
        raise ValueError(f"threads is {threads}; expected at least 1")


# ------------------------------------------------------------------------------------------ bandwidth

_MAX_MEMORY_BYTES = 256 << 20
_ROUND_BYTES = 32 << 20  # that a thread reads in a round: 0.1 to 5 ms, long against the time of the barriers


def cache_sizes() -> dict[str, int]:
    """Return the sizes of the data caches that a core of this machine has, or is assumed to have.

    Returns
    -------
    dict of str to int
        Bytes by level, "L1" first. A cache that several cores share is given at its full size.
    """
    return {f"L{level}": cache.nbytes for level, cache in enumerate(MACHINE.caches, 1) if cache.nbytes}


@jit
def _read(words: Any, rounds: int) -> Any:
    """Sum all words, repeated ``rounds`` times. They are integers, whose sum LLVM may reorder and so vectorise."""
    total = words.dtype.type(0)
    for _ in range(rounds):
        for i in range(words.size):
            total += words[i]
    return total


def _buffer_bytes(level: str, threads: int) -> int:
    """Return the bytes that each thread reads: half of its share of a cache, but more than the next smaller holds."""
    sizes = cache_sizes()
    if level not in (*sizes, "memory"):
        raise ValueError(f"level is {level!r}; expected one of {', '.join(sizes)}, memory")
    names = list(sizes)
    if level == "memory":
        return min(4 * sizes[names[-1]], _MAX_MEMORY_BYTES) // threads
    depth = names.index(level)
    sharers = min(threads, MACHINE.cores(depth + 1))
    least = 2 * sizes[names[depth - 1]] if depth > 0 else 0
    return max(sizes[level] // (2 * sharers), least)


def bandwidth(level: str = "memory", threads: int = 1, seconds: float = 0.1) -> float:
    """Measure the bandwidth of reading from one level of the memory hierarchy.

    Each thread repeatedly sums a buffer of its own. The buffers have been written before: all pages that have not are
    one page of zeros, which stays in L1.

    Parameters
    ----------
    level : str, default "memory"
        A key of `cache_sizes`, or "memory".
    threads : int, default 1
        Number of threads that read at the same time.
    seconds : float, default 0.1
        About how long to measure.

    Returns
    -------
    float
        GB/s of all threads together in the fastest round, from the first thread's start to the last one's end.

    Raises
    ------
    ValueError
        If there is no such level, or ``threads`` is below 1.

    Examples
    --------
    >>> from fastnet.kernels.limits import bandwidth
    >>> bandwidth("L1") > 0
    True
    """
    _check(threads)
    words = _buffer_bytes(level, threads) // 8
    buffers = [np.full(words, thread, np.uint64) for thread in range(threads)]
    _read(buffers[0], 1)  # compiles
    rounds = max(1, _ROUND_BYTES // (8 * words))
    best = _best_round(lambda thread: _read(buffers[thread], rounds), threads, seconds)
    return float(threads * rounds * words * 8 / best / 1e9)
