"""call_by_address."""

import functools
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

from .decorator import F

# ------------------------------------------------------------------------- calls without linking
# Numba links whoever is called into the caller, optimizes all of it once more and emits it once more, at every level:
# the training loop compiled for 16 s. By address each kernel is compiled once, and only where it is needed.

_signatures: dict[Any, Callable[[Any], tuple[Any, ...]]] = {}


def by_address(signature: Callable[[Any], tuple[Any, ...]]) -> Callable[[F], F]:
    """Let a kernel that returns nothing be called by address.

    Parameters
    ----------
    signature : callable
        From Numba's float32 or float64 to the types of the arguments.
    """

    def note(function: F) -> F:
        _signatures[getattr(function, "py_func", function)] = signature
        return function

    return note


@functools.cache
def address(function: Callable[..., Any], dtype: Any) -> int:
    """Compile a kernel for a dtype, or take it from the cache; where its machine code is, for `call`.

    Good for as long as the process lives.
    """
    dispatcher: Any = function
    expected = _signatures[dispatcher.py_func](numba.from_dtype(dtype))
    dispatcher.compile(expected)
    result = dispatcher.overloads[expected]
    place: int = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return place


@_intrinsic  # type: ignore[untyped-decorator]
def call(typing_context: Any, function: Any, place: Any, dtype: Any, arguments: Any) -> Any:
    """``function(*arguments)`` by the address that `address` gave for that dtype."""
    expected = _signatures[function.dispatcher.py_func](dtype.dtype)

    def codegen(context: Any, builder: ir.IRBuilder, own: Any, values: Any) -> Any:
        given = cgutils.unpack_tuple(builder, values[3])
        given = [
            context.cast(builder, value, old, new)
            for value, old, new in zip(given, arguments.types, expected, strict=True)
        ]
        kind = context.call_conv.get_function_type(types.none, expected)
        code = builder.inttoptr(values[1], ir.PointerType(kind))
        status, _ = context.call_conv.call_function(builder, code, types.none, expected, given)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(function, types.intp, dtype, arguments), codegen
