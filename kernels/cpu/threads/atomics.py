"""Instructions and system calls that compiled code needs to cooperate with other threads.

Atomic operations on 64-bit words, spin-wait hints, CPython's PyThread locks, which need no GIL, and system calls of
Linux's scheduler. Addresses and locks are integers. Each function here is a Numba intrinsic that emits a few LLVM
instructions, or a call of a C function that every Python process has loaded.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...jit.call_by_address import FunctionPointer
from ...jit.target import IS_ARM, IS_X86

MASK_BYTES = 128
"""Size of a set of CPUs in Linux's system calls: one bit for each of 1024."""

_POINTER = ir.PointerType()
_VOID = ir.VoidType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


def _emits(result: Any, *parameters: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic, of these Numba types, from a function ``(builder, *values)`` that emits its instructions.

    The function returns the result's LLVM value; None where the result is void.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        @functools.wraps(emit)  # also gives the intrinsic the right number of parameters
        def typed(typing_context: Any, *given: Any) -> Any:
            def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
                value = emit(builder, *values)
                return context.get_dummy_value() if value is None else value

            return result(*parameters), codegen

        return intrinsic(typed)

    return decorate


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Emit the call of a C function or of an LLVM intrinsic."""
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


# --------------------------------------------------------------------------------------------- atomics


@_emits(types.int64, types.intp)
def atomic_load(builder: Any, address: Any) -> Any:
    """Read the word at an address, as other threads have left it."""
    return builder.load_atomic(builder.inttoptr(address, _POINTER), "seq_cst", 8, typ=_INT64)


@_emits(types.int64, types.intp, types.int64)
def atomic_swap(builder: Any, address: Any, value: Any) -> Any:
    """Write a word to an address and return the word that was there before."""
    return builder.atomic_rmw("xchg", builder.inttoptr(address, _POINTER), value, "seq_cst")


@_emits(types.int64, types.intp, types.int64)
def atomic_add(builder: Any, address: Any, value: Any) -> Any:
    """Add to the word at an address and return the word that was there before."""
    return builder.atomic_rmw("add", builder.inttoptr(address, _POINTER), value, "seq_cst")


# --------------------------------------------------------------------------------------------- waiting


@_emits(types.void)
def pause(builder: Any) -> None:
    """Wait some 40 ns and leave the core's execution units to its other hardware thread."""
    if IS_X86:
        _call(builder, "llvm.x86.sse2.pause", _VOID)
    elif IS_ARM:
        _call(builder, "llvm.aarch64.isb", _VOID, _INT32(15))


@_emits(types.void)
def sched_yield(builder: Any) -> None:
    """Let another thread run on this core if one is waiting for it; takes 0.3 us where none is."""
    if os.name == "posix":
        _call(builder, "sched_yield", _INT32)


@_emits(types.void, types.intp)
def acquire(builder: Any, lock: Any) -> None:
    """Sleep until another thread releases the lock, a PyThread_type_lock."""
    _call(builder, "PyThread_acquire_lock", _INT32, lock, _INT32(1))


@_emits(types.void, types.intp)
def release(builder: Any, lock: Any) -> None:
    """Wake the thread that sleeps on the lock."""
    _call(builder, "PyThread_release_lock", _VOID, lock)


# ------------------------------------------------------------------------------------------------ CPUs


@_emits(types.int64)
def current_cpu(builder: Any) -> Any:
    """Return the number of the CPU that this thread runs on; -1 on other systems than Linux. Takes 20 ns."""
    if sys.platform != "linux":
        return _INT64(-1)
    return builder.sext(_call(builder, "sched_getcpu", _INT32), _INT64)


@_emits(types.void, types.intp)
def set_affinity(builder: Any, mask: Any) -> None:
    """Let this thread run on the CPUs of a mask only, given its address; Linux only."""
    if sys.platform == "linux":
        _call(builder, "sched_setaffinity", _INT32, _INT32(0), mask.type(MASK_BYTES), mask)


# ----------------------------------------------------------------------------------------------- calls


@_emits(types.void, types.intp, types.intp)
def invoke(builder: Any, function: Any, environment: Any) -> None:
    """Call ``void function(intptr_t environment)``, given its address."""
    function_type = ir.FunctionType(_VOID, [environment.type])
    builder.call(FunctionPointer(builder, function, function_type), [environment])
