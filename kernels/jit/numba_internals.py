"""The undocumented parts of Numba that the kernels rely on, gathered so that a new release has few places to break.

Functions here wrap what can be wrapped; the table lists the rest as well. Documented and therefore not listed are
``numba.njit``, ``numba.config``, ``numba.extending.intrinsic``, ``numba.core.cgutils``, the event listeners of
``numba.core.event``, ``Dispatcher.compile``, ``overloads``, ``signatures`` and ``inspect_asm``.

======================================  ============================  ================================================
undocumented                            used for                      public way
======================================  ============================  ================================================
``registry.cpu_target``                 `target_triple`, `CFunction`  none: llvmlite names the host, not the CPU that
                                                                      ``NUMBA_CPU_NAME`` asks for
``registry.CPUDispatcher``,             `decorator`: a kernel without  none: with ``no_cpython_wrapper`` a call from
a dispatcher's ``__class__``            an entry from Python refuses  Python jumps to address 0
                                        calls from Python
``caching.FunctionCache``: ``_impl``,   `cache`                       ``cache=True``, whose stamps cover one file only
``_cache_file``, ``_index_key``, a                                    and whose data files have numbers for names
dispatcher's ``_cache``
an overload's ``library``, ``fndesc``   `code_address`                ``numba.cfunc``: no arrays, no exceptions
``context.call_conv``                   `call_by_address`             ``types.FunctionType``: experimental
``get_call_type``,                      ``cpu.threads.parallel_for``  ``numba.prange``: see
``get_compile_result``,                                               docs/performance-notes/threads.md
``call_internal_no_propagate``
======================================  ============================  ================================================
"""

from typing import Any

from numba.core.caching import FunctionCache as FunctionCache
from numba.core.registry import CPUDispatcher as CPUDispatcher
from numba.core.registry import cpu_target as cpu_target


def target_triple() -> tuple[str, str, str]:
    """Return triple, CPU and features compiled for: the host's, or what ``NUMBA_CPU_NAME`` and its like ask for."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return str(triple), str(cpu), str(features)


def code_address(dispatcher: Any, signature: tuple[Any, ...]) -> int:
    """Compile a dispatcher for a signature, or load it from the cache, and return the address of its machine code.

    The address is valid until the process ends.
    """
    dispatcher.compile(signature)
    result = dispatcher.overloads[signature]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def set_cache(dispatcher: Any, cache: FunctionCache) -> None:
    """Have a dispatcher load and save its compiled functions through a cache."""
    dispatcher._cache = cache
