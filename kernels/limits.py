"""What this machine can do at most: FMAs on registers alone, and bytes read from each cache and from memory.

Imports `_jit` and `microkernel`. A kernel's rate means little by itself; its share of these rates says what is left to
gain. They drift by some 3% within a minute, more where others use the machine, so measure them beside whatever is set
against them. All of them together, for one thread and for all, take two seconds.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir

from .cpu.gemm.microkernel import MR, NV
from .jit.decorator import jit
from .llvm.builder import VECTOR, VectorBuilder, intrinsic, types

CHAINS = MR * NV
"""Sums that do not wait for each other: as many as the largest tile has."""

UNROLLED = 4


@intrinsic
def _chains(typing_context: Any, dtype: Any, count: Any) -> Any:
    """Run ``count`` times UNROLLED FMAs on each of CHAINS registers; returns a sum that depends on all of them."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code = VectorBuilder(builder, dtype.dtype)
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


def fma_peak(dtype: Any = np.float32, seconds: float = 0.01, threads: int = 1) -> float:
    """Billions of floating-point operations a second, in FMAs on registers alone.

    Parameters
    ----------
    dtype : dtype, default float32
        float32 or float64.
    seconds : float, default 0.01
        About how long to measure.
    threads : int, default 1
        How many compute at once.

    Returns
    -------
    float
        GFLOP/s of all threads together, of the best round; an FMA counts as two. Without FMA instructions,
        multiplications and additions.

    Raises
    ------
    ValueError
        If ``threads`` is below 1.
    """
    like = np.empty(0, dtype)
    _run_chains(like, 1)  # compiles
    count = 2000 if threads == 1 else 100_000  # 30 us; 1.5 ms, in which starting together weighs little
    flops = threads * 2 * count * UNROLLED * CHAINS * VECTOR // like.itemsize
    return float(flops / _best_round(lambda _: _run_chains(like, count), threads, seconds) / 1e9)


def _best_round(work: Callable[[int], Any], threads: int, seconds: float) -> float:
    """Seconds of the shortest round: all threads start ``work`` of their number together, the last one ends it."""
    if threads < 1:
        raise ValueError(f"threads is {threads}; expected at least 1")
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

    def help_out(thread: int) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            repeat(thread)

    helpers = [threading.Thread(target=help_out, args=(i,), daemon=True) for i in range(1, threads)]
    for helper in helpers:
        helper.start()
    try:
        repeat(0)
    except BaseException:  # an interrupted caller must not leave the others waiting
        barrier.abort()
        raise
    for helper in helpers:
        helper.join()
    return best


# ---------------------------------------------------------------------------------------- bandwidth

_ASSUMED = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}
_MEMORY_MOST = 256 << 20
_ROUND_BYTES = 32 << 20  # a thread's round: 0.1 to 5 ms, in which starting together weighs little


def cache_sizes(folder: str = "/sys/devices/system/cpu/cpu0/cache") -> dict[str, int]:
    """Bytes of a core's data caches, "L1" and on, as Linux tells them; elsewhere an assumption.

    Parameters
    ----------
    folder : str
        Where Linux describes the caches of a core.

    Returns
    -------
    dict of str to int
        By level, in rising order; a cache that several cores share counts whole.
    """
    found = {}
    for index in sorted(Path(folder).glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                found[f"L{int(level)}"] = int(size[:-1]) << {"K": 10, "M": 20}[size[-1]]
        except (OSError, ValueError, KeyError, IndexError):  # another format: as if it were not there
            continue
    return dict(sorted(found.items())) if "L1" in found else dict(_ASSUMED)


@jit
def _read(words: Any, rounds: int) -> Any:
    """Sum the words, so many times over. Integers, since LLVM may reorder their sum and so vectorise it."""
    total = words.dtype.type(0)
    for _ in range(rounds):
        for i in range(words.size):
            total += words[i]
    return total


def _buffer_bytes(level: str, threads: int) -> int:
    """How much each thread reads: half of its cache's share, but more than what the cache below would hold."""
    sizes = cache_sizes()
    if level not in (*sizes, "memory"):
        raise ValueError(f"level is {level!r}; expected one of {', '.join(sizes)}, memory")
    names = list(sizes)
    if level == "memory":
        return min(4 * sizes[names[-1]], _MEMORY_MOST) // threads
    place = names.index(level)
    shared = threads if place >= 2 else 1  # L1 and L2 are taken for a core's own
    least = 2 * sizes[names[place - 1]] if place > 0 else 0
    return max(sizes[level] // (2 * shared), least)


def bandwidth(level: str = "memory", threads: int = 1, seconds: float = 0.1) -> float:
    """Billions of bytes a second that threads read from one level of the memory hierarchy, all together.

    Each thread sums a buffer of its own, written before (pages that never were are all one page of zeros, which
    stays in L1), over and over.

    Parameters
    ----------
    level : str, default "memory"
        A key of `cache_sizes`, or "memory".
    threads : int, default 1
        How many read at once.
    seconds : float, default 0.1
        About how long to measure.

    Returns
    -------
    float
        GB/s, of the best round: all threads start a round together, and it ends with the last of them.

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
    if threads < 1:
        raise ValueError(f"threads is {threads}; expected at least 1")
    words = _buffer_bytes(level, threads) // 8
    buffers = [np.full(words, thread, np.uint64) for thread in range(threads)]
    _read(buffers[0], 1)  # compiles
    rounds = max(1, _ROUND_BYTES // (8 * words))
    best = _best_round(lambda thread: _read(buffers[thread], rounds), threads, seconds)
    return float(threads * rounds * words * 8 / best / 1e9)
