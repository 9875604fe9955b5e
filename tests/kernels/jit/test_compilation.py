"""Compilation: when kernels are compiled, what is said meanwhile, for which CPU, and what can be called from Python."""

import shutil
from pathlib import Path
from typing import Any

import numba
import pytest
from installations import RELU_OF_MINUS_ONE, environment, install, run

from fastnet.kernels.jit import numba_internals
from fastnet.kernels.jit.decorator import jit

pytestmark = pytest.mark.compiled


def test_importing_compiles_nothing(tmp_path: Path) -> None:
    code = (
        "from numba.core import event\n"
        "with event.install_recorder('numba:compile') as seen:\n"
        "    import fastnet, fastnet.data, fastnet.cli, fastnet.kernels\n"
        "assert not seen.buffer, seen.buffer\n"
        "with event.install_recorder('numba:compile') as seen:\n"
        "    fastnet.kernels.relu(1.0, variant='loops')\n"
        "assert seen.buffer, 'the recorder must be able to see'\n"
    )
    run(code, environment(install(tmp_path / "site"), tmp_path / "cache"))


def test_loading_imports_nothing_that_only_compiling_needs(tmp_path: Path) -> None:
    env = environment(install(tmp_path / "site"), tmp_path / "cache")
    code = RELU_OF_MINUS_ONE + "print('numba.np.arraymath' in sys.modules)\n"
    assert run(code, env).stdout == "0.0\nTrue\n"
    assert run(code, env).stdout == "0.0\nFalse\n"


@pytest.mark.exhaustive
def test_long_compilation_is_announced_once_on_standard_error(tmp_path: Path) -> None:
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    impatient = "from fastnet.kernels.jit import announcer\nannouncer.ANNOUNCE_AFTER_S = 0.05\n"
    patient = "from fastnet.kernels.jit import announcer\nannouncer.ANNOUNCE_AFTER_S = 1e9\n"
    assert run(patient + RELU_OF_MINUS_ONE, env).stderr == ""
    assert run(impatient + RELU_OF_MINUS_ONE, env).stderr == "", "nothing is compiled: nothing is said"
    shutil.rmtree(cache)
    result = run(impatient + RELU_OF_MINUS_ONE, env)
    assert result.stderr.count("fastnet: compiling kernels for") == 1
    assert "a first training took 5 s on two cores of a Zen 4" in result.stderr
    tanh = "from fastnet.kernels import tanh\ntanh([0.5], variant='loops')\n"
    assert run(impatient + tanh, env).stderr == "", "a later run does not announce each new kernel"
    again = run(impatient + "announcer.LATER_RUNS_S = 0.05\n" + tanh.replace("tanh", "gelu"), env).stderr
    assert "compiling kernels" in again
    assert "a first training" not in again
    assert result.stdout == "0.0\n"


@pytest.mark.exhaustive
def test_kernels_are_compiled_even_if_no_thread_can_announce_it(tmp_path: Path) -> None:
    code = (
        'import threading\ndef refuse(thread):\n    raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = refuse\n"
    )
    result = run(code + RELU_OF_MINUS_ONE, environment(install(tmp_path / "site"), tmp_path / "cache"))
    assert (result.stdout, result.stderr) == ("0.0\n", "")


@pytest.mark.exhaustive
def test_features_and_width_follow_numbas_settings(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    code = "from fastnet.kernels.jit import target; print(target.target_cpu(), target.vector_bytes())"
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"}
    assert run(code, environment(site, tmp_path) | narrow).stdout == "haswell 32\n"
    assert run(code, environment(site, tmp_path) | {"NUMBA_ENABLE_AVX": "0"}).stdout.endswith(" 16\n")
    narrow = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse2"}
    assert run(code, environment(site, tmp_path) | narrow).stdout == "nehalem 16\n"


def test_missing_parts_of_numba_are_named() -> None:
    with pytest.raises(ImportError, match=r"of which Numba \S+ lacks CPUDispatcher\.gone: install a newer fastnet"):
        numba_internals.check(((numba_internals.CPUDispatcher, "compile gone"),))
    numba_internals.check()


def test_internal_kernels_refuse_calls_from_python() -> None:
    """Without the refusal the process would end: there is no entry from Python to jump to."""

    @jit(internal=True)
    def inner(x: Any) -> Any:
        return x + 1

    @jit
    def outer(x: Any) -> Any:
        return inner(x)

    assert outer(1) == 2
    with pytest.raises(TypeError, match=r"inner has no entry from Python"):
        inner(1)


def test_what_is_linked_into_its_callers_has_neither_machine_code_nor_cache_of_its_own() -> None:
    """Both would cost time at a first run, and nothing would use them."""

    @jit(internal=True)
    def inner(x: Any) -> Any:
        return x + 1

    dispatcher: Any = inner
    dispatcher.compile((numba.int64,))
    assert not numba_internals.cpu_target.target_context.codegen()._engine.is_symbol_defined(
        dispatcher.overloads[(numba.int64,)].fndesc.llvm_func_name
    )
    assert isinstance(dispatcher._cache, numba_internals.NullCache)
