"""Names of compiled kernels for perf: read from object files, and written beside the addresses that are called."""

import os
import subprocess
import sys

import llvmlite.binding as llvm
import pytest

from fastnet.kernels.jit.symbols import demangle, function_sizes

MODULE = """
define i64 @_ZN7fastnet5tests3addE(i64 %x) { %y = add i64 %x, 1  ret i64 %y }
define weak i64 @shared(i64 %x) { %y = mul i64 %x, 77  %z = xor i64 %y, 5  ret i64 %z }
define internal i64 @inside(i64 %x) noinline { %y = mul i64 %x, 3  ret i64 %y }
define i64 @outer(i64 %x) { %y = call i64 @inside(i64 %x)  ret i64 %y }
declare i64 @elsewhere(i64)
@number = global i64 5
"""


@pytest.mark.skipif(sys.platform != "linux", reason="object files are ELF on Linux")
def test_function_sizes_are_those_of_the_functions_that_others_see() -> None:
    machine = llvm.Target.from_default_triple().create_target_machine()
    found = function_sizes(machine.emit_object(llvm.parse_assembly(MODULE)))
    assert found.keys() == {"_ZN7fastnet5tests3addE", "shared", "outer"}
    assert all(1 < size < 64 for size in found.values())
    assert function_sizes(b"MZ, no ELF file") == {}


def test_names_are_demangled() -> None:
    assert demangle("_ZN7fastnet5tests3addE") == "fastnet.tests.add"
    assert demangle("fastnet.tile.float32.6x2nx32") == "fastnet.tile.float32.6x2nx32"


SCRIPT = """
import os, re, sys
import numba, numpy as np
from fastnet.kernels import matmul
from fastnet.kernels.cpu.gemm.gemm import multiply
from fastnet.kernels.jit.numba_internals import code_address

def lines():
    with open(f"/tmp/perf-{os.getpid()}.map") as file:
        return [re.fullmatch(r"([0-9a-f]+) ([0-9a-f]+) (.+)\\n", line).groups() for line in file]

def check():
    found = lines()
    assert len(found) == len(set(found)), "each once"
    named = {int(address, 16): name for address, _, name in found}
    name = named[code_address(multiply, multiply.signatures[0])]
    assert name.startswith("fastnet.kernels.cpu.gemm.gemm.multiply"), named
    assert any(name.startswith("fastnet.tile.float32.") for name in named.values())
    assert all(0 < int(size, 16) < 1 << 20 for _, size, _ in found)

with open(f"/tmp/perf-{os.getpid()}.map", "w") as file:
    file.write("left behind by another process\\n")
A = np.ones((8, 8), np.float32)
assert (matmul(A, A, variant="simd") == 8).all()
check()
child = os.fork()
if child == 0:
    check()
    os.remove(f"/tmp/perf-{os.getpid()}.map")
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
os.remove(f"/tmp/perf-{os.getpid()}.map")
"""


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="perf is Linux'")
@pytest.mark.parametrize("start", ["compiled", "from the cache"])
def test_perf_map_names_the_kernels(start: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "perf-map-cache"  # the second start finds what the first has compiled
    environment = {**os.environ, "FASTNET_PERF_MAP": "1", "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_the_variable_nothing_is_written() -> None:
    script = "import os; from fastnet.kernels.jit import perf_map; assert not os.path.exists(perf_map.path())"
    script += "; assert not perf_map.WANTED"
    for value in ("", "0"):
        environment = {**os.environ, "FASTNET_PERF_MAP": value}
        done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
        assert done.returncode == 0
