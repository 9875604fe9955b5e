"""Instructions and system calls with which compiled code synchronises threads.

Atomic operations on 64-bit words, spin-wait hints, CPython's PyThread locks, which need no GIL, and Linux's scheduler
calls. Addresses and locks are integers. Each function here is a Numba intrinsic that emits a few LLVM instructions, or
a call of a C function that every Python process has loaded.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types

from ...jit.call_by_address import FunctionPointer
from ...jit.target import IS_ARM, IS_X86
from ...llvm.builder import POINTER, VOID, call_function, emits

MASK_BYTES = 128
"""Size of a CPU mask in Linux's system calls: one bit for each of 1024 CPUs."""

YIELD = {"posix": "sched_yield", "nt": "SwitchToThread"}.get(os.name, "")
"""The system's function that lets another thread run on this core; it takes no arguments and returns an int."""

if sys.platform == "win32":
    llvm.add_symbol(YIELD, ctypes.cast(ctypes.windll.kernel32.SwitchToThread, ctypes.c_void_p).value)

_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


def _emits(result: Any, *parameters: Any) -> Callable[[Callable[..., Any]], Any]:
    """Turn a function ``(builder, *values)`` that emits instructions into an intrinsic with these Numba types."""
    return emits(lambda *_: parameters, lambda *_: result)


# --------------------------------------------------------------------------------------------- atomics


@_emits(types.int64, types.intp)
def atomic_load(builder: Any, address: Any) -> Any:
    """Read the word at an address (sequentially consistent, as are the other atomics)."""
    return builder.load_atomic(builder.inttoptr(address, POINTER), "seq_cst", 8, typ=_INT64)


@_emits(types.int64, types.intp, types.int64)
def atomic_swap(builder: Any, address: Any, value: Any) -> Any:
    """Write a word to an address and return the word that was there before."""
    return builder.atomic_rmw("xchg", builder.inttoptr(address, POINTER), value, "seq_cst")


@_emits(types.int64, types.intp, types.int64)
def atomic_add(builder: Any, address: Any, value: Any) -> Any:
    """Add to the word at an address and return the word that was there before."""
    return builder.atomic_rmw("add", builder.inttoptr(address, POINTER), value, "seq_cst")


@_emits(types.void)
def store_fence(builder: Any) -> None:
    """Make earlier non-temporal stores visible to other threads before any later store."""
    if IS_X86:
        call_function(builder, "llvm.x86.sse.sfence", VOID)
    else:
        builder.fence("release")


# --------------------------------------------------------------------------------------------- waiting


@_emits(types.void)
def pause(builder: Any) -> None:
    """Wait some 40 ns, leaving the core's execution units to its other hardware thread."""
    if IS_X86:
        call_function(builder, "llvm.x86.sse2.pause", VOID)
    elif IS_ARM:
        call_function(builder, "llvm.aarch64.isb", VOID, _INT32(15))


@_emits(types.void)
def sched_yield(builder: Any) -> None:
    """Let another thread run on this core if one is waiting; takes 0.3 us if none is."""
    if YIELD:
        call_function(builder, YIELD, _INT32)


@_emits(types.void, types.intp)
def acquire(builder: Any, lock: Any) -> None:
    """Sleep until another thread releases the lock, a PyThread_type_lock."""
    call_function(builder, "PyThread_acquire_lock", _INT32, lock, _INT32(1))


@_emits(types.void, types.intp)
def release(builder: Any, lock: Any) -> None:
    """Wake the thread that sleeps on the lock."""
    call_function(builder, "PyThread_release_lock", VOID, lock)


# ------------------------------------------------------------------------------------------------ CPUs


@_emits(types.int64)
def current_cpu(builder: Any) -> Any:
    """Return the number of the CPU that this thread runs on; -1 on systems other than Linux. Takes 20 ns."""
    if sys.platform != "linux":
        return _INT64(-1)
    return builder.sext(call_function(builder, "sched_getcpu", _INT32), _INT64)


@_emits(types.void, types.intp)
def set_affinity(builder: Any, mask: Any) -> None:
    """Restrict this thread to the CPUs of the mask at an address; does nothing on systems other than Linux."""
    if sys.platform == "linux":
        call_function(builder, "sched_setaffinity", _INT32, _INT32(0), mask.type(MASK_BYTES), mask)


# ----------------------------------------------------------------------------------------------- calls


@_emits(types.void, *[types.intp] * 5)
def invoke(builder: Any, function: Any, environment: Any, me: Any, threads: Any, counters: Any) -> None:
    """Call ``void function(environment, me, threads, counters)`` by its address; all arguments are integers."""
    arguments = [environment, me, threads, counters]
    function_type = ir.FunctionType(VOID, [x.type for x in arguments])
    builder.call(FunctionPointer(builder, function, function_type), arguments)
