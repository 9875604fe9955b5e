"""Calls of kernels by the address of their machine code, without linking them into the caller.

Numba links every callee into its caller, then optimises and emits the whole again, at every level of calls: the
training loop took 16 s to compile. A kernel that is called by address is compiled once, when it is first needed.

`by_address` registers a kernel with the types of its arguments. `kernel_address`, in Python, compiles it and returns
its address; `kernel_entry` returns a function for calls from Python. `call`, in compiled code, calls an address; it
takes a function of the same signature as a prototype, which need not be the one at the address.
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
    """Register a kernel for calls by address (if it returns nothing), or so that `kernel_address` can compile it early.

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
    """Compile a registered kernel for a dtype, or load it from the cache; return its address for `call`.

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
    """Return a function that calls a registered kernel from Python without inspecting the types of its arguments.

    These must be the types with which the kernel is registered. Of an array, Numba checks only the size of an element:
    the caller guarantees the number of dimensions. Whether an array is read-only or aligned does not matter.
    """
    dispatcher: Any = function
    found: Callable[..., Any] = entry_point(dispatcher, _signatures[dispatcher.py_func](numba.from_dtype(dtype)))
    return found


def is_cached(function: Callable[..., Any], dtype: Any) -> bool:
    """Return whether the kernel is loaded or in the cache, so that `kernel_address` need not compile it."""
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
    """Return the signature and the code generator of a call of a registered function by its address."""
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

    Only compiled code can call this. Arguments are converted to the types with which ``function`` was registered;
    exceptions propagate. ``memory`` is an address from `llvm.memory.allocate`, or 0; it is released if an exception
    propagates.
    """
    return _calling(function, dtype, arguments, True)


@_intrinsic  # type: ignore[untyped-decorator]
def succeeds(typing_context: Any, function: Any, address: Any, dtype: Any, arguments: Any) -> Any:
    """As `call`, but return False if the function raised: for callers that have to release something first."""
    return _calling(function, dtype, arguments, False)


class CFunction:
    """A C function ``int64 f(const void *x, int64 rows, void *out)`` around a kernel and its first arguments.

    Parameters
    ----------
    function : callable
        A kernel that `by_address` has registered, ``(dtype, *constants, x, rows, out, refused)``. If it rejects its
        input, it sets the int64 at the address ``refused`` to a non-zero number.
    dtype : dtype
        float32 or float64.
    constants : tuple of int
    owners : object
        Kept alive, because the constants point to their memory.

    Attributes
    ----------
    address : int
        Valid as long as this object lives. The function returns ``rows``, or 0 if the kernel rejects or raises.
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
