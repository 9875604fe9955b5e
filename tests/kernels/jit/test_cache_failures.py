"""The compile cache where it cannot be used, trusted or read: kernels run, and a warning says what is amiss.

Each test runs fresh interpreters on a private copy of the package, laid out as in a wheel, with a cache folder of its
own.
"""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numba
import pytest
from installations import RELU_OF_MINUS_ONE, compiled_files, environment, install, run

pytestmark = pytest.mark.compiled

# ------------------------------------------------------------------------------------------------------------ folders


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


# -------------------------------------------------------------------------------------------------------------- files


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
