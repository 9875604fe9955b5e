"""The compile cache: it follows the sources and survives many processes, full disks and truncated files.

Each test runs fresh interpreters on a private copy of the package, laid out as in a wheel, with a cache folder of its
own.
"""

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

import fastnet
from fastnet.kernels.jit import cache as kernel_cache
from fastnet.kernels.jit import decorator, numba_internals
from fastnet.kernels.jit.decorator import jit

PACKAGE = Path(fastnet.__file__).parent
KERNELS = Path(decorator.__file__).parents[1]

pytestmark = pytest.mark.compiled

# relu and its caller dense_forward are defined in different files.
RELU_OF_MINUS_ONE = """
import sys, numpy as np
from fastnet.kernels import dense_forward, relu
A, Z = dense_forward(-np.ones((1, 1)), np.ones((1, 1)), np.zeros(1), relu, variant="loops")
print(A[0, 0])
"""


def install(site: Path) -> Path:
    """Copy the package, as a wheel would be unpacked."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, site / "fastnet", ignore=skip, dirs_exist_ok=True)
    shutil.copytree(KERNELS, site / "fastnet" / "kernels", ignore=skip, dirs_exist_ok=True)
    return site


def environment(site: Path, cache: Path | str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTHON", "XDG_"))}
    return {**kept, "PYTHONPATH": str(site), "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}


def run(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd="/", timeout=300)
    assert result.returncode == 0, result.stderr
    return result


def leak(site: Path, divisor: int) -> None:
    """Edit the file that defines relu, in a sub-package: negative inputs are divided instead of set to 0."""
    correct = "return zero if z < zero else z"
    (path,) = [path for path in (site / "fastnet" / "kernels").rglob("*.py") if correct in path.read_text()]
    assert path.parent.name != "kernels"
    path.write_text(path.read_text().replace(correct, f"return z / {divisor} if z < zero else z"))


def compiled_files(cache: Path) -> set[Path]:
    return set(cache.rglob("*.nbc"))


def test_edit_in_another_file_invalidates_the_cache(tmp_path: Path) -> None:
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    assert run(RELU_OF_MINUS_ONE, env).stdout == "0.0\n"
    first = compiled_files(cache)
    assert first, "nothing was cached where NUMBA_CACHE_DIR says"
    assert run(RELU_OF_MINUS_ONE, env).stdout == "0.0\n"
    assert compiled_files(cache) == first, "the second run must find what the first compiled"
    leak(site, 4)
    assert run(RELU_OF_MINUS_ONE, env).stdout == "-0.25\n"


def _edit(folder: Path) -> None:
    with (folder / "gemm.py").open("a") as file:
        file.write("# one more line\n")


def _add(folder: Path) -> None:
    (folder / "added.py").write_text("x = 1\n")


def _remove(folder: Path) -> None:
    (folder / "__init__.py").unlink()


def _rename(folder: Path) -> None:
    (folder / "__init__.py").rename(folder / "renamed.py")


@pytest.mark.exhaustive
@pytest.mark.parametrize("change", [_edit, _add, _remove, _rename])
def test_change_in_a_sub_package_starts_a_new_cache(tmp_path: Path, change: Callable[[Path], None]) -> None:
    site = install(tmp_path / "site")
    env = environment(site, tmp_path / "cache")
    code = "from fastnet.kernels.jit.cache import cache_folder; print(cache_folder.name)"
    before = run(code, env).stdout
    assert run(code, env).stdout == before
    change(site / "fastnet" / "kernels" / "cpu" / "gemm")
    assert run(code, env).stdout != before


@pytest.mark.exhaustive
def test_upgrade_with_old_timestamps_invalidates_the_cache(tmp_path: Path) -> None:
    """Wheels may carry any timestamps; here the new version's files look as old as the old one's."""
    site, upgrade, cache = install(tmp_path / "site"), install(tmp_path / "upgrade"), tmp_path / "cache"
    env = environment(site, cache)
    assert run(RELU_OF_MINUS_ONE, env).stdout == "0.0\n"
    leak(upgrade, 2)
    for new in upgrade.rglob("*.py"):
        old = site / new.relative_to(upgrade)
        stamp = old.stat()
        old.write_bytes(new.read_bytes())
        os.utime(old, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(RELU_OF_MINUS_ONE, env).stdout == "-0.5\n"


def test_cache_of_user_functions_is_left_alone(tmp_path: Path) -> None:
    site, cache, users = install(tmp_path / "site"), tmp_path / "cache", tmp_path / "users"
    users.mkdir()
    (users / "mine.py").write_text("import numba\n@numba.njit(cache=True)\ndef f(x):\n    return x + 1\n")
    env = environment(site, cache)
    env["PYTHONPATH"] += os.pathsep + str(users)
    run(
        "import numba\nbefore = numba.config.CACHE_DIR\nimport fastnet, mine\nmine.f(1)\n"
        "assert numba.config.CACHE_DIR == before",
        env,
    )
    (mine,) = [path for path in cache.rglob("*.nbi") if path.name.startswith("mine.")]
    assert not any("fastnet-" in part for part in mine.relative_to(cache).parts)


def test_setting_of_the_users_cache_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of the user's that another thread decorates at that moment reads it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    seen = []

    def kind(function: Any) -> Any:
        seen.append(numba.config.CACHE_DIR)
        return kernel_cache.KernelCache(function)

    found = kernel_cache.new_cache(test_setting_of_the_users_cache_is_never_changed, kind)
    assert seen == [str(tmp_path)]
    assert kernel_cache.cache_folder in Path(found.cache_path).parents


@pytest.mark.skipif(os.name != "posix", reason="owners and modes of POSIX")
def test_cache_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    """Its files are pickles: whoever can put one there runs code as this user."""
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    code = "from fastnet.kernels.jit.cache import cache_folder; print(cache_folder)"
    folder = Path(run(code, env).stdout.strip())
    assert folder.stat().st_mode & 0o777 == 0o700
    for mode in (0o720, 0o702, 0o777):
        folder.chmod(mode)
        result = run(code, env)
        assert result.stdout == "None\n"
        assert f"can be written by others (its mode is {mode:o})" in result.stderr
    folder.chmod(0o755)
    cache.chmod(0o777)
    assert "can be replaced by others" in run(code, env).stderr
    cache.chmod(0o1777)
    assert run(code, env).stdout == f"{folder}\n"
    if os.getuid() == 0:
        os.chown(folder, 12345, -1)
        assert "belongs to user 12345, not to user 0" in run(code, env).stderr


@pytest.mark.skipif(os.name != "posix", reason="owners and modes of POSIX")
def test_cache_folder_that_is_deleted_meanwhile_is_made_again_for_this_user_only(tmp_path: Path) -> None:
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    deletes = "import os, shutil; from fastnet.kernels.jit.cache import cache_folder; os.umask(0); "
    assert run(f"{deletes}shutil.rmtree(cache_folder){RELU_OF_MINUS_ONE}", env).stdout == "0.0\n"
    (folder,) = cache.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert compiled_files(folder)


def test_missing_parts_of_numba_are_named() -> None:
    with pytest.raises(ImportError, match=r"of which Numba \S+ lacks CPUDispatcher\.gone: install a newer fastnet"):
        numba_internals.check(((numba_internals.CPUDispatcher, "compile gone"),))
    numba_internals.check()


NOWHERE = "/dev/null/nowhere" if os.name == "posix" else "NUL\\nowhere"  # not writable, for root neither


def test_unwritable_cache_warns_once(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    result = run(RELU_OF_MINUS_ONE, environment(site, NOWHERE))
    assert result.stdout == "0.0\n"
    assert result.stderr.count("RuntimeWarning") == 1
    assert "cannot use its compile cache" in result.stderr
    assert "NUMBA_CACHE_DIR" in result.stderr
    assert not list(site.rglob("*.nbc"))


@pytest.mark.skipif(os.name != "posix", reason="file permissions are another matter there")
def test_read_only_install_caches_in_the_user_folder(tmp_path: Path) -> None:
    site, home = install(tmp_path / "site"), tmp_path / "home"
    env = environment(site, "")
    del env["NUMBA_CACHE_DIR"]
    env |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "caches")}
    for path in (*site.rglob("*"), site):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        result = run(RELU_OF_MINUS_ONE, env)
    finally:
        for path in (site, *site.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert result.stdout == "0.0\n"
    assert "Warning" not in result.stderr
    assert compiled_files(home)
    assert not list(site.rglob("*.nbc"))


TWO_LAYOUTS = """
import sys, numpy as np
from fastnet.kernels import matmul
dtype = sys.argv[1] if len(sys.argv) > 1 else DTYPE
for layout in "nt":
    A = np.arange(6, dtype=dtype).reshape(2, 3)
    B = np.arange(12, dtype=dtype).reshape(3, 4)
    C = matmul(A, B.T.copy().T if layout == "t" else B, variant="loops")
    assert C.dtype == dtype and (C == A.astype(int) @ B.astype(int)).all(), C
print("right")
"""


@pytest.mark.exhaustive
def test_concurrent_first_runs_are_safe(tmp_path: Path) -> None:
    """Four processes compile two signatures each at the same time; then every signature runs from the cache."""
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    codes = [TWO_LAYOUTS.replace("DTYPE", repr(dtype)) for dtype in ("float32", "float64") * 2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for code in codes
    ]
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert (process.returncode, output) == (0, "right\n"), errors
    for code in codes[:2]:
        assert run(code, env).stdout == "right\n"


@pytest.mark.exhaustive
def test_processes_never_share_a_data_file(tmp_path: Path) -> None:
    """Numba numbers them from 1 in each process; two first runs would write one file for two signatures."""
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    names = []
    for dtype in ("float32", "float64"):
        shutil.rmtree(cache, ignore_errors=True)  # as if neither had seen the other
        run(TWO_LAYOUTS.replace("DTYPE", repr(dtype)), env)
        names.append({path.name for path in compiled_files(cache)})
    assert names[0]
    assert not names[0] & names[1]


WHOLE_TABLE = """
from fastnet.kernels.jit.announcer import compile_seconds
from fastnet.kernels.registry import TABLE
from fastnet.kernels.specs.operations import OP_SPECS
from fastnet.kernels.verify import check
for variant in TABLE:
    check(variant, OP_SPECS[variant.operation].bench_cases[0], "float32")
print(compile_seconds() > 0)
"""


@pytest.mark.exhaustive
def test_second_process_compiles_nothing_of_the_whole_table(tmp_path: Path) -> None:
    env = environment(install(tmp_path / "site"), tmp_path / "cache")
    assert run(WHOLE_TABLE, env).stdout == "True\n"
    assert run(WHOLE_TABLE, env).stdout == "False\n"


FORK = """
import os, sys
from fastnet.kernels import matmul
import numpy as np
children = []
for dtype in ("float32", "float64"):
    child = os.fork()
    if child == 0:
        matmul(np.ones((2, 2), dtype), np.ones((2, 2), dtype), variant="loops")
        os._exit(0)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_children_never_share_a_data_file(tmp_path: Path) -> None:
    """They share whatever was drawn at import, and Numba's numbers from 1."""
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    one_by_one = FORK.replace("children.append(child)", "os.waitpid(child, 0); shutil.rmtree(CACHE)").replace(
        "import os, sys", f"import os, shutil\nCACHE = {str(cache)!r}\nkept = []"
    )
    one_by_one = one_by_one.replace("os.waitpid(child, 0);", "os.waitpid(child, 0); kept.append(names());").replace(
        "children = []", "import pathlib\ndef names():\n    return {p.name for p in pathlib.Path(CACHE).rglob('*.nbc')}"
    )
    one_by_one = (
        one_by_one[: one_by_one.index("assert all")] + "assert kept[0] and kept[1] and not kept[0] & kept[1], kept\n"
    )
    run(one_by_one, env)
    shutil.rmtree(cache, ignore_errors=True)
    run(FORK, env)
    for dtype in ("float32", "float64"):
        assert run(TWO_LAYOUTS.replace("DTYPE", repr(dtype)), env).stdout == "right\n"


@pytest.mark.exhaustive
def test_kernels_run_without_a_known_numba_cache(tmp_path: Path) -> None:
    """As a later Numba might: an attribute that the cache relies on is missing."""
    code = (
        "import numba.core.caching as caching\n"
        "(base,) = [c for c in caching.CompileResultCacheImpl.__mro__ if 'filename_base' in vars(c)]\n"
        "del base.filename_base\n"
    )
    result = run(code + RELU_OF_MINUS_ONE, environment(install(tmp_path / "site"), tmp_path / "cache"))
    assert result.stdout == "0.0\n"
    assert result.stderr.count("RuntimeWarning") == 1
    assert "does not cache its compiled kernels" in result.stderr


@pytest.mark.exhaustive
def test_cache_beside_the_sources_is_not_used(tmp_path: Path) -> None:
    """Where Numba cannot use its folder, it would fall back to __pycache__, which all versions share."""
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    run("from fastnet.kernels import relu; relu(1.0, variant='loops')", env)
    folders = list(cache.glob("fastnet-*/*"))
    assert folders
    for folder in folders:
        shutil.rmtree(folder)
        folder.touch()
    result = run(RELU_OF_MINUS_ONE, env)
    assert result.stdout == "0.0\n"
    assert not list(site.rglob("*.nbc"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("pattern", ["*.nbc", "*.nbi"])
def test_truncated_cache_files_are_compiled_again(tmp_path: Path, pattern: str) -> None:
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    run(RELU_OF_MINUS_ONE, env)
    for path in cache.rglob(pattern):
        path.write_bytes(path.read_bytes()[:20])
    assert run(RELU_OF_MINUS_ONE, env).stdout == "0.0\n"
    repaired = compiled_files(cache)
    assert run(RELU_OF_MINUS_ONE, env).stdout == "0.0\n"
    assert compiled_files(cache) == repaired, "the next run must find a complete cache again"


def damaged(content: bytes) -> bytes:
    """Change a byte in the middle, which is machine code."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def greedy(content: bytes) -> bytes:
    """Ask for an exbibyte."""
    pickled = b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + content
    with pytest.raises(MemoryError):
        pickle.loads(pickled)
    return pickled


@pytest.mark.parametrize("change", [damaged, greedy])
def test_damaged_code_is_compiled_again(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    env, cache = environment(install(tmp_path / "site"), tmp_path / "cache"), tmp_path / "cache"
    run(RELU_OF_MINUS_ONE, env)
    spoilt = {path: change(path.read_bytes()) for path in compiled_files(cache)}
    for path, content in spoilt.items():
        path.write_bytes(content)
    assert run(RELU_OF_MINUS_ONE, env).stdout == "0.0\n"
    assert len([path for path in compiled_files(cache) if path.read_bytes() not in spoilt.values()]) >= len(spoilt)


@pytest.mark.exhaustive
def test_a_damaged_index_that_asks_for_too_much_memory_is_written_again(tmp_path: Path) -> None:
    """Its first pickle begins with the length of its frame, after two bytes of protocol and one for the frame."""
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    env = environment(site, cache)
    run(RELU_OF_MINUS_ONE, env)
    for path in cache.rglob("*.nbi"):
        content = bytearray(path.read_bytes())
        content[9] = 16  # of 8 bytes the last but one
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(MemoryError):
            pickle.load(file)
    assert run(RELU_OF_MINUS_ONE, env).stdout == "0.0\n"
    for path in cache.rglob("*.nbi"):
        with path.open("rb") as file:
            assert pickle.load(file) == numba.__version__


NO_MEMORY = """
import numba.core.caching as caching
def no_memory(*a, **k):
    raise MemoryError
caching.IndexDataCacheFile._load_data = no_memory
from fastnet.kernels import relu
try:
    relu(1.0, variant="loops")
except MemoryError:
    print("MemoryError")
"""


@pytest.mark.exhaustive
def test_a_kernel_that_memory_does_not_suffice_for_is_not_compiled_again(tmp_path: Path) -> None:
    """Compiling takes more memory than loading, and LLVM ends the process where it gets none."""
    env = environment(install(tmp_path / "site"), tmp_path / "cache")
    run(RELU_OF_MINUS_ONE, env)
    kept = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.nb?")}
    assert run(NO_MEMORY, env).stdout == "MemoryError\n"
    assert {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.nb?")} == kept


FULL_DISK = """
import errno
def no_space(*a, **k):
    raise OSError(errno.ENOSPC, "No space left on device")
import numba.core.caching as caching
caching.IndexDataCacheFile._open_for_write = no_space
"""


@pytest.mark.exhaustive
def test_full_disk_warns_and_continues(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    result = run(FULL_DISK + RELU_OF_MINUS_ONE, environment(site, tmp_path / "cache"))
    assert result.stdout == "0.0\n"
    assert "could not save a compiled kernel" in result.stderr
    assert result.stderr.count("No space left") == 1


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


def test_old_caches_are_pruned_and_young_ones_kept(tmp_path: Path) -> None:
    site, cache = install(tmp_path / "site"), tmp_path / "cache"
    old, young, other = cache / f"fastnet-{'0' * 16}", cache / f"fastnet-{'1' * 16}", cache / "another-program"
    for folder in (old, young, other):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "file.nbc").touch()
    long_ago = time.time() - 86400 * 31
    for folder in (old, other):
        os.utime(folder, (long_ago, long_ago))
    run("import fastnet.kernels", environment(site, cache))
    assert not old.exists()
    assert young.is_dir()
    assert other.is_dir()


@pytest.mark.exhaustive
def test_features_and_width_follow_numbas_settings(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    code = "from fastnet.kernels.jit import target; print(target.target_cpu(), target.vector_bytes())"
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"}
    assert run(code, environment(site, tmp_path) | narrow).stdout == "haswell 32\n"
    assert run(code, environment(site, tmp_path) | {"NUMBA_ENABLE_AVX": "0"}).stdout.endswith(" 16\n")
    narrow = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse2"}
    assert run(code, environment(site, tmp_path) | narrow).stdout == "nehalem 16\n"


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
