"""The loop that the profiler shows of a kernel's assembly.

Tests of assembly compile in a process of their own, with an empty cache.
"""

import platform

import pytest

from fastnet.kernels.cpu.gemm.microkernel import MR, NV, UNROLL, layouts_of
from fastnet.kernels.jit import target
from fastnet.kernels.llvm.builder import VECTOR
from fastnet.kernels.specs.base import Case
from fastnet.profiling import machine_code

X86 = """
_ZN7fastnet5tests4realB2v1E5Array:
    movq %rdi, %rax
.LBB0_1:
    vmovups (%rax), %ymm1
.LBB0_2:
    vfmadd231ps (%rdx), %ymm0, %ymm1
    vfmadd213ps (%rdx), %ymm0, %ymm2
    vaddps %ymm1, %ymm2, %ymm3
    vaddss %xmm1, %xmm2, %xmm3
    addq $32, %rax
    jne .LBB0_2
    vmulps %zmm1, %zmm2, %zmm3
    jmp .LBB0_1
.LBB0_3:
    vaddsd (%rax), %xmm1, %xmm1
    jne .LBB0_3
    retq
_ZN7cpython7fastnet5tests4realB2v1E5Array:
.LBB1_1:
    vfmadd231ps %zmm1, %zmm2, %zmm3
    jne .LBB1_1
"""
ARM = """
kernel:
.LBB0_4:
    ldp q1, q4, [x8, #32]
    fmla v0.4s, v1.4s, v2.s[0]
    fadd v3.4s, v3.4s, v0.4s
    subs x9, x9, #1
    b.ne .LBB0_4
    ret
"""


def test_inner_loop_with_most_arithmetic_is_found() -> None:
    loop = machine_code.inner_loop(X86)
    assert loop is not None
    assert (loop.function, loop.vector_bytes, loop.fmas, loop.arithmetic) == ("fastnet.tests.real", 32, 2, 4)
    assert (loop.instructions, loop.loops) == (6, 1), "not the outer loop, nor Python's entry, nor the scalar one"
    assert loop.text.startswith(".LBB0_2:")
    assert loop.text.endswith("jne .LBB0_2")


def test_inner_loop_on_arm() -> None:
    loop = machine_code.inner_loop(ARM)
    assert loop is not None
    assert (loop.function, loop.vector_bytes, loop.fmas, loop.arithmetic, loop.instructions) == ("kernel", 16, 1, 2, 5)
    assert "ldp q1, q4, [x8, #32]\n" in loop.text


def test_inner_loop_is_absent_without_arithmetic() -> None:
    assert machine_code.inner_loop("f:\n    vaddps %zmm1, %zmm2, %zmm3\n    retq\n") is None
    assert machine_code.inner_loop("f:\n.LBB0_1:\n    addq $1, %rax\n    jne .LBB0_1\n") is None


def test_inner_loop_prefers_a_microkernel() -> None:
    tile = "fastnet.tile.float32.1x1x64:\n.LBB1_1:\n    vfmadd231ps %ymm1, %ymm2, %ymm3\n    jne .LBB1_1\n"
    loop = machine_code.inner_loop(X86 + tile)
    assert loop is not None
    assert loop.function == "fastnet.tile.float32.1x1x64"


@pytest.mark.exhaustive
@pytest.mark.compiled
def test_inner_loop_of_products_is_the_microkernel() -> None:
    code = machine_code.inspect("matmul", "simd", "float32", Case((64, 64, 64), "profiled", "nn"))
    assert code is not None
    assert code.loop is not None
    assert code.first_call_s > 0.05
    if "fma" in target.target_features() or platform.machine().lower() in ("arm64", "aarch64"):
        tiles = [f"fastnet.tile.float32.{MR}x{NV}{layout}x{VECTOR}" for layout in layouts_of(MR, NV)]
        assert code.loop.function in tiles
        assert code.loop.fmas in (MR * NV, UNROLL * MR * NV)
        assert code.loop.vector_bytes == VECTOR


@pytest.mark.exhaustive
@pytest.mark.compiled
def test_inner_loop_of_an_activation() -> None:
    relu = machine_code.inspect("relu", "loops", "float32", Case((100,), "profiled"))
    tanh = machine_code.inspect("tanh", "simd", "float64", Case((100,), "profiled"))
    assert tanh is not None
    assert tanh.loop is not None
    assert tanh.loop.arithmetic > 10
    assert relu is not None
    assert relu.loop is None or relu.loop.arithmetic < 8, "relu compares and selects"


def test_numpy_variants_have_no_machine_code() -> None:
    assert machine_code.inspect("matmul", "reference", "float32", Case((8, 8, 8), "profiled", "nn")) is None


def test_failed_compilation_process_reports_its_error() -> None:
    with pytest.raises(RuntimeError, match=r"matmul, variant loops: compiling .* failed: .*3"):
        machine_code.inspect("matmul", "loops", "float32", Case((8, 8), "two sizes for three", "nn"))
