"""What waiting threads call of the system."""

import ctypes
import os

import llvmlite.binding as llvm
import numba
import pytest

from fastnet.kernels.cpu.threads import atomics


@pytest.mark.compiled
@pytest.mark.skipif(os.name == "nt", reason="there the function of this name is the system's")
def test_threads_yield_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """By SwitchToThread, in place of which a function is called that counts."""
    calls = []

    @ctypes.CFUNCTYPE(ctypes.c_int)
    def switch_to_thread() -> int:
        calls.append(1)
        return 0

    llvm.add_symbol("SwitchToThread", ctypes.cast(switch_to_thread, ctypes.c_void_p).value)
    monkeypatch.setattr(atomics, "YIELD", "SwitchToThread")

    @numba.njit  # type: ignore[untyped-decorator]
    def wait() -> None:
        atomics.sched_yield()

    wait()
    assert calls == [1]
