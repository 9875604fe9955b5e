"""What the CUDA kernels become, without a card: compiled to PTX, assembled by ``ptxas``, and looked at.

The extra ``cuda12`` brings numba-cuda's compiler and the toolkit's ``ptxas``.
``python -m fastnet.kernels.cuda.ptx_report`` compiles every kernel for sm_80 and sm_90, prints a line for each, and
fails where one spills, computes in float64 what is float32, approximates (fast math), needs more registers or
shared memory than its launch can have, or reads memory by less than 16 bytes at a time where it should not.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from ..specs.losses import LOSSES
from ..specs.optimizers import UPDATES
from . import arguments, training_step
from .device import CUDA_KERNELS, SIMULATED, cuda, register_limit
from .launch import GEMM_VARIANTS, gemm_kernels
from .rules import CONSTANTS
from .variants import VARIANTS

SHARED_BYTES = {(8, 0): 164 << 10, (9, 0): 228 << 10}
"""Of an SM, by compute capability: the CUDA C++ Programming Guide's table."""

DTYPES = ("float32", "float64")

ADDS_UP = ("loss_kernel", "epoch_squares", "epoch_clip", "epoch_close", "resident")
"""Kernels that add up in float64 whatever the dtype."""


APPROXIMATE = re.compile(r"\b(?:div\.full|(?:div|tanh|sin|cos|lg2|sqrt|rsqrt)\.approx)[\w.]*")
"""Instructions that only fast math emits. ``ex2.approx`` and ``rcp.approx`` may stand, since libdevice's own functions
use them without fast math too; so a fast exp alone is not seen."""


@dataclass(frozen=True)
class Report:
    """One kernel, compiled.

    Attributes
    ----------
    kernel, dtype : str
    cc : tuple of int
        Compute capability.
    threads, blocks : int
        Of a block, and blocks that are to share an SM.
    registers : int
        A thread.
    shared_bytes : int
        A block.
    shared_alignment : int
        Bytes, of the array in shared memory that has the least; 0 where there is none.
    spill_bytes : int
        Stored and loaded, a thread.
    wide_loads : int
        16-byte loads from global and shared memory in the code.
    double_operations : int
        Instructions over float64 in the code.
    approximations : int
        Instructions that only fast math emits.
    """

    kernel: str
    dtype: str
    cc: tuple[int, int]
    threads: int
    blocks: int
    registers: int
    shared_bytes: int
    shared_alignment: int
    spill_bytes: int
    wide_loads: int
    double_operations: int
    approximations: int


def _types(function: Callable[..., Any], dtype: str) -> tuple[Any, ...]:
    """Return the Numba types of a kernel's arguments, by their names, which all kernels use for the same things."""
    from numba.cuda import types
    from numba.cuda.np.numpy_support import from_dtype

    real = types.float32 if dtype == "float32" else types.float64
    i, floats, doubles = types.int64, types.Array(real, 1, "C"), types.Array(types.float64, 1, "C")
    ints = types.Array(i, 1, "C")
    records = {"context": training_step.DEVICE_CONTEXT, "biases": training_step.BIAS_SUM}
    records |= {"gemms": arguments.GEMM_ARGS, "progress": arguments.DEVICE_PROGRESS}
    known = {name: types.Array(from_dtype(fields), 1, "C") for name, fields in records.items()}
    known |= dict.fromkeys(("code", "size", "rows", "k", "count", "part_rows", "vectors", "steps"), i)
    known |= dict.fromkeys(("labels", "order", "correct"), ints) | dict.fromkeys(("totals", "norms", "result"), doubles)
    known["args"] = types.NamedUniTuple(i, len(arguments.GemmArgs._fields), arguments.GemmArgs)
    known |= {"constants": types.UniTuple(real, CONSTANTS), "derives": types.boolean}
    fields = [known.get(name, floats) for name in training_step.StepArrays._fields]
    known["step"] = types.NamedTuple(fields, training_step.StepArrays)
    return tuple(known.get(name, floats) for name in signature(function).parameters)


def _ptxas() -> str:
    """Return the path of the toolkit's assembler: among the installed wheels, or on the path."""
    wheels = importlib.util.find_spec("nvidia")
    folders = (wheels and wheels.submodule_search_locations) or ()
    files = (str(file) for folder in folders for file in Path(folder).glob("*/bin/ptxas*"))
    found = next(files, None) or shutil.which("ptxas")
    if found is None:
        raise FileNotFoundError('ptxas is not installed: pip install "numba-cuda[cu12]>=0.30,<0.31"')
    return found


def _compile(name: str, dtype: str, cc: tuple[int, int]) -> Report:
    """Compile a kernel of CUDA_KERNELS to PTX and assemble it; RuntimeError where ptxas refuses."""
    function, threads, blocks = CUDA_KERNELS[name]
    # A device function asks the present card for its architecture; offline there is none.
    card = SimpleNamespace(compute_capability=cc)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=card):
        ptx, _ = cuda.compile_ptx(function, _types(function, dtype), cc=cc)
    limit = register_limit(threads, blocks)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [_ptxas(), "-v", f"-arch=sm_{cc[0]}{cc[1]}", f"-maxrregcount={limit}", str(source)]
        made = subprocess.run([*command, "-o", str(source) + ".cubin"], capture_output=True, text=True)
    if made.returncode != 0:
        raise RuntimeError(f"ptxas refused {name} for sm_{cc[0]}{cc[1]}: {made.stderr.strip()}")

    def sum_of(pattern: str) -> int:
        """Return the sum of the numbers that a pattern finds in what ptxas said."""
        return sum(map(int, re.findall(pattern, made.stderr)))

    return Report(
        kernel=name,
        dtype=dtype,
        cc=cc,
        threads=threads,
        blocks=blocks,
        registers=sum_of(r"Used (\d+) registers"),
        shared_bytes=sum_of(r"(\d+) bytes smem"),
        shared_alignment=min(map(int, re.findall(r"\.shared \.align (\d+)", ptx)), default=0),
        spill_bytes=sum_of(r"(\d+) bytes spill"),
        wide_loads=len(re.findall(r"\bld(?:\.\w+)*\.(?:v4\.[fb]32|v2\.[fb]64)", ptx)),
        double_operations=len(re.findall(r"^\s*(?:@%p\d+ )?\w[\w.]*\.f64\b", ptx, re.MULTILINE)),
        approximations=len(APPROXIMATE.findall(ptx)),
    )


def _product_kernels(variant: str, dtype: str) -> tuple[str, ...]:
    """Return the names of the kernels of a variant's products, which this enters in CUDA_KERNELS."""
    return tuple(made.kernel.__name__ for made in gemm_kernels(variant, np.dtype(dtype)))


def _kernels(operation: str, variant: str, dtype: str) -> tuple[str, ...]:
    """Return the names of the kernels that a variant launches."""
    if operation in ("matmul", "dense_forward"):
        return _product_kernels(variant, dtype)
    if operation == "dense_backward_batch":
        return (*_product_kernels(variant, dtype), "gate_kernel", "sums_kernel", "reduce_kernel")
    chosen = {"softmax": "softmax_kernel", "accuracy": "loss_kernel"} | dict.fromkeys(LOSSES, "loss_kernel")
    chosen |= dict.fromkeys(UPDATES, "update_kernel")
    chosen |= {f"{name}_derivative": "loss_gradient_kernel" for name in LOSSES}
    return (chosen.get(operation, "activation_kernel"),)


def report(operation: str, variant: str, dtype: str, cc: tuple[int, int] = (9, 0)) -> tuple[Report, ...]:
    """Compile what a CUDA variant launches, and say what it needs.

    Parameters
    ----------
    operation, variant : str
        As the table names them, such as "matmul" and "cuda".
    dtype : str
        "float32" or "float64".
    cc : tuple of int, default (9, 0)
        Compute capability to compile for.

    Returns
    -------
    tuple of Report
        One for each kernel; of a product one for each tile size.

    Raises
    ------
    ValueError
        If there is no such CUDA variant.
    RuntimeError, FileNotFoundError
        If the compiler or ``ptxas`` is missing, or refuses.
    """
    if (operation, variant) not in VARIANTS:
        raise ValueError(f"there is no CUDA variant {variant!r} of {operation!r}")
    if SIMULATED:
        raise RuntimeError("the simulator compiles nothing; unset NUMBA_ENABLE_CUDASIM")
    if importlib.util.find_spec("numba_cuda") is None:
        raise RuntimeError(
            'compiling for a card needs numba-cuda: pip install "numba-cuda[cu12]>=0.30,<0.31"; no card is needed'
        )
    return tuple(_compile(name, dtype, cc) for name in _kernels(operation, variant, dtype))


def all_reports(dtype: str, cc: tuple[int, int]) -> list[Report]:
    """Compile every kernel, the training step's included.

    Parameters
    ----------
    dtype : str
        "float32" or "float64".
    cc : tuple of int
        Compute capability, a key of SHARED_BYTES.

    Returns
    -------
    list of Report
        Those of the product variants first, then the others by name.

    Raises
    ------
    RuntimeError, FileNotFoundError
        If the compiler or ``ptxas`` is missing, or refuses.
    """
    products = {kind: [name for v in GEMM_VARIANTS for name in _product_kernels(v, kind)] for kind in DTYPES}
    others = sorted(set(CUDA_KERNELS).difference(*products.values()))
    return [_compile(name, dtype, cc) for name in (*products[dtype], *others)]


def faults(found: Report) -> list[str]:
    """Return what is wrong with a kernel, a phrase for each fault; nothing, if all is well."""
    shared, registers, blocks = found.shared_bytes, found.registers, found.blocks
    mixed = found.dtype == "float32" and found.double_operations and found.kernel not in ADDS_UP
    is_fast = re.search(r"\d+x\d+x\d+", found.kernel) is not None
    unaligned = is_fast and found.shared_alignment % arguments.VECTOR_BYTES
    few = is_fast and found.wide_loads < 4  # of A and of B, from global and from shared memory
    crowded = registers * found.threads * blocks > 65536
    large = shared > 48 << 10 or shared * blocks > SHARED_BYTES[found.cc]
    checks = (
        (found.spill_bytes, f"spills {found.spill_bytes} bytes"),
        (mixed, f"{found.double_operations} float64 instructions in a float32 kernel"),
        (found.approximations, f"{found.approximations} instructions of fast math"),
        (crowded, f"{registers} registers do not fit {found.threads} threads x {blocks}"),
        (large, f"{shared} bytes of shared memory are too many"),
        (unaligned, f"shared memory aligned to {found.shared_alignment} bytes, read by {arguments.VECTOR_BYTES}"),
        (few, f"{found.wide_loads} loads of 16 bytes; expected 4 or more"),
    )
    return [said for wrong, said in checks if wrong]


def main() -> int:
    """Compile everything for both architectures, and print a line for each kernel.

    Returns
    -------
    int
        The exit status: 0; 1 where a kernel has `faults`; 2 in the simulator.
    """
    if SIMULATED:
        print("the simulator compiles nothing; unset NUMBA_ENABLE_CUDASIM", file=sys.stderr)
        return 2
    bad = 0
    print(f"{'kernel':28} {'dtype':8} sm   threads regs shared spills wide f64")
    for cc in SHARED_BYTES:
        for dtype in DTYPES:
            for r in all_reports(dtype, cc):
                wrong = "; ".join(faults(r))
                bad += bool(wrong)
                sizes = f"{r.threads:7} {r.registers:4} {r.shared_bytes:6} {r.spill_bytes:6} {r.wide_loads:4}"
                print(f"{r.kernel:28} {r.dtype:8} {cc[0]}.{cc[1]} {sizes} {r.double_operations:3} {wrong}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
