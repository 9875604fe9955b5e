"""Parallel loops of compiled code: `parallel_for` runs numbered tasks on the caller and on the pool's workers.

A call opens a job, and workers that are awake join it. Thread t of T owns the tasks t, t + T, t + 2 T, ...; when it has
run its own, it steals tasks that others have not begun. So a thread runs mostly the same tasks in every step and finds
what it wrote before in its own caches; and a thread that sleeps or has lost its core delays at most the task that it is
running. When no task is left, the caller closes the job and waits only for tasks that other threads have begun.
Results must not depend on which thread runs a task; callers guarantee this.

A worker polls for jobs for SPIN_ITERATIONS pauses, then sleeps on a lock. Waking it costs the caller more time than a
small product takes, so sleeping workers are woken only after WAKE_FLOPS operations have been requested, by one call or
by many.

If several Python threads call at once, one of them gets the workers and the others run their tasks alone. A call
claims and releases the workers within compiled code, where no KeyboardInterrupt can arrive.

Latencies, and why this is not ``numba.prange``: docs/performance-notes/threads.md.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...jit.call_by_address import by_address
from ...jit.decorator import jit
from ...llvm.memory import stack_memory, vector_at
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
"""Pauses of some 40 ns before a worker goes to sleep: longer than a training step spends between two products, and
not much longer than waking a worker takes."""

YIELD_INTERVAL = 32
"""Pauses between two calls of sched_yield, which let other processes have the core."""

WAKE_FLOPS = 20_000_000
"""Workers are woken again once this many floating-point operations have been requested since the last time. Waking then
takes less than a tenth of the time of the work."""

MAX_THREADS = 256
"""Most threads of a pool, the caller included."""

# --------------------------------------------------------------------------------- the shared record

LINE = 128
"""Bytes between words that different threads write: two cache lines, since processors fetch neighbours in pairs."""

_LINES = (
    # Written by threads that call `parallel_for`.
    # busy: 1 while a thread has the workers; credit: operations requested since workers were last woken.
    ("busy", "credit"),
    # The job, read by workers.
    # width: threads that may join it, the caller included, or 0 if there is no job; function, environment: addresses;
    # waking: 1 if sleeping workers are to be woken for it; cpu: the CPU that the caller runs on; stop: 1 when the
    # process ends; masks: address of `mask_rows` CPU masks, row c with all usable CPUs but c, or 0.
    ("width", "function", "environment", "waking", "cpu", "stop", "masks", "mask_rows"),
    # Written by workers: how many of them may be running the job.
    ("active",),
)

_WORKER = np.dtype({"names": ["asleep", "lock", "taken"], "formats": [np.int64] * 3, "itemsize": LINE})
"""One thread of the pool. asleep: 1 while it sleeps; lock: the lock that it sleeps on; taken: how many of its own tasks
have been taken, by itself or by others."""

_WORDS = {name: line * LINE + 8 * i for line, names in enumerate(_LINES) for i, name in enumerate(names)}

POOL_RECORD = np.dtype(
    {
        "names": [*_WORDS, "workers"],
        "formats": [*[np.int64] * len(_WORDS), (_WORKER, MAX_THREADS)],
        "offsets": [*_WORDS.values(), len(_LINES) * LINE],
    }
)
"""The record that the threads of a pool share. Worker 0 is the caller, which never sleeps and has no lock."""

_BUSY, _CREDIT = _WORDS["busy"], _WORDS["credit"]
_WIDTH, _FUNCTION, _ENVIRONMENT = _WORDS["width"], _WORDS["function"], _WORDS["environment"]
_WAKING, _CPU, _STOP = _WORDS["waking"], _WORDS["cpu"], _WORDS["stop"]
_MASKS, _MASK_ROWS = _WORDS["masks"], _WORDS["mask_rows"]
_ACTIVE, _WORKERS, _LOCK = _WORDS["active"], len(_LINES) * LINE, 8
_INT64 = np.dtype(np.int64)
_COUNTERS = _WORKERS + 16  # offset of the first word `taken`; they are LINE bytes apart

# ------------------------------------------------------------------------------------------ the workers


@jit(internal=True)
def _spin(iteration: int) -> None:
    """Pause; every YIELD_INTERVAL iterations, yield to other processes (docs/performance-notes/threads.md)."""
    if iteration % YIELD_INTERVAL == 0:
        sched_yield()
    else:
        pause()


@jit(internal=True)
def _leave_callers_cpu(pool: int) -> None:
    """Move this thread off the caller's CPU, where Linux tends to put it (docs/performance-notes/threads.md)."""
    cpu = current_cpu()
    if cpu >= 0 and cpu == atomic_load(pool + _CPU) and cpu < atomic_load(pool + _MASK_ROWS):
        set_affinity(atomic_load(pool + _MASKS) + cpu * MASK_BYTES)


@by_address(lambda real: (types.intp, types.intp))
@jit
def wake(pool: int, me: Any) -> None:
    """Wake worker ``me`` if it sleeps.

    Parameters
    ----------
    pool : int
        Address of a `POOL_RECORD`.
    me : int
        Index of a worker, 1 or more.
    """
    worker = pool + _WORKERS + me * LINE
    if atomic_load(worker) == 1 and atomic_swap(worker, 0) == 1:
        release(atomic_load(worker + _LOCK))


@by_address(lambda real: (types.intp, types.intp))
@jit
def worker_loop(pool: int, me: int) -> None:
    """Join jobs as worker ``me`` of a pool until its record says stop.

    Parameters
    ----------
    pool : int
        Address of a `POOL_RECORD` that outlives this call.
    me : int
        Index of the worker, 1 or more; its lock must be in the record and acquired.
    """
    worker = pool + _WORKERS + me * LINE
    waited = 0
    while atomic_load(pool + _STOP) == 0:
        if atomic_load(pool + _WIDTH) > me:
            atomic_add(pool + _ACTIVE, 1)
            # Read it again: the caller may have closed the job and read `active` just before this worker added 1.
            width = atomic_load(pool + _WIDTH)
            if width > me:
                if atomic_load(pool + _WAKING) == 1:  # wake as a tree: waking 63 workers would cost the caller 300 us
                    for other in range(2 * me, min(2 * me + 2, width)):
                        wake(pool, other)
                _leave_callers_cpu(pool)
                environment = atomic_load(pool + _ENVIRONMENT)
                invoke(atomic_load(pool + _FUNCTION), environment, me, width, pool + _COUNTERS)
                atomic_swap(pool + _WIDTH, 0)  # no task is left; a new job cannot open while this worker is active
            atomic_add(pool + _ACTIVE, -1)
            waited = 0
        elif waited < SPIN_ITERATIONS:
            waited += 1
            _spin(waited)
        else:
            waited = 0
            atomic_swap(worker, 1)
            # A caller that opens a job from here on sees this worker asleep; a job opened before is seen here. If
            # another thread has cleared `asleep` meanwhile, it releases the lock, which must then be acquired again.
            idle = atomic_load(pool + _WIDTH) <= me and atomic_load(pool + _STOP) == 0
            if idle or atomic_swap(worker, 0) == 0:
                acquire(atomic_load(worker + _LOCK))
                _leave_callers_cpu(pool)


# ---------------------------------------------------------------------------------------------- the job


@jit(internal=True)
def _run_job(function: int, environment: int, threads: int, flops: int, pool: int) -> None:
    """Call ``function`` on this thread and on up to ``threads - 1`` workers; return when all are done."""
    if threads <= 1 or atomic_swap(pool + _BUSY, 1) == 1:
        counter = stack_memory(8)
        vector_at(_INT64, counter, 1)[0] = 0
        invoke(function, environment, 0, 1, counter)
        return
    for t in range(threads):
        vector_at(_INT64, pool + _COUNTERS + t * LINE, 1)[0] = 0  # workers see this before the swaps below
    credit = atomic_load(pool + _CREDIT) + flops
    waking = 1 if credit >= WAKE_FLOPS else 0
    atomic_swap(pool + _CREDIT, 0 if waking else credit)
    atomic_swap(pool + _FUNCTION, function)
    atomic_swap(pool + _ENVIRONMENT, environment)
    atomic_swap(pool + _WAKING, waking)
    atomic_swap(pool + _CPU, current_cpu())
    atomic_swap(pool + _WIDTH, threads)
    if waking:
        wake(pool, np.intp(1))  # Numba would compile `wake` once more for a literal
    invoke(function, environment, 0, threads, pool + _COUNTERS)
    atomic_swap(pool + _WIDTH, 0)
    waited = 0
    while atomic_load(pool + _ACTIVE) > 0:
        waited += 1
        _spin(waited)
    atomic_swap(pool + _BUSY, 0)


@intrinsic  # type: ignore[untyped-decorator]
def _run_tasks(typing_context: Any, body: Any, tasks: Any, threads: Any, flops: Any, pool: Any, arguments: Any) -> Any:
    """Run ``body(task, thread, *arguments)`` for every task; return how many ended without an error.

    It outlines the loop as an OpenMP compiler does: the arguments go into a record on the caller's stack, the loop into
    a function that takes its address. The record holds tasks completed, number of tasks, arguments.
    """
    body_signature = body.get_call_type(typing_context, (types.intp, types.intp, *arguments.types), {})
    job_type = typing_context.resolve_value_type(_run_job)
    job_signature = job_type.get_call_type(typing_context, (types.intp,) * 5, {})

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        _, tasks, threads, flops, pool, packed = values
        compiled = body.dispatcher.get_compile_result(body_signature)
        context.add_linking_libs([compiled.library])
        intp = tasks.type
        record = ir.LiteralStructType([intp, intp, packed.type])
        environment = cgutils.alloca_once(builder, record)
        values = (intp(0), tasks, packed)
        builder.store(cgutils.pack_struct(builder, values), environment)

        function = _task_loop(context, builder, record, compiled.fndesc, body_signature)
        run_job = context.get_function(job_type, job_signature)
        context.add_linking_libs(getattr(run_job, "libs", ()))
        addresses = [builder.ptrtoint(pointer, intp) for pointer in (function, environment)]
        run_job(builder, [*addresses, threads, flops, pool])
        return builder.extract_value(builder.load(environment, typ=record), 0)

    return types.intp(body, *[types.intp] * 4, arguments), codegen


def _task_loop(context: Any, caller: ir.IRBuilder, record: ir.Type, descriptor: Any, signature: Any) -> Any:
    """Emit the function that each thread runs: it calls the body for its own tasks, then for those of the next threads.

    Its arguments are the address of the record, the index of this thread, the number of threads, and the address of
    their counters.
    """
    name = caller.module.get_unique_name(f"{caller.function.name}.tasks")
    intp = record.elements[0]
    function = ir.Function(caller.module, ir.FunctionType(ir.VoidType(), [intp] * 4), name)
    function.linkage = "internal"
    address, me, threads, counters = function.args
    names = ("entry", "owner", "look", "take", "do", "done", "next_owner", "end")
    entry, owner, look, take, do, done, next_owner, end = (function.append_basic_block(name) for name in names)
    builder = ir.IRBuilder(entry)
    environment = builder.inttoptr(address, ir.PointerType())
    completed, count, packed = (
        builder.gep(environment, [ir.IntType(32)(0), ir.IntType(32)(i)], inbounds=True, source_etype=record)
        for i in range(3)
    )
    tasks = builder.load(count, typ=intp)
    arguments = cgutils.unpack_tuple(builder, builder.load(packed, typ=record.elements[2]))
    owners_left, visited, ended = (cgutils.alloca_once_value(builder, x) for x in (threads, me, intp(0)))
    builder.branch(owner)

    builder.position_at_end(owner)
    first = builder.load(visited, typ=intp)
    counter = builder.inttoptr(builder.add(counters, builder.mul(first, intp(LINE))), ir.PointerType())
    builder.branch(look)

    def below(taken: ir.Value, then: ir.Block) -> ir.Value:
        task = builder.add(first, builder.mul(taken, threads))
        builder.cbranch(builder.icmp_signed("<", task, tasks), then, next_owner)
        return task

    builder.position_at_end(look)  # load before the atomic add: looking at exhausted counters leaves their lines shared
    below(builder.load_atomic(counter, "monotonic", 8, typ=intp), take)
    builder.position_at_end(take)
    task = below(builder.atomic_rmw("add", counter, intp(1), "seq_cst"), do)

    builder.position_at_end(do)
    status, _ = context.call_internal_no_propagate(builder, descriptor, signature, [task, me, *arguments])
    builder.cbranch(status.is_ok, done, look)
    builder.position_at_end(done)
    builder.store(builder.add(builder.load(ended, typ=intp), intp(1)), ended)
    builder.branch(look)

    builder.position_at_end(next_owner)
    following = builder.add(first, intp(1))
    wrapped = builder.select(builder.icmp_signed("==", following, threads), intp(0), following)
    builder.store(wrapped, visited)
    left = builder.sub(builder.load(owners_left, typ=intp), intp(1))
    builder.store(left, owners_left)
    builder.cbranch(builder.icmp_signed(">", left, intp(0)), owner, end)

    builder.position_at_end(end)
    builder.atomic_rmw("add", completed, builder.load(ended, typ=intp), "seq_cst")
    builder.ret_void()
    return function


@jit(inline=True)
def parallel_for(body: Any, tasks: int, threads: int, flops: int, pool: int, arguments: Any) -> bool:
    """Run ``body(task, thread, *arguments)`` for each task, on up to ``threads`` threads; return when all are done.

    ``thread``, from 0 to threads - 1, is unique among the threads that run at the same time; use it to index scratch.

    Only compiled code can call this. It does not raise, since an exception that leaves a caller with arrays would leak
    Numba's references to them.

    Parameters
    ----------
    body : compiled function
        No task may read or write what another one writes.
    tasks, threads : int
        Number of tasks; number of threads, from `pool.num_threads`.
    flops : int
        Floating-point operations of all tasks together; decides whether sleeping workers are woken.
    pool : int
        `pool.POOL`.
    arguments : tuple
        The same for all tasks. Arrays among them must live until this returns.

    Returns
    -------
    bool
        False if a task raised an exception (only MemoryError is possible); the other tasks have run nevertheless.
    """
    return _run_tasks(body, tasks, threads, flops, pool, arguments) == tasks
