"""What compiled code lacks to be a thread among threads: atomic words, locks of the interpreter's, CPUs.

Imports nothing of the package. Addresses are integers. Each is a few LLVM instructions, or a call of a function
that is in every process: CPython's PyThread locks, which need no GIL, and on Linux the scheduler's calls.
"""

import os
import platform
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

MASK_BYTES = 128
"""Size of a set of CPUs as Linux's system call takes it: room for 1024."""

_VOID = ir.VoidType()
_INT32 = ir.IntType(32)


def _atomic(operation: str) -> Any:
    """An intrinsic that combines a word at an address with a value, in one step, and returns what was there."""

    @intrinsic  # type: ignore[untyped-decorator]
    def atomic(typing_context: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(64)))
            return builder.atomic_rmw(operation, place, arguments[1], "seq_cst")

        return types.int64(types.intp, types.int64), codegen

    return atomic


atomic_swap = _atomic("xchg")
atomic_add = _atomic("add")


@intrinsic  # type: ignore[untyped-decorator]
def atomic_load(typing_context: Any, address: Any) -> Any:
    """The word at an address, as other threads have left it."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(64)))
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def pause(typing_context: Any) -> Any:
    """Let some 40 ns pass, without taking anything from the other thread of a core."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            kind = ir.FunctionType(_VOID, [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        elif machine in ("arm64", "aarch64"):
            kind = ir.FunctionType(_VOID, [_INT32])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.isb"), [_INT32(15)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic  # type: ignore[untyped-decorator]
def sched_yield(typing_context: Any) -> Any:
    """Let another thread that wants this core have it; 0.3 us where there is none."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if os.name == "posix":
            kind = ir.FunctionType(_INT32, [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic  # type: ignore[untyped-decorator]
def current_cpu(typing_context: Any) -> Any:
    """Number of the CPU that this thread runs on, 20 ns; -1 where that cannot be asked."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if sys.platform != "linux":
            return ir.Constant(ir.IntType(64), -1)
        kind = ir.FunctionType(_INT32, [])
        cpu = builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_getcpu"), [])
        return builder.sext(cpu, ir.IntType(64))

    return types.int64(), codegen


@intrinsic  # type: ignore[untyped-decorator]
def set_affinity(typing_context: Any, mask: Any) -> Any:
    """Have this thread run on the CPUs of a mask, and on no others."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if sys.platform == "linux":
            intp = arguments[0].type
            kind = ir.FunctionType(_INT32, [_INT32, intp, intp])
            setter = cgutils.get_or_insert_function(builder.module, kind, "sched_setaffinity")
            builder.call(setter, [_INT32(0), intp(MASK_BYTES), arguments[0]])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def acquire(typing_context: Any, lock: Any) -> Any:
    """Sleep until somebody releases the lock."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_INT32, [arguments[0].type, _INT32])
        acquire = cgutils.get_or_insert_function(builder.module, kind, "PyThread_acquire_lock")
        builder.call(acquire, [arguments[0], _INT32(1)])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def release(typing_context: Any, lock: Any) -> Any:
    """Wake who sleeps on the lock."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_VOID, [arguments[0].type])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "PyThread_release_lock"), arguments)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def invoke(typing_context: Any, function: Any, environment: Any) -> Any:
    """``function(environment)``, both addresses."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        function, environment = arguments
        kind = ir.FunctionType(_VOID, [environment.type])
        builder.call(builder.inttoptr(function, ir.PointerType(kind)), [environment])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen
