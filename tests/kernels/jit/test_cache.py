"""The compile cache follows the sources, is one for many processes, and leaves the user's own alone.

Each test runs fresh interpreters on a private copy of the package, laid out as in a wheel, with a cache folder of its
own.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest
from installations import RELU_OF_MINUS_ONE, compiled_files, environment, install, run

from fastnet.kernels.jit import cache as kernel_cache

pytestmark = pytest.mark.compiled

# ------------------------------------------------------------------------------------------------------------ sources


def leak(site: Path, divisor: int) -> None:
    """Edit the file that defines relu, in a sub-package: negative inputs are divided instead of set to 0."""
    correct = "return zero if z < zero else z"
    (path,) = [path for path in (site / "fastnet" / "kernels").rglob("*.py") if correct in path.read_text()]
    assert path.parent.name != "kernels"
    path.write_text(path.read_text().replace(correct, f"return z / {divisor} if z < zero else z"))


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


# ---------------------------------------------------------------------------------------------------------- processes

TWO_LAYOUTS = """
import numpy as np
from fastnet.kernels import matmul
dtype = DTYPE
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
import os, pathlib, shutil
import numpy as np
from fastnet.kernels import matmul
cache = pathlib.Path(os.environ["NUMBA_CACHE_DIR"])
def forked(dtype):
    child = os.fork()
    if child == 0:
        matmul(np.ones((2, 2), dtype), np.ones((2, 2), dtype), variant="loops")
        os._exit(0)
    return child
"""

ONE_BY_ONE = """
kept = []
for dtype in ("float32", "float64"):
    assert os.waitpid(forked(dtype), 0)[1] == 0
    kept.append({path.name for path in cache.rglob("*.nbc")})
    shutil.rmtree(cache)  # as if neither had seen the other
assert kept[0] and kept[1] and not kept[0] & kept[1], kept
"""

AT_ONCE = """
children = [forked(dtype) for dtype in ("float32", "float64")]
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_children_never_share_a_data_file(tmp_path: Path) -> None:
    """They share whatever was drawn at import, and Numba's numbers from 1."""
    env = environment(install(tmp_path / "site"), tmp_path / "cache")
    run(FORK + ONE_BY_ONE, env)
    run(FORK + AT_ONCE, env)
    for dtype in ("float32", "float64"):
        assert run(TWO_LAYOUTS.replace("DTYPE", repr(dtype)), env).stdout == "right\n"


# --------------------------------------------------------------------------------------------------- the user's cache


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
