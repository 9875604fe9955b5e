"""The undocumented parts of Numba that the kernels rely on, gathered so that a new release has few places to break.

This module wraps those that can be wrapped; the table lists all. Not listed, since they are documented, are
``numba.njit``, ``numba.config``, ``numba.extending.intrinsic``, ``numba.core.cgutils``, the event listeners of
``numba.core.event``, ``Dispatcher.compile``, ``overloads``, ``signatures`` and ``inspect_asm``.

======================================  ============================  ================================================
undocumented                            used for                      public way
======================================  ============================  ================================================
``registry.cpu_target``                 `target_triple`, `CFunction`  none: llvmlite names the host, not the CPU that
                                                                      ``NUMBA_CPU_NAME`` asks for
``registry.CPUDispatcher``,             `decorator`: kernels without  none: with ``no_cpython_wrapper`` a call from
a dispatcher's ``__class__``            an entry from Python refuse   Python jumps to address 0
                                        calls from there
``caching.FunctionCache``: ``_impl``,   `cache`                       ``cache=True``, whose stamps cover one file only,
``_impl_class``, ``_locator_classes``,                                whose data files have numbers for names, and
``_cache_file``, ``_index_key``, a                                    whose folder is a setting of the process
dispatcher's ``_cache``
``FunctionCache._load_overload``,       `LoadingCache`                none: ``load_overload`` imports all of Numba
its guard, ``runtime.rtsys``                                          first
``compiler.PassManager.passes``,        `KernelCompiler`: without     none but ``pipeline_class``, which is documented
``state.flags``, ``func_id``            passes with nothing to do
``codegen.JITCodeLibrary``,             `_LinkedLowering`: a kernel   none: each is optimised and emitted by itself,
``NativeLowering``, ``no_compile``,     that is only linked into its  and once more in every caller
``insert_user_function``                callers
its ``_optimize_functions``, a          `_KernelLibrary`: no passes   none: each function is optimised twice
codegen's ``_function_pass_manager``    over what is for size
an overload's ``library``, ``fndesc``   `code_address`                ``numba.cfunc``: no arrays, no exceptions
an overload's ``entry_point``           `entry_point`                 none: a dispatcher looks at all types first
``global_compiler_lock``, and that of   a fork waits until no thread  none: a child would be left with a lock that no
``llvmlite.binding.ffi.lib``            compiles                      thread will release
a codegen's ``_engine``, a library's    `perf_map`, only where it is  none
``_object_compiled_hook`` and           asked for
``_object_getbuffer_hook``
``context.call_conv``                   `call_by_address`             ``types.FunctionType``: experimental
``get_call_type``,                      ``cpu.threads.parallel_for``  ``numba.prange``: see
``get_compile_result``,                                               docs/performance-notes/threads.md
``resolve_value_type``,
``call_internal_no_propagate``
``np.arrayobj.populate_array``,         ``llvm.memory``               ``numba.carray``, which compiles two functions at
``context.nrt``                                                       every use
======================================  ============================  ================================================
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import numba
from llvmlite.binding import ffi
from numba.core import typed_passes, untyped_passes
from numba.core.caching import FunctionCache as FunctionCache
from numba.core.caching import NullCache as NullCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, CompileResult, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher as CPUDispatcher
from numba.core.registry import cpu_target as cpu_target
from numba.core.runtime import rtsys

_REQUIRED = (
    (cpu_target, "target_context typing_context"),
    # Check the class: looking up an instance's properties would compute them.
    (type(cpu_target.target_context), "codegen call_conv call_internal_no_propagate get_function add_linking_libs nrt"),
    (cpu_target.target_context.call_conv, "get_function_type call_function return_status_propagate"),
    (CPUDispatcher, "compile get_compile_result"),
    (CompileResult, "entry_point library fndesc"),
    (numba.types.Dispatcher, "get_call_type"),
    (FunctionCache, "_load_overload _guard_against_spurious_io_errors"),
    (rtsys, "initialize"),
    (global_compiler_lock, "_lock"),
    (ffi.lib, "_lock"),
    (ffi.lib._lock, "_lock"),
    (cpu_target.target_context, "insert_user_function"),
    (JITCodeLibrary, "_optimize_final_module _finalize_final_module _finalize_dynamic_globals enable_object_caching"),
    (JITCodeLibrary, "_optimize_functions"),
    (cpu_target.target_context.codegen(), "_data_layout _function_pass_manager"),
    (typed_passes, "AnnotateTypes DumpParforDiagnostics InlineOverloads NativeLowering NopythonRewrites"),
    (untyped_passes, "FindLiterallyCalls InlineClosureLikes LiteralUnroll MakeFunctionToJitFunction WithLifting"),
)
"""Objects and their attributes without which the kernels cannot work. What the cache can do
without is not listed: if Numba organises its files differently, `cache.new_cache` warns, and each process compiles
again."""


def check(required: tuple[tuple[Any, str], ...] = _REQUIRED) -> None:
    """Check that Numba has the attributes that the kernels need; runs at import, and when a part is imported later.

    Raises
    ------
    ImportError
        If this release of Numba lacks any; the message says which, and which releases are known to have them.
    """
    missing = [
        f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
        for owner, names in required
        for name in names.split()
        if not hasattr(owner, name)
    ]
    triple: Any = () if missing else cpu_target.target_context.codegen().magic_tuple()
    if missing or len(triple) != 3:
        raise ImportError(
            f"fastnet relies on undocumented parts of Numba, of which Numba {numba.__version__} lacks "
            f"{', '.join(missing) or 'a magic_tuple of three'}: install a newer fastnet, or the Numba that this one "
            'was tested with: pip install "numba>=0.67,<0.69"'
        )


check()


FORK_WAITS_S = 300
"""Most seconds that a fork waits for another thread's compilation, which takes a minute on an overloaded machine."""

_LOCKS = (global_compiler_lock._lock, ffi.lib._lock._lock)
"""The locks that a thread holds while it compiles, in the order in which it acquires them."""


def _before_fork() -> None:
    """Wait until no other thread compiles: the child would wait for its locks forever, or see a half-done state."""
    for lock in _LOCKS:
        lock.acquire(timeout=FORK_WAITS_S)


def _after_fork() -> None:
    for lock in _LOCKS:
        with contextlib.suppress(RuntimeError):  # acquiring it has timed out
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def target_triple() -> tuple[str, str, str]:
    """Return the target's triple, CPU and features: the host's, or those that ``NUMBA_CPU_NAME`` and its like set."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return str(triple), str(cpu), str(features)


class LoadingCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache without imports that only compilation needs, such as scipy.linalg, which take 0.2 s.

    Compiled code needs only Numba's runtime, for reference counts. Numba imports the rest before it compiles anything.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load a compiled function; return None if there is none."""
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


addressed: set[Any] = set()
"""Python functions of kernels that are called by address; other internal kernels are linked into their callers."""


class _KernelLibrary(JITCodeLibrary):  # type: ignore[misc]
    """LLVM code of a kernel. Functions compiled for size are optimised with their module only, not first alone."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout
        for function in ll_module.functions:
            if not function.is_declaration and not any(b"optsize" in words for words in function.attributes):
                passes, builder = self._codegen._function_pass_manager()
                passes.run(function, builder)


class _LinkedLibrary(_KernelLibrary):
    """LLVM code of a kernel that is linked into its callers: they optimise it and emit its machine code."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(typed_passes.NativeLowering):  # type: ignore[misc]
    """Numba's lowering into a `_KernelLibrary`."""

    _name = "kernel_lowering"

    def run_pass(self, state: Any) -> bool:
        """Generate LLVM code and compile it."""
        state.library = _KernelLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return bool(super().run_pass(state))


@register_pass(mutates_CFG=True, analysis_only=False)
class _LinkedLowering(typed_passes.NativeLowering):  # type: ignore[misc]
    """Numba's lowering, for a kernel that is linked into its callers."""

    _name = "linked_lowering"

    def run_pass(self, state: Any) -> bool:
        """Generate LLVM code, and tell the callers where it is."""
        state.library = _LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        key = object()  # stands for the function that Python would call
        state.cr = state.cr._replace(cfunc=key)
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        return True


_NOTHING_TO_DO = {
    *(typed_passes.AnnotateTypes, typed_passes.DumpParforDiagnostics),
    *(typed_passes.InlineOverloads, typed_passes.NopythonRewrites),
    *(untyped_passes.FindLiterallyCalls, untyped_passes.InlineClosureLikes, untyped_passes.LiteralUnroll),
    *(untyped_passes.MakeFunctionToJitFunction, untyped_passes.WithLifting),
}
"""Passes for constructs that no kernel contains: inner functions, array expressions, ``with``. They take a twentieth of
the compile time."""


class KernelCompiler(CompilerBase):  # type: ignore[misc]
    """Numba's compiler without unnecessary passes; `_LinkedLowering` lowers kernels that are linked into callers."""

    def define_pipelines(self) -> list[Any]:
        """Return the pass managers; Numba's compiler calls this."""
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [found for found in manager.passes if found[0] not in _NOTHING_TO_DO]
        linked = self.state.flags.no_cpython_wrapper and self.state.func_id.func not in addressed
        own = {typed_passes.NativeLowering: _LinkedLowering if linked else _KernelLowering}
        manager.passes = [(own.get(at, at), name) for at, name in manager.passes]
        return [manager]


def populate_array(*arguments: Any) -> None:
    """Fill in an array's struct, as Numba's function of this name; for code generators."""
    from numba.np import arrayobj  # takes 20 ms, and only compilation needs it

    check(((arrayobj, "populate_array"),))
    arrayobj.populate_array(*arguments)


def code_address(dispatcher: Any, signature: tuple[Any, ...]) -> int:
    """Compile a dispatcher for a signature, or load it from the cache, and return the address of its machine code.

    The address is valid until the process ends.
    """
    dispatcher.compile(signature)
    result = dispatcher.overloads[signature]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def entry_point(dispatcher: Any, signature: tuple[Any, ...]) -> Any:
    """Compile a dispatcher for a signature, or load it from the cache, and return the function that Python can call.

    Numba's dispatcher calls it after finding the types of all arguments, which takes longer than a small product.
    """
    dispatcher.compile(signature)
    return dispatcher.overloads[signature].entry_point


def jit_engine() -> Any:
    """Return the LLVM execution engine that holds all kernels."""
    return cpu_target.target_context.codegen()._engine


def wrap_object_cache(note: Callable[[bytes], None]) -> None:
    """Call ``note`` with every object file that is linked, whether just compiled or loaded from the cache."""
    library = cpu_target.target_context.codegen()._library_class

    def compiled(module: Any, code: bytes) -> None:
        note(code)
        library._object_compiled_hook(module, code)

    def loaded(module: Any) -> Any:
        code = library._object_getbuffer_hook(module)
        if code:
            note(code)
        return code

    jit_engine().set_object_cache(compiled, loaded)
