"""The profiler's diagnoses: what bounds a loop, in assembly made to show each bound, and the sentences of the rules."""

import re
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest

from fastnet.kernels.registry import Variant
from fastnet.kernels.specs.base import Case, SampleInput
from fastnet.kernels.verify import check
from fastnet.profiling import machine_code
from fastnet.profiling import variants as profiling
from fastnet.profiling.diagnosis import RULES, Facts, diagnose
from fastnet.profiling.loop_bounds import Bounds, bounds, kinds_of


def loop_of(body: str) -> Bounds:
    """The bounds of a loop with this body, as the compiler prints it."""
    lines = "".join(f"\t{line.strip()}\n" for line in body.strip().splitlines())
    found = machine_code.inner_loop(f"kernel:\n.LBB0_1:\n{lines}\tjne .LBB0_1\n")
    assert found is not None
    return bounds(found)


def fmas(count: int, source: str = "%ymm14") -> str:
    """FMAs on registers, each of them a sum of its own."""
    return "\n".join(f"vfmadd231ps {source}, %ymm15, %ymm{i}" for i in range(count))


TILE = """
vmovups (%rax), %ymm13
vmovups 32(%rax), %ymm14
vbroadcastss (%rdx), %ymm15
""" + fmas(12)

C_IN_MEMORY = """
vmovups (%rsi,%rax,4), %ymm1
vfmadd213ps (%rdi,%rax,4), %ymm0, %ymm1
vmovups %ymm1, (%rdi,%rax,4)
addq $8, %rax
"""

ADDRESS_CHAIN = fmas(12) + "".join("\naddq %r8, %rax\nprefetcht0 (%rax)" for _ in range(6))
ONE_SUM = "vmovups (%rax), %ymm1\nvfmadd231ps (%rdx), %ymm1, %ymm0\naddq $32, %rax\naddq $32, %rdx"
SUM_IN_MEMORY = "vmovss (%rax), %xmm0\nvfmadd213ss (%rcx), %xmm1, %xmm0\nvmovss %xmm0, (%rcx)\naddq $4, %rax"
LOADS = "vmovups (%rdi), %ymm8\n" + "\n".join(f"vfmadd231ps {32 * i}(%rax), %ymm0, %ymm{i}" for i in range(1, 8))
DIVISIONS = "vaddps %ymm0, %ymm1, %ymm2\nvdivps %ymm2, %ymm3, %ymm4"
SHUFFLES = fmas(4) + "".join(f"\nvpermilps $1, %ymm13, %ymm{i}" for i in range(5, 12)) * 3


@pytest.mark.parametrize(
    ("body", "binding", "cycles"),
    [
        (TILE, "arithmetic", 6.0),
        (C_IN_MEMORY, "loads", 1.0),
        (ADDRESS_CHAIN, "address chain", 6.0),
        (ONE_SUM, "sum chain", 4.0),
        (SUM_IN_MEMORY, "sum chain", 8.0),
        (LOADS, "loads", 4.0),
        (DIVISIONS, "divisions", 5.0),
        (SHUFFLES, "instructions", 26 / 6),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value.strip("\n") else "",
)
def test_bounds_name_what_takes_longest(body: str, binding: str, cycles: float) -> None:
    found = loop_of(body)
    assert (found.binding, found.cycles[found.binding]) == (binding, pytest.approx(cycles))
    assert found.ceiling == pytest.approx(found.cycles["arithmetic"] / cycles)


def test_chains_end_where_a_register_is_written_anew() -> None:
    assert loop_of("vxorps %xmm0, %xmm0, %xmm0\nvaddps %ymm0, %ymm1, %ymm0").cycles["sum chain"] == 0
    assert loop_of("vaddps %ymm0, %ymm1, %ymm0").cycles["sum chain"] == 4
    assert loop_of("vaddps %ymm2, %ymm1, %ymm0").cycles["sum chain"] == 0
    assert loop_of("vaddps %ymm0, %ymm1, %ymm0\nleaq 8(%rax,%rax), %rax\nincl %eax").cycles["address chain"] == 2
    assert loop_of("vaddps %ymm0, %ymm1, %ymm0\nmovq %rdx, %rax\naddq $8, %rax").cycles["address chain"] == 0


@pytest.mark.parametrize(
    ("instruction", "kinds"),
    [
        ("vmovups (%rax,%rcx,4), %ymm0", ["loads"]),
        ("vmovups %ymm0, 32(%rax)", ["stores"]),
        ("vfmadd231ps (%rax), %ymm0, %ymm1", ["arithmetic", "loads"]),
        ("vmaskmovps %ymm1, %ymm2, (%rax)", ["stores"]),
        ("vdivpd %ymm1, %ymm2, %ymm3", ["arithmetic", "divisions"]),
        ("leaq 8(%rax,%rcx), %rdx", []),
        ("prefetcht0 (%rax)", []),
        ("cmpq (%rax), %rdx", ["loads"]),
        ("addq $1, (%rax)", ["loads", "stores"]),
        ("jne .LBB0_1", []),
        ("ldp q1, q4, [x8, #32]", ["loads", "loads"]),
        ("str q1, [x8]", ["stores"]),
        ("fmla v0.4s, v1.4s, v2.s[0]", ["arithmetic"]),
    ],
)
def test_instructions_are_counted_by_kind(instruction: str, kinds: list[str]) -> None:
    assert kinds_of(instruction) == kinds


# --------------------------------------------------------------------------------------------- sentences

SLOW = Facts(0.4, "compute", "L1", vector_bytes=32)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (replace(SLOW, fraction=0.9), "at the limit: 90% of what the FMA units can do"),
        (Facts(0.9, "memory bandwidth", "memory"), "waits for memory: 0.90 of its bandwidth"),
        (replace(SLOW, call_share=0.4), "call overhead is 40% of the time"),
        (replace(SLOW, threads=2), "computes on 1 of 2 threads"),
        (replace(SLOW, vector_bytes=4), "not vectorised: it computes on single numbers of 4 bytes"),
        (replace(SLOW, vector_bytes=16), "uses vectors of 16 bytes, of the 32 that this CPU has"),
        (replace(SLOW, lanes_used=0.5), "50% of the lanes masked or left over"),
        (replace(SLOW, loop=loop_of(C_IN_MEMORY)), "bound by L1: each FMA loads and stores C (2 loads and 1 stores"),
        (
            replace(SLOW, loop=loop_of(ADDRESS_CHAIN), fraction=0.8),
            "the chain of address additions is as long as the FMAs: 6 cycles for 12 floating-point instructions",
        ),
        (replace(SLOW, loop=loop_of(ONE_SUM), fraction=0.1), "each sum waits for the one before: 4 cycles for 1"),
        (replace(SLOW, loop=loop_of(LOADS), fraction=0.8), "bound by loads: 8 for 7 floating-point instructions"),
        (replace(SLOW, loop=loop_of(SHUFFLES)), "bound by instructions: 26 for 4 floating-point instructions"),
        (Facts(0.1, "L2 bandwidth", "L2", vector_bytes=32, loop=loop_of(DIVISIONS)), "bound by divisions"),
        (Facts(0.1, "L2 bandwidth", "L2", vector_bytes=32, loop=loop_of(TILE)), "bound by its arithmetic, not by"),
        (
            replace(SLOW, loop=loop_of(TILE), level="L3"),
            "40% of the limit, where its inner loop allows 100%: it waits for data from L3",
        ),
        (
            replace(SLOW, loop=loop_of(TILE)),
            "40% of the limit, where its inner loop allows 100%: the time goes to what surrounds the loop",
        ),
        (replace(SLOW, loop=loop_of(TILE), fraction=0.7), "70% of the limit; the inner loop itself could reach it"),
        (replace(SLOW, vector_bytes=0), "40% of the limit; without an inner loop to read"),
    ],
)
def test_each_rule_says_its_sentence(facts: Facts, sentence: str) -> None:
    assert diagnose(facts).startswith(sentence)
    assert "\n" not in diagnose(facts)


def test_rules_are_tried_in_their_order() -> None:
    everything = replace(SLOW, call_share=0.5, lanes_used=0.1, threads=2, loop=loop_of(C_IN_MEMORY))
    for rule in RULES:
        if said := rule(everything):
            assert diagnose(everything) == said
            break
    assert diagnose(everything).startswith("call overhead")


def test_lanes_are_those_of_the_matrices_that_a_call_fills() -> None:
    def share(*shape: int) -> float:
        return profiling.lanes_used(SampleInput((np.zeros(9), np.zeros(shape)), (1,)), 8)

    assert share(5, 16) == 1.0
    assert share(5, 4) == 0.5
    assert share(5, 17) == pytest.approx(17 / 24)
    assert share(3) == 1.0, "a vector's rest is a single one"
    assert share(0, 3) == 1.0


# ------------------------------------------------------------------------------------ variants made for it


def sum_in_memory(A: Any, B: Any, C: Any) -> None:
    for i in range(A.shape[0]):
        for j in range(B.shape[1]):
            C[i, j] = 0
            for k in range(A.shape[1]):
                C[i, j] += A[i, k] * B[k, j]


def row_in_memory(A: Any, B: Any, C: Any) -> None:
    C[:] = 0
    for i in range(A.shape[0]):
        for k in range(A.shape[1]):
            for j in range(B.shape[1]):
                C[i, j] += A[i, k] * B[k, j]


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [(sum_in_memory, "not vectorised"), (row_in_memory, "bound by L1: each FMA loads and stores C")],
)
def test_variants_made_to_show_a_fault_are_told_so(kernel: Any, sentence: str) -> None:
    compiled = numba.njit(fastmath={"contract"}, error_model="numpy")(kernel)
    case = Case((32, 32, 32), "fits L1", "nn")
    assert 0 <= check(Variant("matmul", kernel.__name__, compiled), case, "float32") < 1
    loop = machine_code.inner_loop("\n".join(compiled.inspect_asm().values()))
    assert loop is not None
    # As on a CPU without wider vectors: LLVM prefers 32 bytes on Intel CPUs with 64, which would be said first.
    facts = replace(SLOW, machine_vector_bytes=max(16, loop.vector_bytes), vector_bytes=loop.vector_bytes)
    assert re.match(sentence, diagnose(replace(facts, loop=bounds(loop))))
