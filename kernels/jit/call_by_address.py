"""Calls of kernels by the address of their machine code, without linking them into the caller.

Numba links every callee into its caller, optimizes the whole once more and emits it once more, at every level of
calls: the training loop took 16 s to compile. By address each kernel is compiled once, when it is first needed.

`by_address` registers a kernel with the types of its arguments; `kernel_address` compiles it and returns its address,
in Python, and `kernel_entry` what Python calls; `call` calls an address, in compiled code. `call` needs a function of
the same signature as a prototype, which need not be the one at the address.
"""

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

from .cache import is_compiled
from .decorator import F
from .numba_internals import addressed, code_address, cpu_target, entry_point

_signatures: dict[Any, Callable[[Any], tuple[Any, ...]]] = {}


def by_address(signature: Callable[[Any], tuple[Any, ...]]) -> Callable[[F], F]:
    """Register a kernel: for calls by address, if it returns nothing; or so that `kernel_address` compiles it early.

    Parameters
    ----------
    signature : callable
        Takes Numba's float32 or float64; returns the Numba types of the kernel's arguments as a tuple.

    Returns
    -------
    callable
        A decorator that returns its function unchanged.
    """

    def register(function: F) -> F:
        python_function: Any = getattr(function, "py_func", function)
        _signatures[python_function] = signature
        addressed.add(python_function)
        return function

    return register


@functools.cache
def kernel_address(function: Callable[..., Any], dtype: Any) -> int:
    """Compile a registered kernel for a dtype, or load it from the cache, and return its address for `call`.

    Parameters
    ----------
    function : callable
        A kernel that `by_address` has registered.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    int
        Valid until the process ends.
    """
    dispatcher: Any = function
    return code_address(dispatcher, _signatures[dispatcher.py_func](numba.from_dtype(dtype)))


@functools.cache
def kernel_entry(function: Callable[..., Any], dtype: Any) -> Callable[..., Any]:
    """Return what calls a registered kernel from Python without a look at the types of its arguments.

    They must be those that the kernel is registered with. Of arrays, Numba checks the size of an element only: the
    caller sees to the number of dimensions. Whether an array is read-only or aligned does not matter.
    """
    dispatcher: Any = function
    found: Callable[..., Any] = entry_point(dispatcher, _signatures[dispatcher.py_func](numba.from_dtype(dtype)))
    return found


def is_cached(function: Callable[..., Any], dtype: Any) -> bool:
    """Return whether `kernel_address` has nothing to compile: the kernel is loaded, or in the cache."""
    dispatcher: Any = function
    return is_compiled(dispatcher, _signatures[dispatcher.py_func](numba.from_dtype(dtype)))


class FunctionPointer:
    """The callee of an LLVM call, given by its address.

    llvmlite takes the type of a call from the callee, and an opaque pointer has none.
    """

    def __init__(self, builder: ir.IRBuilder, address: ir.Value, function_type: ir.FunctionType) -> None:
        pointer = builder.inttoptr(address, ir.PointerType())
        self.type = pointer.type
        self.function_type = function_type
        self.get_reference = pointer.get_reference


def _calling(function: Any, dtype: Any, arguments: Any, propagates: bool) -> Any:
    """Return a signature, and a generator of the call of a registered function at an address."""
    expected = _signatures[function.dispatcher.py_func](dtype.dtype)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        given = cgutils.unpack_tuple(builder, values[3])
        given = [
            context.cast(builder, value, old, new)
            for value, old, new in zip(given, arguments.types, expected, strict=True)
        ]
        callee = FunctionPointer(builder, values[1], context.call_conv.get_function_type(types.none, expected))
        status, _ = context.call_conv.call_function(builder, callee, types.none, expected, given)
        if not propagates:
            return status.is_ok
        with cgutils.if_unlikely(builder, status.is_error):
            context.nrt.free(builder, builder.inttoptr(values[4], ir.PointerType()))
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    returned, *memory = (types.void, types.intp) if propagates else (types.boolean,)
    return returned(function, types.intp, dtype, arguments, *memory), codegen


@_intrinsic  # type: ignore[untyped-decorator]
def call(typing_context: Any, function: Any, address: Any, dtype: Any, arguments: Any, memory: Any = 0) -> Any:
    """Call ``function(*arguments)`` at the address that `kernel_address` returned for ``dtype``.

    For compiled code. Arguments are converted to the types that ``function`` was registered with; its exceptions
    propagate. ``memory``: what `llvm.memory.allocate` gave the caller, or 0; it is released where an exception leaves
    the caller.
    """
    return _calling(function, dtype, arguments, True)


@_intrinsic  # type: ignore[untyped-decorator]
def succeeds(typing_context: Any, function: Any, address: Any, dtype: Any, arguments: Any) -> Any:
    """As `call`, but return False where the function raised: for callers that have something to give back first."""
    return _calling(function, dtype, arguments, False)


class CFunction:
    """A C function ``int64 f(const void *x, int64 rows, void *out)`` around a kernel and its first arguments.

    Parameters
    ----------
    function : callable
        A kernel that `by_address` has registered, ``(dtype, *constants, x, rows, out, refused)``. It sets the int64 at
        the address ``refused`` to another number than 0 where it refuses its input.
    dtype : dtype
        float32 or float64.
    constants : tuple of int
    owners : object
        What keeps the memory alive that the constants point to.

    Attributes
    ----------
    address : int
        Valid as long as this object lives. The function returns ``rows``, or 0 where the kernel refuses or raises.
    """

    def __init__(self, function: Any, dtype: Any, constants: tuple[int, ...], owners: Any) -> None:
        context, intp, pointer = cpu_target.target_context, ir.IntType(64), ir.PointerType()
        expected = _signatures[function.py_func](numba.from_dtype(dtype))
        module = ir.Module()
        defined = ir.Function(module, ir.FunctionType(intp, [pointer, intp, pointer]), "f")
        builder = ir.IRBuilder(defined.append_basic_block())
        refused = builder.alloca(intp)
        builder.store(intp(0), refused)
        x, rows, out = defined.args
        addresses = [builder.ptrtoint(p, intp) for p in (x, out, refused)]
        given = [context.get_dummy_value(), *map(intp, constants), addresses[0], rows, *addresses[1:]]
        code = intp(kernel_address(function, dtype))
        callee = FunctionPointer(builder, code, context.call_conv.get_function_type(types.none, expected))
        status, _ = context.call_conv.call_function(builder, callee, types.none, expected, given)
        failed = builder.or_(status.is_error, builder.icmp_signed("!=", builder.load(refused, typ=intp), intp(0)))
        builder.ret(builder.select(failed, intp(0), rows))
        machine = llvm.Target.from_default_triple().create_target_machine()
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
        self._engine.finalize_object()
        self._owners = owners
        self.address = int(self._engine.get_function_address("f"))
