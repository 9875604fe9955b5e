"""The threads: how many may work, and how they share out the pieces of a call among them.

Imports `_jit` and `primitives`. `num_threads` says how many threads a call may use; `parallel_for` has that many work
off numbered pieces of it; `limit_threads` sets an upper bound for a block of Python.

Workers are Python threads that run one compiled function, `_worker_loop`, without the GIL, for as long as the process
lives. A call opens a job; workers that are awake join it; everybody takes the next piece until there is none;
then the caller closes the job and waits for pieces that are still in somebody's hands, and for nothing
else. Who does a piece must not change a bit of it: that is what the callers see to.

Why not ``numba.prange``, which was tried first, with the same pieces:

- Its region ends with a barrier of all threads. Where one of them has lost its core to another process, everybody
  waits for it, pieces or no pieces: with both cores wanted by others, 256 cubed ran at 0.03 to 0.08 of simd's
  speed (medians). Here it runs at 0.99.
- Latency: 128 cubed at 1.25 times simd's speed, 256 cubed at 1.78 (bests). Here: 1.8 and 1.96.
- omp: a child forked after use is killed in its next region. workqueue, all there is on macOS with pip: 83
  to 100 us a region, and two Python threads in a region at once, a user's own included, abort the process.
- Everything inside a ``prange`` is compiled three times: 2.4 s for the product, where simd takes 0.5.

Asleep and awake. A worker looks for jobs for SPINS pauses, then sleeps on a lock. An awake one joins within a
microsecond; waking one costs the caller 5 us and takes 50. So sleepers are woken when WAKE operations have been
asked for, by one call or by many: what waking costs then stays below a tenth of the work.

Several Python threads at once: one has the workers, the others work off their pieces alone. That is decided and
undone within one compiled call, where no KeyboardInterrupt arrives. A child forked after use works serially:
its workers were not forked along. Numba's own threads and their number are not touched.
"""

import atexit
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...jit.decorator import jit
from .atomics import (
    MASK_BYTES,
    acquire,
    atomic_add,
    atomic_load,
    atomic_swap,
    current_cpu,
    invoke,
    pause,
    release,
    sched_yield,
    set_affinity,
)

SPIN_ITERATIONS = 4000
"""Pauses of some 40 ns before a worker falls asleep: longer than a training step spends between two products, and
not much longer than waking costs."""

YIELD_INTERVAL = 32
"""Pauses between two offers of the core to whoever else wants it."""

WAKE_FLOPS = 20_000_000
"""Floating-point operations, asked for since the last time, that sleepers are woken for."""

MAX_THREADS = 256
"""Workers there is room for."""

# The shared record, in bytes.  What is written by different threads lies in different pairs of cache lines.
_LINE = 128
_BUSY = 0  # 1 while somebody has the workers
_CREDIT = 8  # operations asked for since sleepers were woken
_OPEN = _LINE  # threads that may work on the job, the caller included; 0: there is no job
_FUNCTION = _LINE + 8
_ENVIRONMENT = _LINE + 16
_WAKING = _LINE + 24  # 1 where sleepers are to be woken for this job
_CPU = _LINE + 32  # where the caller runs
_STOP = _LINE + 40  # 1 when the process ends
_MASKS = _LINE + 48  # address of `_other_cpus`, or 0
_CPUS = _LINE + 56  # rows of it
_ACTIVE = 2 * _LINE  # workers that may be touching the job
_WORKER = 2 * _LINE  # + me * _LINE, me from 1 on: 1 while asleep; the lock it sleeps on
_LOCK = 8

_pool = np.zeros((3 + MAX_THREADS) * _LINE // 8, np.int64)

POOL = int(_pool.ctypes.data)
"""Address of the shared record: an argument of `parallel_for`, since compiled code takes globals for constants."""

_other_cpus = np.zeros((0, MASK_BYTES), np.uint8)
"""Row c: the CPUs this process may use, without CPU c, as the system call takes them."""

_bound: ContextVar[int | None] = ContextVar("fastnet_threads", default=None)

_thread_count = 0
"""Threads that may be used, the caller's own included; 0 before that is known."""

_workers: list[threading.Thread] = []
_starting = threading.Lock()


# ------------------------------------------------------------------------------------- how many threads


@contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Within this block, and for this Python thread, kernels use no more threads than these.

    Parameters
    ----------
    threads : int or None
        Upper bound; more than there are is no error. None: as many as there are.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is below 1.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int | np.integer)):
        raise TypeError(f"threads is {threads!r}; expected a whole number from 1 on, or None for all")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; expected 1 or more, or None for all")
    token = _bound.set(None if threads is None else int(threads))
    try:
        yield
    finally:
        _bound.reset(token)


def num_threads() -> int:
    """Count the threads that a call may use now, the caller's own included."""
    bound = _bound.get()
    if bound == 1:
        return 1
    there = _thread_count or _launch()
    return there if bound is None or bound > there else bound


def _launch() -> int:
    """Start the workers, once, and count the threads that may be used.

    As many as NUMBA_NUM_THREADS says, by default one a CPU, and no more than the CPUs this process may use:
    a step on 3 threads and 2 CPUs ran slower than on one.
    """
    global _thread_count
    with _starting:
        if _thread_count:
            return _thread_count
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        there = 1 if numba.config.DISABLE_JIT else max(1, min(numba.config.NUMBA_NUM_THREADS, cpus, MAX_THREADS))
        if there > 1:
            _worker_loop.compile(types.void(types.intp, types.intp))  # type: ignore[attr-defined]
            _write_cpu_masks()
            for me in range(len(_workers) + 1, there):
                _pool[(_WORKER + me * _LINE + _LOCK) // 8] = _locked_lock()
                worker = threading.Thread(target=_worker_loop, args=(POOL, me), name=f"fastnet-{me}", daemon=True)
                worker.start()
                _workers.append(worker)
            atexit.register(_stop)
        _thread_count = there
        return there


def _write_cpu_masks() -> None:
    """Prepare what `_leave_callers_cpu` hands to Linux."""
    global _other_cpus
    if sys.platform != "linux":
        return
    allowed = sorted(os.sched_getaffinity(0))
    if allowed[-1] >= MASK_BYTES * 8:
        return
    bits = np.zeros((allowed[-1] + 1, MASK_BYTES * 8), np.uint8)
    bits[:, allowed] = 1
    np.fill_diagonal(bits, 0)
    _other_cpus = np.packbits(bits, axis=1, bitorder="little")
    _pool[_MASKS // 8], _pool[_CPUS // 8] = _other_cpus.ctypes.data, len(_other_cpus)


def _locked_lock() -> int:
    """A lock of the interpreter's, which compiled code can wait for and release without the GIL."""
    allocate = ctypes.pythonapi.PyThread_allocate_lock
    allocate.restype = ctypes.c_void_p
    lock = allocate()
    if not lock:
        raise MemoryError("no lock for a worker thread")
    take = ctypes.pythonapi.PyThread_acquire_lock
    take.argtypes = (ctypes.c_void_p, ctypes.c_int)
    take(lock, 1)
    return int(lock)


def _stop() -> None:
    """End the workers before the interpreter does, which they would outlive."""
    global _thread_count
    _thread_count = 1
    _pool[_STOP // 8] = 1
    for me in range(1, len(_workers) + 1):
        _wake(POOL, me)
    for worker in _workers:
        worker.join(1.0)
    _workers.clear()


def _in_forked_child() -> None:
    """Be serial where there were workers: they were not forked along."""
    global _thread_count, _starting
    if _thread_count:
        _thread_count = 1
        _pool[:] = 0  # jobs that somebody was at, in the parent
    _workers.clear()
    _starting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


# ------------------------------------------------------------------------------------------- the job


@jit(internal=True)
def _wait(waited: int) -> None:
    """Wait a moment.

    Giving way now and then: with the other core taken, workers that spun on their caller's held up 96 to 192 cubed
    to 0.63 of simd's speed; those that give way, to 0.92 to 0.99.
    """
    if waited % YIELD_INTERVAL == 0:
        sched_yield()
    else:
        pause()


@jit(internal=True)
def _leave_callers_cpu(pool: int) -> None:
    """Leave the caller's CPU.

    Linux tends to put who is woken beside who woke him, and took seconds to part them: 128 to 384 cubed ran at
    0.98 to 1.0 of simd's speed with the other CPU idle, and run at 1.4 to 1.9.
    """
    cpu = current_cpu()
    if cpu >= 0 and cpu == atomic_load(pool + _CPU) and cpu < atomic_load(pool + _CPUS):
        set_affinity(atomic_load(pool + _MASKS) + cpu * MASK_BYTES)


@jit
def _wake(pool: int, me: int) -> None:
    """Wake a worker if it sleeps."""
    worker = pool + _WORKER + me * _LINE
    if atomic_load(worker) == 1 and atomic_swap(worker, 0) == 1:
        release(atomic_load(worker + _LOCK))


@jit
def _worker_loop(pool: int, me: int) -> None:
    """What a worker does all its life."""
    mine = pool + _WORKER + me * _LINE
    waited = 0
    while atomic_load(pool + _STOP) == 0:
        if atomic_load(pool + _OPEN) > me:
            atomic_add(pool + _ACTIVE, 1)
            # Once more: the caller, who closes the job and then looks at _ACTIVE, may just have left.
            width = atomic_load(pool + _OPEN)
            if width > me:
                if atomic_load(pool + _WAKING) == 1:  # a tree: a row of 63 would cost the caller 300 us
                    for other in range(2 * me, min(2 * me + 2, width)):
                        _wake(pool, other)
                _leave_callers_cpu(pool)
                invoke(atomic_load(pool + _FUNCTION), atomic_load(pool + _ENVIRONMENT))
                atomic_swap(pool + _OPEN, 0)  # no pieces are left; this is still the same job, for we are active
            atomic_add(pool + _ACTIVE, -1)
            waited = 0
        elif waited < SPIN_ITERATIONS:
            waited += 1
            _wait(waited)
        else:
            waited = 0
            atomic_swap(mine, 1)
            # Whoever opens a job after this line finds us asleep; whoever did before it, we find here. If
            # someone has taken our mark away meanwhile, the lock is released, and must be taken again.
            nothing = atomic_load(pool + _OPEN) <= me and atomic_load(pool + _STOP) == 0
            if nothing or atomic_swap(mine, 0) == 0:
                acquire(atomic_load(mine + _LOCK))
                _leave_callers_cpu(pool)


@jit(internal=True)
def _run_job(function: int, environment: int, threads: int, flops: int, pool: int) -> None:
    """``function(environment)`` on this thread, and on so many others as are awake or worth being woken."""
    if threads <= 1 or atomic_swap(pool + _BUSY, 1) == 1:
        invoke(function, environment)
        return
    credit = atomic_load(pool + _CREDIT) + flops
    waking = 1 if credit >= WAKE_FLOPS else 0
    atomic_swap(pool + _CREDIT, 0 if waking else credit)
    atomic_swap(pool + _FUNCTION, function)
    atomic_swap(pool + _ENVIRONMENT, environment)
    atomic_swap(pool + _WAKING, waking)
    atomic_swap(pool + _CPU, current_cpu())
    atomic_swap(pool + _OPEN, threads)
    if waking:
        _wake(pool, 1)
    invoke(function, environment)
    atomic_swap(pool + _OPEN, 0)
    waited = 0
    while atomic_load(pool + _ACTIVE) > 0:
        waited += 1
        _wait(waited)
    atomic_swap(pool + _BUSY, 0)


@intrinsic  # type: ignore[untyped-decorator]
def _run_tasks(typing_context: Any, body: Any, tasks: Any, threads: Any, flops: Any, pool: Any, arguments: Any) -> Any:
    """Have ``body(piece, *arguments)`` run for every piece; returns how many ended without an error.

    What an OpenMP compiler does with a loop: the arguments go into a record on the caller's stack, the loop
    into a function that takes its address.  The record: the next piece, the pieces done, the arguments.
    """
    body_signature = body.get_call_type(typing_context, (types.intp, *arguments.types), {})
    work_type = typing_context.resolve_value_type(_run_job)
    work_signature = work_type.get_call_type(typing_context, (types.intp,) * 5, {})

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        _, tasks, threads, flops, pool, packed = values
        compiled = body.dispatcher.get_compile_result(body_signature)
        context.add_linking_libs([compiled.library])
        count = tasks.type
        record = ir.LiteralStructType([count, count, count, packed.type])
        place = cgutils.alloca_once(builder, record)
        first = ir.Constant(count, 0)
        for i, value in enumerate((first, first, tasks, packed)):
            builder.store(value, cgutils.gep_inbounds(builder, place, 0, i))

        function = _task_loop(context, builder, record, compiled.fndesc, body_signature)
        work = context.get_function(work_type, work_signature)
        context.add_linking_libs(getattr(work, "libs", ()))
        work(builder, [builder.ptrtoint(function, count), builder.ptrtoint(place, count), threads, flops, pool])
        return builder.load(cgutils.gep_inbounds(builder, place, 0, 1))

    return types.intp(body, *[types.intp] * 4, arguments), codegen


def _task_loop(context: Any, caller: ir.IRBuilder, record: ir.Type, descriptor: Any, signature: Any) -> Any:
    """The function that each thread runs: while there is a next piece, take it and call the body."""
    name = caller.module.get_unique_name(f"{caller.function.name}.pieces")
    function = ir.Function(caller.module, ir.FunctionType(ir.VoidType(), [ir.IntType(types.intp.bitwidth)]), name)
    function.linkage = "internal"
    entry, take, do, done, end = (function.append_basic_block(name) for name in ("entry", "take", "do", "done", "end"))
    builder = ir.IRBuilder(entry)
    environment = builder.inttoptr(function.args[0], ir.PointerType(record))
    next_piece, completed, count, packed = (cgutils.gep_inbounds(builder, environment, 0, i) for i in range(4))
    tasks = builder.load(count)
    arguments = cgutils.unpack_tuple(builder, builder.load(packed))
    builder.branch(take)

    builder.position_at_end(take)
    one = ir.Constant(tasks.type, 1)
    task = builder.atomic_rmw("add", next_piece, one, "seq_cst")
    builder.cbranch(builder.icmp_signed("<", task, tasks), do, end)

    builder.position_at_end(do)
    status, _ = context.call_internal_no_propagate(builder, descriptor, signature, [task, *arguments])
    builder.cbranch(status.is_ok, done, take)
    builder.position_at_end(done)
    builder.atomic_rmw("add", completed, one, "seq_cst")
    builder.branch(take)

    builder.position_at_end(end)
    builder.ret_void()
    return function


@jit(inline=True)
def parallel_for(body: Any, tasks: int, threads: int, flops: int, pool: int, arguments: Any) -> None:
    """Run ``body(piece, *arguments)`` for each piece from 0 on, on up to so many threads; returns when all are done.

    For compiled callers.

    Parameters
    ----------
    body : compiled function
        What it does to a piece must touch nothing that another piece writes.
    pieces, threads : int
        How many pieces there are; what `num_threads` returned.
    flops : int
        Operations of all of it, by which it is decided whether sleepers are woken.
    shared : int
        `POOL`.
    arguments : tuple
        The same for all pieces. Arrays among them must live until this returns.

    Raises
    ------
    MemoryError
        If a piece failed; other pieces are done nevertheless.
    """
    if _run_tasks(body, tasks, threads, flops, pool, arguments) != tasks:
        raise MemoryError("a piece of parallel work could not allocate memory")
