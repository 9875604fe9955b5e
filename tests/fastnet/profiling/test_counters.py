"""Hardware counters and llvm-mca: read from readings and answers made up, and from this machine where it has them."""

import os
import shutil
import struct
from typing import Any

import pytest

from fastnet.kernels.jit import target
from fastnet.profiling import counters, llvm_mca


def reading(count: int, wanted: int, had: int) -> bytes:
    return struct.pack("<QQQ", count, wanted, had)


def test_differences_are_scaled_to_the_time_wanted() -> None:
    assert counters.difference(reading(100, 10, 10), reading(300, 20, 20)) == 200
    assert counters.difference(reading(100, 10, 10), reading(300, 30, 20)) == 400, "counted half of the time"
    assert counters.difference(reading(0, 10, 0), reading(0, 20, 0)) is None, "never counted"


def test_counts_are_described_with_the_instructions_of_a_cycle() -> None:
    counts = {"cycles": 1000.0, "instructions": 2500.0, "L1 misses": 12.0}
    assert counters.describe(counts) == "1e+03 cycles, 2.5e+03 instructions, 12 L1 misses, 2.50 instructions a cycle"
    assert counters.describe({"cache misses": 3.0}) == "3 cache misses"
    assert counters.describe({}) == ""


def test_counters_are_read_around_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files stand in for the counters: what they hold at the first and the second reading is known."""
    files, calls = {}, []
    for name, (before, after) in {"cycles": (100, 1100), "L1 misses": (7, 27)}.items():
        end, files[name] = os.pipe()[::-1]
        os.write(end, reading(before, 1, 1) + reading(after, 2, 2))
        os.close(end)
    monkeypatch.setattr(counters, "_open", lambda: files)
    assert counters.measure(lambda: calls.append(1), times=10) == {"cycles": 100.0, "L1 misses": 2.0}
    assert len(calls) == 11
    for file in files.values():
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)


def test_this_machine_counts_or_says_why_not() -> None:
    try:
        found = counters.measure(lambda: sum(range(10_000)))
    except counters.NotPermittedError as error:
        said = str(error)  # either is right, by the machine
        assert said.startswith("no hardware counters")
        assert "docs/" not in said, "a wheel has no docs/"
    else:
        assert found
        assert found.keys() <= counters.EVENTS.keys()
        assert found.get("instructions", 1e6) > 10_000


# -------------------------------------------------------------------------------------------- llvm-mca

ANSWER: dict[str, Any] = {
    "CodeRegions": [
        {
            "Instructions": ["vfmadd231ps %ymm0, %ymm1, %ymm2", "jne .L1"],
            "SummaryView": {"TotalCycles": 420, "Iterations": 100},
            "ResourcePressureView": {
                "ResourcePressureInfo": [
                    {"InstructionIndex": 0, "ResourceIndex": 0, "ResourceUsage": 0.5},
                    {"InstructionIndex": 0, "ResourceIndex": 1, "ResourceUsage": 0.25},
                    {"InstructionIndex": 1, "ResourceIndex": 1, "ResourceUsage": 0.75},
                    {"InstructionIndex": 2, "ResourceIndex": 0, "ResourceUsage": 0.5},
                ]
            },
        }
    ],
    "TargetInfo": {"Resources": ["P0", "P.\x01"]},
}
LOOP = ".LBB0_1:\n" + "".join(f"    vfmadd231ps %xmm14, %xmm15, %xmm{i}\n" for i in range(12)) + "    jne .LBB0_1\n"


def test_llvm_mcas_answer_is_read() -> None:
    found = llvm_mca.parse(ANSWER)
    assert found == llvm_mca.Simulation(4.2, {"P.1": 1.0, "P0": 0.5})
    assert found.sentence(1) == "4.20 cycles an iteration; busiest ports: P.1 1.00"


def test_without_llvm_mca_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert llvm_mca.simulate(LOOP, "znver3") is None


@pytest.mark.skipif(
    shutil.which("llvm-mca") is None or not target.IS_X86, reason="llvm-mca is not installed, or not for x86"
)
def test_llvm_mca_simulates_a_loop() -> None:
    found = llvm_mca.simulate(LOOP, "haswell")
    assert found is not None
    assert found.cycles == pytest.approx(6.0, abs=0.5), "12 FMAs on two ports"
    assert max(found.ports.values()) == pytest.approx(6.0, abs=0.6)
    assert llvm_mca.simulate(LOOP, "no-such-cpu") is None
    assert llvm_mca.simulate("    nonsense %ymm0\n", "haswell") is None
