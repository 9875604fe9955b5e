"""Processes that measure one library each, on so many threads and as many CPUs.

Imports `sides` and `predictions`. In one process the libraries' thread pools fight: NumPy's last network took 2.7 times
as long. So each has a process of its own, with all its threads bounded before it starts; they wait for each other, so
one measures at a time. A process answers each line on its standard input with the seconds of a step or a prediction.
"""

import os
import statistics
import subprocess
import sys
import time

import predictions
from sides import MAKERS, NETWORKS, Epoch, epochs_of_a_call

_BOUNDS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS")


class SideError(RuntimeError):
    """A library failed: it is installed in part, or its result is wrong."""


def work(library: str, threads: int) -> None:
    """Answer each line "network<TAB>task<TAB>seconds to measure" with the median seconds of a step or prediction."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    epochs: dict[str, Epoch] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        name, task, least = line.rstrip("\n").split("\t")
        try:
            print(measure(epochs, library, threads, name, task, float(least)), flush=True)
        except Exception as error:
            print(f"error: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)


def measure(epochs: dict[str, Epoch], library: str, threads: int, name: str, task: str, least: float) -> float:
    """Median seconds of a step; the first time for a network, after two epochs that compile and settle."""
    key, predicts = f"{name} {task}", task in predictions.TASKS
    if key not in epochs:
        epochs[key] = (
            predictions.maker(library, name, task, threads) if predicts else MAKERS[library](name, task, threads)
        )
        for _ in range(2 if least > 0 else 0):
            epochs[key]()
    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < least:
        start = time.perf_counter()
        epochs[key]()
        times.append(time.perf_counter() - start)
    if predicts:
        return statistics.median(times) / predictions.calls_of_a_measurement(name, task)
    _, batch, rows = NETWORKS[name]
    epochs_a_call = epochs_of_a_call(name) if library == "fastnet" else 1
    return statistics.median(times) / (rows / batch) / epochs_a_call


class Worker:
    """A process that measures one library on one number of threads."""

    def __init__(self, library: str, threads: int) -> None:
        count = str(threads)
        environment = {**os.environ, **dict.fromkeys(_BOUNDS, count)}
        if threads == 1:  # where the CPUs cannot be bounded, XLA's threads can
            flags = os.environ.get("XLA_FLAGS", "")
            environment["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        self.library = library
        command = [sys.executable, __file__, library, count]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def seconds(self, name: str, task: str, least: float = 0.3) -> float:
        """Give the seconds of a step, measured for at least so long; `SideError` where the library fails."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{name}\t{task}\t{least}\n")
            self._process.stdin.flush()
            answer = self._answer()
        except BrokenPipeError:
            answer = ""
        if not answer or answer.startswith("error"):
            raise SideError(f"{self.library}, {name}, {task}: {answer or 'its process has ended'}")
        return float(answer)

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
