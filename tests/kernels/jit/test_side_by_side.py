"""Kernels compiled by helper processes: the same results, and no dependence on the helpers."""

import gc
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastnet.kernels.engine.engine import COMPANIONS, LATER, training_kernels
from fastnet.kernels.jit import announcer, side_by_side
from fastnet.kernels.jit.side_by_side import Kernel
from fastnet.kernels.specs.activations import IDENTITY
from fastnet.kernels.specs.losses import LOSSES
from fastnet.kernels.specs.optimizers import OPTIMIZERS

pytestmark = pytest.mark.compiled

FIT = """
import sys
import numpy as np
from numba.core import event
import fastnet
from fastnet.kernels.jit import side_by_side
{setup}
compiled = []
class Listener(event.Listener):
    def on_start(self, occurrence):
        compiled.append(occurrence.data["dispatcher"].py_func.__name__)
    def on_end(self, occurrence):
        pass
event.register("numba:compile", Listener())
X = np.random.default_rng(0).standard_normal((40, 3))
network = fastnet.Network([3, 4, 1])
fastnet.Trainer(network, batch_size=8).fit(X, X[:, :1], epochs=2, progress=False)
print(network.parameters.tobytes().hex(), len({{"gemm", "weights_task", "run", "rows_task"}} & set(compiled)))
"""


def fit(cache: Path, setup: str = "", **environment: str) -> list[str]:
    """Train in a process of its own with an empty cache; return the parameters, and how many kernels it compiled."""
    result = subprocess.run(
        [sys.executable, "-c", FIT.format(setup=setup)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache), "FASTNET_COMPILE_PROCESSES": "2", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if "compiling kernels" not in line] == []
    return result.stdout.split()


@pytest.mark.exhaustive
def test_helpers_compile_what_this_process_then_loads(tmp_path: Path) -> None:
    alone = fit(tmp_path / "alone", FASTNET_COMPILE_PROCESSES="1")
    together = fit(tmp_path / "together")
    assert alone[1] == "4"
    assert together[0] == alone[0]
    assert int(together[1]) < 4
    assert fit(tmp_path / "together") == [alone[0], "0"]


@pytest.mark.exhaustive
def test_a_helper_goes_on_after_the_training(tmp_path: Path) -> None:
    """With what the training did not need yet, so that the next start has it."""
    fit(tmp_path)
    names, end = {"run_epochs", "predict_rows", "inference.run-"}, time.monotonic() + 120
    while names and time.monotonic() < end:
        found = [path.name for path in tmp_path.rglob("*.nbi")]
        names = {name for name in names if not any(name in file for file in found)}
        time.sleep(0.1)
    assert not names


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "setup",
    [
        "sys.executable = '/nonexistent/python'",
        "import pathlib; sys.path.append(pathlib.Path('/no')); side_by_side._COMMAND = 'raise SystemExit(1)'",
    ],
)
def test_without_helpers_it_compiles_alone(tmp_path: Path, setup: str) -> None:
    assert fit(tmp_path, setup)[1] == "4"


def test_the_longest_kernels_are_begun_first() -> None:
    kernels = training_kernels(LOSSES["cross_entropy"], OPTIMIZERS["adam"].code, [IDENTITY], drops=True, measures=True)
    order = side_by_side._longest_first([*COMPANIONS, *LATER, *reversed(kernels.values())])
    assert sorted(order) == sorted([*COMPANIONS, *LATER, *kernels.values()])
    names = [f"{kernel.module.rpartition('.')[2]}.{kernel.name}" for kernel in order]
    assert names[: len(side_by_side.LONGEST)] == list(side_by_side.LONGEST), "a kernel was renamed or moved"


class Terminal(io.StringIO):
    """A standard error that somebody looks at."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize(("kind", "announced"), [(Terminal, True), (Terminal, False), (io.StringIO, True)])
def test_a_terminal_shows_how_many_kernels_are_there(
    monkeypatch: pytest.MonkeyPatch, kind: type[io.StringIO], announced: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", shown := kind())
    monkeypatch.setattr(announcer, "PROGRESS_S", 0.001)
    monkeypatch.setattr(announcer._announcer, "said", announced)
    counted = threading.Event()

    def count() -> int:
        if shown.getvalue():
            counted.set()
        return 3

    with announcer.progress(count, 16):
        if announced and kind is Terminal:
            assert counted.wait(60)
    text = shown.getvalue()
    assert text == "" or (text.startswith("\rfastnet: 3 of 16 kernels") and text.endswith("\n"))
    assert bool(text) == (announced and kind is Terminal)


class Recording(NamedTuple):
    """A kernel that notes in which order it was compiled."""

    name: str
    seen: list[str]

    def address(self, dtype: Any) -> int:
        """Compile nothing."""
        self.seen.append(self.name)
        return 1


def test_each_kernel_is_compiled_once_and_garbage_is_collected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that is refused, or takes none of the numbers, leaves all kernels to this process."""
    seen: list[str] = []
    kernels: Any = [Recording(str(i), seen) for i in range(30)]
    monkeypatch.setattr(side_by_side, "_start", lambda *arguments: None)
    side_by_side._compile(kernels, 3, np.dtype("float32"))
    assert seen == [str(i) for i in range(30)]
    assert gc.isenabled()


class Helper:
    """A process that has compiled some kernels, and works until it has been asked a number of times."""

    def __init__(self, compiled: list[str], looks: int = 1000) -> None:
        self.compiled, self.looks, self.killed = compiled, looks, False

    def poll(self) -> int | None:
        """Return None while it works."""
        self.looks -= 1
        return None if self.looks > 0 else 0

    def kill(self) -> None:
        """Note that."""
        self.killed = True

    def wait(self) -> None:
        """Do nothing."""


class Step:
    """A kernel that is in the cache once a process has compiled it."""

    def __init__(self, name: str, compiled: list[str]) -> None:
        self.name, self.compiled = name, compiled

    def function(self) -> Any:
        """Return itself."""
        return self

    def address(self, dtype: Any) -> int:
        """Compile it in this process."""
        self.compiled.append(f"{self.name} here")
        return 1


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kernels a to d, and what has been compiled; nothing is going on before and after the test."""
    compiled: list[str] = []
    monkeypatch.setattr(side_by_side, "_ahead", (None, [], None))
    monkeypatch.setattr(side_by_side, "keeps", lambda function: True)
    monkeypatch.setattr(side_by_side, "processes", lambda: 3)
    monkeypatch.setattr(side_by_side, "_longest_first", list)
    monkeypatch.setattr(
        side_by_side, "is_cached", lambda step, dtype: any(name.startswith(step.name) for name in compiled)
    )
    return [Step(name, compiled) for name in "abcd"], compiled


def test_one_helper_goes_on_and_the_others_end(monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    (a, b, c, d), compiled = steps
    helpers: list[Helper] = []

    def start(kernels: Any, waiting: int, dtype: Any, later: Any) -> Helper:
        assert list(later) == ([] if helpers else [c])
        helpers.append(Helper(compiled))
        return helpers[-1]

    monkeypatch.setattr(side_by_side, "_start", start)
    side_by_side.compile_side_by_side([a, b, d], np.dtype("float32"), [c])
    assert compiled == ["a here", "b here", "d here"]
    assert [helper.killed for helper in helpers] == [False, True]
    assert side_by_side.is_coming(c, np.dtype("float32"))
    assert not side_by_side.is_coming(a, np.dtype("float32"))
    assert not side_by_side.is_coming(c, np.dtype("float64"))
    compiled.append("c there")
    assert not side_by_side.is_coming(c, np.dtype("float32"))


def test_no_helper_goes_on_with_nothing(monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    (a, b, *_), compiled = steps
    before, helpers = side_by_side._ahead, [Helper(compiled)]
    monkeypatch.setattr(side_by_side, "_start", lambda *arguments: helpers[0])
    side_by_side.compile_side_by_side([a, b], np.dtype("float32"))
    assert helpers[0].killed
    assert side_by_side._ahead == before


def test_what_a_helper_is_at_is_waited_for_and_the_rest_compiled_here(
    monkeypatch: pytest.MonkeyPatch, steps: Any
) -> None:
    (a, b, c, _), compiled = steps
    monkeypatch.setattr(side_by_side, "_ahead", (Helper(compiled), [a, b, c], np.dtype("float32")))
    monkeypatch.setattr(time, "sleep", lambda seconds: compiled.append("a there"))
    side_by_side.compile_side_by_side([c, a], np.dtype("float32"))
    assert compiled == ["c here", "a there"]


def test_a_helper_that_ends_early_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    (a, b, *_), compiled = steps
    monkeypatch.setattr(side_by_side, "_ahead", (Helper(compiled, looks=6), [a, b], np.dtype("float32")))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    side_by_side.compile_side_by_side([a, b], np.dtype("float32"))
    assert compiled == ["b here"], "the caller compiles a when it needs it"
    assert not side_by_side.is_coming(a, np.dtype("float32"))


def test_a_helper_compiles_what_is_needed_now_and_then_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    numbers = iter([b"\1", b"\0", b""])
    monkeypatch.setattr(os, "read", lambda file, count: next(numbers))
    monkeypatch.setattr(Kernel, "address", lambda kernel, dtype: seen.append(f"{kernel.name} {dtype}"))
    monkeypatch.setattr(gc, "disable", lambda: None)
    task = {"dtype": "float64", "parent": os.getppid(), "kernels": [["m", "a"], ["m", "b", 3]], "later": [["m", "c"]]}
    side_by_side.help_out(task)
    assert seen == ["b float64", "a float64", "c float64"]


@pytest.mark.parametrize(
    ("asked", "count"), [("1", 1), ("3", 3), ("", 2), ("nonsense", 2), ("0", 2), ("00", 2), ("-1", 2)]
)
def test_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str, count: int) -> None:
    monkeypatch.setattr(side_by_side, "cache_folder", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setenv("FASTNET_COMPILE_PROCESSES", asked)
    assert side_by_side.processes() == count
    monkeypatch.delenv("FASTNET_COMPILE_PROCESSES")
    monkeypatch.setattr(side_by_side, "cpu_quota", lambda: 1.2)
    assert side_by_side.processes() == 1
    monkeypatch.setattr(side_by_side, "cpu_quota", lambda: 8)
    monkeypatch.setattr(side_by_side, "memory_available", lambda: 1.9 * side_by_side.PROCESS_BYTES)
    assert side_by_side.processes() == 1
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert side_by_side.processes() == 1, "sys.executable is the application"
    monkeypatch.delattr(sys, "frozen")
    monkeypatch.setattr(sys, "executable", "/usr/bin/blender")
    assert side_by_side.processes() == 1
    monkeypatch.undo()
    monkeypatch.setattr(side_by_side, "cache_folder", None)
    assert side_by_side.processes() == 1


class Interrupted:
    """A kernel that takes long, and during whose compilation Ctrl-C arrives."""

    module, name = "gemm", "gemm"

    def function(self) -> Any:
        """Nothing that the test calls."""
        return None

    def address(self, dtype: Any) -> int:
        """Stop."""
        raise KeyboardInterrupt


def test_ctrl_c_ends_the_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(kernels: Any, waiting: int, dtype: Any, later: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]))
        return started[-1]

    monkeypatch.setattr(side_by_side, "is_cached", lambda function, dtype: False)
    monkeypatch.setattr(side_by_side, "keeps", lambda function: True)
    monkeypatch.setattr(side_by_side, "processes", lambda: 2)
    monkeypatch.setattr(side_by_side, "_start", start)
    kernels: list[Any] = [Interrupted(), Interrupted()]
    with pytest.raises(KeyboardInterrupt):
        side_by_side.compile_side_by_side(kernels, np.dtype("float32"))
    assert len(started) == 1
    assert started[0].poll() is not None


HOLD = """
import sys
from fastnet.kernels.jit import side_by_side
kernel = side_by_side.Kernel("fastnet.kernels.cpu.gemm.gemm", "gemm")
with side_by_side._right_to_helpers(kernel) as granted:
    print(granted, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_one_process_at_a_time_has_helpers(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def hold() -> subprocess.Popen[str]:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", HOLD], env=environment, **pipes)

    with hold() as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "True\n"
        with hold() as second:
            assert second.communicate()[0] == "False\n"
        first.communicate()
    with hold() as third:
        assert third.communicate()[0] == "True\n"


def test_no_helper_is_started_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Numba keeps no kernels, a helper's would be lost."""
    monkeypatch.setattr(side_by_side, "keeps", lambda function: False)
    with side_by_side._right_to_helpers(Kernel("fastnet.kernels.cpu.gemm.gemm", "gemm")) as granted:
        assert not granted


def test_threads_do_not_compile_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `fit_many`, whose trainers begin at once: the second thread finds what the first has compiled."""
    inside, seen = [], []

    def compiling(kernels: Any, dtype: Any, later: Any) -> None:
        inside.append(1)
        time.sleep(0.01)
        seen.append(len(inside))
        inside.pop()

    monkeypatch.setattr(side_by_side, "_compile_missing", compiling)
    threads = [threading.Thread(target=side_by_side.compile_side_by_side, args=([], np.float32)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 4
