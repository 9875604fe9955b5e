"""The CUDA kernels compiled for cards that are not here; needs numba-cuda, which tests do not install.

``.ci/run`` installs the extra cuda12 in an environment of its own, and there runs ``pytest offline_cuda.py`` besides
``python -m fastnet.kernels.cuda.ptx_report``.
"""

import math
from typing import Any

import numba
import pytest

from fastnet.kernels.cuda import ptx_report
from fastnet.kernels.cuda.device import CUDA_KERNELS, cuda
from fastnet.kernels.cuda.ptx_report import APPROXIMATE, SHARED_BYTES, compiled
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
