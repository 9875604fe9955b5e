"""Processes that are interrupted, killed, stopped, forked, spawned or short of memory at random moments."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import trials

from fastnet import Adam, Network, Trainer

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(sys.platform != "linux", reason="signals, forks and limits of Linux"),
]

RUN = """
import os, sys
import numpy as np
from fastnet import Adam, Network, Trainer
from fastnet.io import checkpoint
from fastnet.kernels.engine import engine

engine.THREAD_FLOPS = 0
checkpoint.SHARE = 1.0
rng = np.random.default_rng(0)
X, y = rng.random((3000, 30)), rng.random((3000, 4))

def trainer():
    return Trainer(Network([30, 64, 4]), optimizer=Adam(), batch_size=64, seed=1)
"""

TRAIN = (
    RUN
    + """
path, epochs = sys.argv[1], int(sys.argv[2])
ours = Trainer.resume(path) if os.path.exists(path) else trainer()
print("ready", flush=True)
if epochs > ours.history.epochs:
    ours.fit(X, y, epochs - ours.history.epochs, checkpoint=path)
"""
)

EPOCHS = 150


@contextmanager
def start(code: str, *arguments: Any, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python process that heeds Ctrl-C, which a shell's background jobs ignore, within a block."""
    heeding = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=heeding, env={**os.environ, **environment}, **pipes) as process:
        try:
            yield process
        except BaseException:  # a timeout, say: the block's end waits for the process
            process.kill()
            raise


def finish(code: str, *arguments: Any, **environment: str) -> str:
    with start(code, *arguments, **environment) as process:
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def straight() -> bytes:
    """The parameters of the run that nothing disturbs."""
    rng = np.random.default_rng(0)
    X, y = rng.random((3000, 30)), rng.random((3000, 4))
    ours = Trainer(Network([30, 64, 4]), optimizer=Adam(), batch_size=64, seed=1)
    ours.fit(X, y, EPOCHS)
    return ours.network.parameters.tobytes()


@pytest.mark.exhaustive
def test_signals_at_random_moments(straight: bytes, tmp_path: Path) -> None:
    """Interrupted, killed and stopped, a run that is resumed again and again ends at the same bits."""
    for number, rng in trials("runs through SIGINT, SIGKILL and SIGSTOP", 3, 0.08):
        path = tmp_path / f"run-{number}.safetensors"
        for _ in range(4):
            with start(TRAIN, path, EPOCHS) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                time.sleep(rng.uniform(0, 0.3))
                kind = [signal.SIGINT, signal.SIGKILL, signal.SIGSTOP][rng.integers(3)]
                process.send_signal(kind)
                if kind == signal.SIGSTOP:
                    time.sleep(rng.uniform(0, 0.1))
                    process.send_signal(signal.SIGCONT)
                    process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=300)
                expected = (0, -kind) if kind == signal.SIGKILL else (0, 1, -signal.SIGINT)
                assert process.returncode in expected, errors
                assert process.returncode != 1 or errors.rstrip().endswith("KeyboardInterrupt"), errors
            if path.exists():
                Trainer.resume(path)
        finish(TRAIN, path, EPOCHS)
        assert Trainer.resume(path).network.parameters.tobytes() == straight, number
        left = sorted(os.listdir(tmp_path))
        assert all(name.startswith((".run", "run")) for name in left), left
        path.unlink()


FORK = (
    RUN
    + """
import random, signal, threading, time
random.seed(int(sys.argv[1]))
expected = trainer()
expected.fit(X, y, 2)
expected = expected.network.parameters.tobytes()
wrong = []

def train():
    ours = trainer()
    ours.fit(X, y, 2)
    if ours.network.parameters.tobytes() != expected:
        wrong.append(1)

threads = [threading.Thread(target=train) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(3):
    time.sleep(random.uniform(0, 0.02))
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        train()
        os._exit(len(wrong))
    assert os.waitpid(child, 0)[1] == 0, "a child"
for thread in threads:
    thread.join()
assert not wrong
"""
)


def test_a_process_that_hangs_fails_its_test() -> None:
    with pytest.raises(subprocess.TimeoutExpired), start("import time; time.sleep(1000)") as process:
        process.communicate(timeout=0.5)
    assert process.returncode == -signal.SIGKILL


def test_forks_while_threads_train() -> None:
    for number, _ in trials("processes that fork while they train", 2, 0.04):
        finish(FORK, number, PYTHONWARNINGS="ignore")


SPAWN = (
    RUN
    + """
import joblib, multiprocessing, pickle

if __name__ == "__main__":
    ours = trainer()
    ours.fit(X, y, 2)
    expected = ours.network.predict(X).tobytes()
    calls = (joblib.delayed(ours.network.predict)(X) for _ in range(4))
    assert all(found.tobytes() == expected for found in joblib.Parallel(n_jobs=2, backend=sys.argv[1])(calls))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert all(found.tobytes() == expected for found in pool.map(ours.network.predict, [X, X]))
"""
)


def test_networks_in_other_processes(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    (tmp_path / "main.py").write_text(SPAWN)
    for number, _ in trials("pools of processes", 2, 0.04):
        backend = ("loky", "multiprocessing")[number % 2]
        command = [sys.executable, "-W", "ignore", str(tmp_path / "main.py"), backend]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr


LIMITED = (
    RUN
    + """
import resource
limit = int(sys.argv[1])
ours, expected = trainer(), trainer()
expected.fit(X, y, 3)
ours.fit(X, y, 1)
ours.network.predict(X)  # what it imports would otherwise be short of memory, which CPython 3.11 may not survive
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + limit, resource.RLIM_INFINITY))
try:
    ours.fit(X, y, 2)
    ours.network.predict(np.ones((5000, 30)))
except MemoryError:
    pass
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if ours.history.epochs < 3:
    ours.fit(X, y, 3 - ours.history.epochs)
assert ours.network.parameters.tobytes() == expected.network.parameters.tobytes()
"""
)


def test_lack_of_memory_at_random_moments() -> None:
    """Either it suffices, or MemoryError leaves whole steps, from which training goes on to the same bits."""
    for _, rng in trials("processes short of memory", 3, 0.04):
        finish(LIMITED, int(10 ** rng.uniform(3, 7)), MALLOC_MMAP_THRESHOLD_="65536")


FULL = """
import sys
from fastnet import Network
net = Network([200, 200, 200])
try:
    net.save(sys.argv[1])
except OSError as error:
    assert "cannot write" in str(error), error
    print("full")
"""


def test_full_disk(tmp_path: Path) -> None:
    """On a small tmpfs, where one may be mounted: the file that was there stays whole, with nothing beside it."""
    small = tmp_path / "small"
    small.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        net = Network([8, 8])
        net.save(small / "net")
        for _ in trials("writes to a full disk", 1, 0.01):
            assert finish(FULL, small / "net") == "full\n"
            assert os.listdir(small) == ["net"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


FIRST = "import numpy as np; from fastnet.kernels import matmul, relu; A = np.arange(12.0).reshape(3, 4)\n"
FIRST += "assert (matmul(A, A.T, variant='loops') == A @ A.T).all() and relu(-1.0, variant='loops') == 0\n"


def damage(rng: np.random.Generator, cache: Path) -> None:
    """Delete or truncate some files of a compile cache, or all of it, or overwrite some of their bytes."""
    kind = rng.integers(4)
    if kind == 0:
        shutil.rmtree(cache)
        return
    for path in cache.rglob("*.nb?"):
        if rng.random() < 0.7:
            content = bytearray(path.read_bytes())
            if kind == 1:
                path.unlink()
            elif kind == 2:
                path.write_bytes(content[: rng.integers(len(content))])
            else:
                for place in rng.integers(len(content), size=4):
                    content[place] ^= int(rng.integers(1, 256))
                path.write_bytes(content)


@pytest.mark.exhaustive
def test_first_runs_at_once_on_a_damaged_cache(tmp_path: Path) -> None:
    """Eight processes compile, load and save side by side, while files vanish, are cut short or overwritten."""
    cache = tmp_path / "cache"
    for _, rng in trials("eight first runs at once", 2, 0.08):
        with ExitStack() as stack:
            running = [stack.enter_context(start(FIRST, NUMBA_CACHE_DIR=str(cache))) for _ in range(8)]
            time.sleep(rng.uniform(0, 3))
            if cache.exists():
                damage(rng, cache)
            for process in running:
                _, errors = process.communicate(timeout=600)
                assert process.returncode == 0, errors
        if cache.exists():
            damage(rng, cache)
        finish(FIRST, NUMBA_CACHE_DIR=str(cache))
