"""The CUDA kernels compiled for cards that are not here; needs numba-cuda, which tests do not install.

``.ci/run`` installs the extra cuda12 in an environment of its own, and there runs ``pytest offline_*.py``, these tests
and those of `offline_arithmetic`, besides ``python -m fastnet.kernels.cuda.ptx_report``.
"""

import math
import os
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import pytest

from fastnet.kernels.cuda import ptx_report
from fastnet.kernels.cuda.device import CUDA_KERNELS, cuda, enqueue
from fastnet.kernels.cuda.ptx_report import APPROXIMATE, SHARED_BYTES, compiled, main_loop
from fastnet.kernels.cuda.variants import VARIANTS

FLOATS = numba.cuda.types.Array(numba.cuda.types.float32, 1, "C")


def _approximations(device: Any) -> list[str]:
    """Return what `APPROXIMATE` finds in a kernel that calls a device function of one float32."""

    def kernel(out: Any) -> None:
        out[0] = device(out[0])

    ir, ptx, _ = compiled(cuda.jit(kernel, lto=False), (FLOATS,), (9, 0))
    return APPROXIMATE.findall(ir + ptx)


def _exp(z: Any) -> Any:
    return math.exp(z)


def _tanh(z: Any) -> Any:
    return math.tanh(z)


def _divide(z: Any) -> Any:
    return (z + type(z)(1)) / (z - type(z)(1))


@pytest.mark.parametrize("function", [_exp, _tanh, _divide])
def test_fast_math_is_noticed(function: Any) -> None:
    """Also that of a function of the CPU, whose contract flag numba-cuda takes for fast math."""
    assert not _approximations(cuda.jit(function, device=True, fastmath=False))
    assert _approximations(cuda.jit(function, device=True, fastmath=True))
    assert _approximations(numba.njit(fastmath={"contract"})(function))


@pytest.mark.parametrize("cc", SHARED_BYTES)
def test_code_is_for_the_card_and_not_linked_again(cc: tuple[int, int]) -> None:
    """numba-cuda compiles for sm_90a on a card of 9.0; with lto it would generate the code anew when it links."""
    _, ptx, _ = compiled(
        CUDA_KERNELS["reduce_kernel"][1], ptx_report._types(CUDA_KERNELS["reduce_kernel"][0], "float32"), cc
    )
    suffix = "a" if cc >= (9, 0) else ""
    assert f".target sm_{cc[0]}{cc[1]}{suffix}\n" in ptx


def test_every_kernel_of_the_table_is_compiled_without_lto() -> None:
    for dtype in ptx_report.DTYPES:
        for operation, variant in VARIANTS:
            assert set(ptx_report._kernels(operation, variant, dtype)) <= set(CUDA_KERNELS)
    for name, (_, dispatcher, _, _) in CUDA_KERNELS.items():
        assert dispatcher.targetoptions["lto"] is False, name
        assert dispatcher.targetoptions["fastmath"] is False, name


def test_float64_in_a_float32_kernel_is_noticed() -> None:
    """But for the sums that are meant to be float64, to the instruction."""
    for kernel, meant in (("softmax_kernel", ptx_report.ROW_SUMS["softmax_kernel"]), ("epoch_gather", 0)):
        found = ptx_report._compile(kernel, "float32", (9, 0))
        assert ptx_report.faults(found) == []
        more = replace(found, double_operations=meant + 1)
        assert ptx_report.faults(more) == [f"{meant + 1} float64 instructions in a float32 kernel"]


@pytest.mark.parametrize("cc", SHARED_BYTES)
def test_products_on_tensor_cores_are_three(cc: tuple[int, int]) -> None:
    """Of TF32, whose instructions have fragments of four, two and four registers, and round to nearest, ties away."""
    fragments = [rf"{{(?:%{kind}\d+,?){{{count}}}}}" for kind, count in (("f", 4), ("r", 4), ("r", 2), ("f", 4))]
    mma = r"mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.tf32\.tf32\.f32 " + ", ".join(fragments) + ";"
    for name in ptx_report._product_kernels("cuda_tf32x3", "float32"):
        function, dispatcher, *_ = CUDA_KERNELS[name]
        ir, ptx, _ = compiled(dispatcher, ptx_report._types(function, "float32"), cc)
        loop = "\n".join(main_loop(ptx)[0])
        tiles, factors = 4 * 4, 2 * (8 + 4)
        assert len(re.findall(mma, loop)) == ptx.count("mma.") == 3 * tiles
        assert loop.count("cvt.rna.tf32.f32 ") == ptx.count("tf32.f32 %r") == 2 * factors
        assert len(re.findall(r"and\.b32\s+%r\d+, %r\d+, -8192;", loop)) == factors  # a conversion leaves more bits
        assert ".approx" not in loop  # the epilogue's exponentials are libdevice's
        assert not APPROXIMATE.findall(ir + ptx)
    assert ptx_report._product_kernels("cuda_tf32x3", "float64") == ()
    with pytest.raises(ValueError, match=r'^variant "cuda_tf32x3" does not take float64; use float32$'):
        ptx_report.report("matmul", "cuda_tf32x3", "float64")


def test_a_launch_keeps_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``kernel[grid, threads, stream]`` does, which numba-cuda caches."""

    class Stream:
        pass

    kernel = CUDA_KERNELS["reduce_kernel"][1]
    launched = []
    monkeypatch.setattr("numba.cuda.cudadrv.driver._to_core_stream", lambda stream: stream)
    monkeypatch.setattr(
        type(kernel), "call", lambda self, arguments, to: launched.append((arguments, to.griddim, to.blockdim))
    )
    for start, is_kept in ((enqueue, False), (lambda *given, stream: kernel[(3, 2), 256, stream](1, 2), True)):
        stream = Stream()
        reference = weakref.ref(stream)
        start(kernel, (3, 2), 256, 1, 2, stream=stream)
        del stream
        assert (reference() is not None) == is_kept
    assert launched == [((1, 2), (3, 2, 1), (256, 1, 1))] * 2


def test_copies_may_run_beside_kernels() -> None:
    """numba-cuda takes the streams of cuda.core, and those do not wait for stream 0, as its own do."""
    from cuda.core import Stream, StreamOptions
    from numba.cuda.cudadrv import driver

    assert StreamOptions().nonblocking is True
    assert driver.ExperimentalStream is Stream


_CACHED = """
import numpy as np, sys
from unittest import mock
from numba.cuda import dispatcher
from fastnet.kernels.cuda import ptx_report
from fastnet.kernels.cuda.device import CUDA_KERNELS
from fastnet.kernels.cuda.launch import gemm_kernels

def bind(self):
    self.library.get_cubin()  # as on a card, but that it is not loaded

compiles, sizes = dispatcher.compile_cuda, []
def counted(*arguments, **options):
    sizes.append(1)
    return compiles(*arguments, **options)

tiled = [gemm_kernels("cuda_tiled", np.dtype(kind))[0].kernel for kind in ptx_report.DTYPES]
names = ["reduce_kernel", *(kernel.__name__ for kernel in tiled)]
with (
    ptx_report.card_of((9, 0)),
    mock.patch.object(dispatcher._Kernel, "bind", bind),
    mock.patch.object(dispatcher, "compile_cuda", counted),
):
    for name in names:
        function, made, *_ = CUDA_KERNELS[name]
        dtype = "float64" if "float64" in name else "float32"
        kernel = made.compile(ptx_report._types(function, dtype))
        print(name, hash(kernel.library.get_cubin().code))
print(len(sizes), "compiled", file=sys.stderr)
"""


def test_kernels_are_cached_in_the_package_folder(tmp_path: Path) -> None:
    """A second process compiles nothing, and loads the machine code of the first, by name, dtype and architecture."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "0"}
    first, second = (
        subprocess.run([sys.executable, "-c", _CACHED], env=environment, capture_output=True, text=True)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert second.stdout == first.stdout
    assert len(set(first.stdout.split())) == 6
    assert not first.stderr.endswith("\n0 compiled\n")
    assert second.stderr.strip() == "0 compiled"
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("fastnet-")
    assert len(list(folder.rglob("*cuda_float32_tiled*.nbc"))) == 1
