"""CUDA without a card: the kernels in the simulator, what is said where there is none, and the benchmark's script.

The large packages that compile for real are installed by .ci/run, which runs
``python -m fastnet.kernels.cuda.ptx_report``.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import ROOT

import fastnet.kernels
from fastnet import Network, Trainer
from fastnet.cli import main as cli
from fastnet.kernels.cuda import device as cuda
from fastnet.kernels.registry import CUDA_VARIANTS, OP_SPECS, TABLE, find, variants

SIMULATED = sorted(map(str, Path(__file__).parent.glob("simulated_*.py")))
"""Files of tests that a process of their own runs."""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Both long runs in the simulator, side by side: a core each."""
    found = tmp_path_factory.mktemp("simulated") / "gpu.json"
    # Assertions of files that pytest does not know by their names are rewritten too, since they are named outright.
    commands = {
        "kernels": ("-m", "pytest", "-q", "-p", "no:cacheprovider", *SIMULATED),
        "benchmark": ("bench/gpu.py", "--tiny", "--json", str(found)),
    }
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    with ExitStack() as stack:
        started: dict[str, Any] = {"found": found}
        for name, command in commands.items():
            pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, **pipes)
            started[name] = stack.enter_context(process)
            stack.callback(process.kill)
        yield started


@pytest.mark.exhaustive
@pytest.mark.compiled
def test_kernels_in_the_simulator(simulated: dict[str, Any]) -> None:
    said, _ = simulated["kernels"].communicate()
    assert simulated["kernels"].returncode == 0, said[-6000:]
    assert " passed" in said
    assert "skipped" not in said


@pytest.mark.exhaustive
@pytest.mark.compiled
def test_benchmark_in_the_simulator(simulated: dict[str, Any]) -> None:
    said, _ = simulated["benchmark"].communicate()
    assert simulated["benchmark"].returncode == 0, said[-6000:]
    assert "simulator" in simulated["found"].read_text()


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """What is missing is found out once a process."""
    cuda.missing.cache_clear()
    yield
    cuda.missing.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_without_numba_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r'^backend="cuda" cannot run here: numba-cuda is not installed: pip install'):
        Trainer(Network([2, 1]), backend="cuda")
    with pytest.raises(
        OSError, match=r'^variant="cuda" cannot run here: numba-cuda is not installed.*; "auto" computes on the CPU$'
    ):
        fastnet.kernels.matmul(np.eye(2), np.eye(2), variant="cuda")
    assert not any(name.startswith("cuda") for name in variants("matmul"))


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("CUDA driver library cannot be found", "the NVIDIA driver is not installed, or is not found"),
        ("CUDA_ERROR_NO_DEVICE", "the driver offers no usable card"),
    ],
)
def test_without_driver_or_card(error: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def current_context(self) -> None:
            raise RuntimeError(error)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cuda, "cuda", Driver())
    with pytest.raises(OSError, match=f"^backend=.* {said}") as raised:
        Trainer(Network([2, 1]), backend="cuda")
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("asked_anew")
def test_command_line_reports_missing_cuda_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["train", "--backend", "cuda"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith('fastnet train: backend="cuda" cannot run here: numba-cuda is not installed')


def test_auto_is_never_cuda() -> None:
    assert Trainer(Network([2, 1])).backend == "cpu"
    assert all(variant.device == "cpu" for variant in TABLE)
    on_cpu = {variant.function for variant in TABLE}
    assert all(find(operation, "auto") in on_cpu for operation in OP_SPECS)
    assert {variant.operation for variant in CUDA_VARIANTS} == set(OP_SPECS)
    assert {variant.dtypes for variant in CUDA_VARIANTS if variant.name == "cuda_tf32x3"} == {("float32",)}


def test_the_registry_names_the_variants_that_cuda_has() -> None:
    from fastnet.kernels.cuda.launch import GEMM_VARIANTS
    from fastnet.kernels.cuda.variants import VARIANTS

    assert {(variant.operation, variant.name) for variant in CUDA_VARIANTS} == set(VARIANTS)
    assert {variant.name for variant in CUDA_VARIANTS if variant.operation == "matmul"} == set(GEMM_VARIANTS)


def test_importing_fastnet_does_not_import_cuda() -> None:
    code = "import fastnet, fastnet.kernels, sys; print('fastnet.kernels.cuda' in sys.modules)"
    assert run("-c", code).stdout.strip() == "False"


def test_ptx_report_rejects_unknown_names() -> None:
    from fastnet.kernels.cuda import ptx_report as cuda_offline

    with pytest.raises(ValueError, match="there is no CUDA variant 'simd' of 'matmul'"):
        cuda_offline.report("matmul", "simd", "float32")


def test_ptx_report_faults() -> None:
    from fastnet.kernels.cuda.ptx_report import Report, faults

    good: dict[str, Any] = {
        "kernel": "cuda_float32_8x8x8",
        "dtype": "float32",
        "cc": (9, 0),
        "threads": 256,
        "blocks": 2,
        "shared_alignment": 16,
    }
    good |= {"registers": 128, "shared_bytes": 16896, "spill_bytes": 0, "wide_loads": 10, "double_operations": 0}
    good |= {"approximations": 0, "shared_loads": 8}
    assert faults(Report(**good)) == []
    for change, said in (
        ({"spill_bytes": 8}, "spills 8 bytes"),
        ({"registers": 136}, "136 registers do not fit"),
        ({"shared_bytes": 50000}, "50000 bytes of shared memory"),
        ({"shared_alignment": 4}, "aligned to 4 bytes"),
        ({"wide_loads": 5}, "5 loads of 16 bytes"),
        ({"shared_loads": 3}, "3 from shared memory"),
        ({"double_operations": 1}, "1 float64 instructions"),
        ({"approximations": 2}, "2 instructions of fast math"),
        ({"kernel": "cuda_float32_8x8x8_kl", "branches": 1}, "1 branches in the main loop"),
    ):
        (fault,) = faults(Report(**good | change))
        assert said in fault


def test_ptx_report_finds_the_main_loop() -> None:
    from fastnet.kernels.cuda.ptx_report import main_loop

    text = """
$L__BB0_1:
	@%p1 bra 	$L__BB0_3;
	ld.global.f32 	%f1, [%rd1];
$L__BB0_2: // the inner loop
	fma.rn.f32 	%f2, %f1, %f1, %f2;
	@%p2 bra 	$L__BB0_2;
$L__BB0_3:
	bar.sync 	0;
	bra.uni 	$L__BB0_1;
	ret;
"""
    loop, branches = main_loop(text)
    assert (len(loop), loop[0], branches) == (6, "@%p1 bra 	$L__BB0_3;", 1)
    assert main_loop("	bar.sync 	0;") == ([], 0)
