"""What a first call costs: compiling a kernel, and starting a process with a full and with an empty cache.

    pytest bench/test_startup.py --benchmark-enable

pytest-benchmark times the whole process; ``extra_info["compile_s"]`` is the compile time that `fastnet profile` shows:
the first call in a new process with an empty cache, less the second. The import of NumPy stands beside that of fastnet.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastnet.kernels.registry import OP_SPECS
from fastnet.kernels.verify import check
from fastnet.profiling import machine_code as machinecode
from fastnet.profiling.variants import chosen

COMPILED = [
    pytest.param(operation, variant, marks=[] if variant == "loops" else [pytest.mark.timed])
    for operation, variant in (
        ("matmul", "loops"),
        ("matmul", "blocked"),
        ("matmul", "simd"),
        ("matmul", "parallel"),
        ("dense_backward_batch", "simd"),
        ("tanh", "simd"),
        ("cross_entropy", "simd"),
    )
]


@pytest.mark.compiled
@pytest.mark.parametrize(("operation", "variant"), COMPILED)
def test_compile(benchmark: BenchmarkFixture, operation: str, variant: str) -> None:
    case = OP_SPECS[operation].bench_cases[0]
    check(*chosen(operation, [variant], "float32"), case, "float32")
    benchmark.group = f"compile {operation} float32"
    benchmark.extra_info.update(operation=f"compile {operation}", variant=variant, dtype="float32", case=str(case))

    seconds: list[float] = []

    def compile_it() -> None:
        code = machinecode.inspect(operation, variant, "float32", case)
        assert code is not None
        seconds.append(code.first_call_s)

    benchmark.pedantic(compile_it, rounds=3)  # times the whole process
    benchmark.extra_info["compile_s"] = statistics.median(seconds)


@pytest.mark.parametrize(
    ("name", "cache", "arguments"),
    [
        ("import numpy", "full", ["-c", "import numpy"]),
        ("import fastnet", "full", ["-c", "import fastnet"]),
        ("train", "full", ["-m", "fastnet", "train", "--epochs", "1"]),
        pytest.param("train", "empty", ["-m", "fastnet", "train", "--epochs", "1"], marks=pytest.mark.timed),
    ],
)
def test_process(benchmark: BenchmarkFixture, tmp_path: Path, name: str, cache: str, arguments: list[str]) -> None:
    benchmark.group = "process"
    benchmark.extra_info.update(operation="process", variant=name, case=f"{cache} cache")
    folders = iter(range(100))

    def start() -> None:
        environment = dict(os.environ)
        if cache == "empty":
            environment["NUMBA_CACHE_DIR"] = str(tmp_path / str(next(folders)))
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)

    benchmark.pedantic(start, rounds=5 if cache == "full" else 3, warmup_rounds=cache == "full")
