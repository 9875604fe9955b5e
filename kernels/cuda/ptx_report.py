"""Compiles and links the CUDA kernels without a card, as their first launch does, and inspects the results.

The extra ``cuda12`` brings numba-cuda's compiler and nvJitLink, its linker, which need no driver.
``python -m fastnet.kernels.cuda.ptx_report`` compiles every kernel for sm_80, sm_90a and sm_100a, prints a line for
each, and fails if one spills, computes in float64 what is float32, approximates (fast math), needs more registers
or shared memory than its launch can have, or lacks 16-byte loads that it should have. The PTX is searched as text;
registers, local and shared memory are read from the machine code that a launch would load.
"""

import contextlib
import importlib.util
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from ..specs.losses import LOSSES
from ..specs.optimizers import UPDATES
from . import arguments, training_step
from .device import CUDA_KERNELS, SIMULATED
from .launch import GEMM_VARIANTS, MODES, gemm_kernels
from .rules import CONSTANTS
from .variants import VARIANTS

SHARED_BYTES = {(8, 0): 164 << 10, (9, 0): 228 << 10, (10, 0): 228 << 10}
"""Shared memory of an SM, by compute capability: the CUDA C++ Programming Guide's table."""

DTYPES = ("float32", "float64")

ADDS_UP = ("loss_kernel", "epoch_squares", "epoch_clip", "epoch_penalty", "epoch_close", "resident")
"""Kernels that accumulate in float64 whatever the dtype."""

ROW_SUMS = {"softmax_kernel": 10, "loss_gradient_kernel": 10, "epoch_losses": 20, "epoch_dropout": 2}
"""Kernels that use float64 only to add up the parts of a row's exponentials, or to read dropout's scale, and the number
of instructions that this takes."""

APPROXIMATE = re.compile(r"\b(?:div\.full|(?:div|tanh|sin|cos|lg2|sqrt|rsqrt)\.approx)[\w.]*|__nv_fast_\w+")
"""Matches what only fast math emits, in PTX and in the LLVM IR that it comes from. ``ex2.approx`` and ``rcp.approx``
may be in PTX, since libdevice's accurate functions use them; a fast exp shows in the IR, as ``__nv_fast_expf``."""


@dataclass(frozen=True)
class Report:
    """The figures of one compiled kernel.

    Attributes
    ----------
    kernel, dtype : str
    cc : tuple of int
        Compute capability.
    threads, blocks : int
        Threads per block, and blocks that should share an SM.
    registers : int
        Per thread.
    shared_bytes : int
        Per block.
    shared_alignment : int
        Least alignment of an array in shared memory, in bytes; 0 if there is none.
    spill_bytes : int
        Local memory per thread: spilled registers, and arrays that are not in registers.
    wide_loads : int
        16-byte loads from global and shared memory in the code.
    double_operations : int
        float64 instructions in the code.
    approximations : int
        Instructions and calls that only fast math emits.
    target : str
        Architecture of the code, such as sm_90a.
    shared_loads : int
        Those of ``wide_loads`` that explicitly read shared memory: ``ld.shared.v4``.
    loop : int
        PTX instructions of the `main_loop`.
    branches : int
        Forward branches among these, so not the loop's own.
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
    target: str = ""
    shared_loads: int = 0
    loop: int = 0
    branches: int = 0


def _types(function: Callable[..., Any], dtype: str) -> tuple[Any, ...]:
    """Return the Numba types of a kernel's arguments from their names, which mean the same in all kernels."""
    from numba.cuda import types
    from numba.cuda.np.numpy_support import from_dtype

    real = types.float32 if dtype == "float32" else types.float64
    i, floats, doubles = types.int64, types.Array(real, 1, "C"), types.Array(types.float64, 1, "C")
    ints = types.Array(i, 1, "C")
    records = {"context": training_step.DEVICE_CONTEXT, "sums": training_step.LAYER_SUMS}
    records |= {"drops": training_step.DROPOUT, "gemms": arguments.GEMM_ARGS, "progress": arguments.DEVICE_PROGRESS}
    known = {name: types.Array(from_dtype(fields), 1, "C") for name, fields in records.items()}
    known |= dict.fromkeys(("code", "size", "rows", "k", "count", "part_rows", "vectors", "steps", "index"), i)
    known |= dict.fromkeys(("labels", "order", "correct"), ints) | dict.fromkeys(("totals", "norms", "result"), doubles)
    known["args"] = types.NamedUniTuple(i, len(arguments.GemmArgs._fields), arguments.GemmArgs)
    known |= {"constants": types.UniTuple(real, CONSTANTS), "derives": types.boolean}
    fields = [known.get(name, floats) for name in training_step.StepArrays._fields]
    known["step"] = types.NamedTuple(fields, training_step.StepArrays)
    return tuple(known.get(name, floats) for name in signature(function).parameters)


@contextlib.contextmanager
def card_of(cc: tuple[int, int]) -> Iterator[None]:
    """Make numba-cuda compile as it would on a card of this compute capability, without such a card."""
    card = SimpleNamespace(compute_capability=cc, id=0)
    with (
        mock.patch("numba.cuda.dispatcher.get_current_device", return_value=card),
        mock.patch("numba.cuda.codegen.devices.get_context", return_value=SimpleNamespace(device=card)),
    ):
        yield


def compiled(dispatcher: Any, types: tuple[Any, ...], cc: tuple[int, int]) -> tuple[str, str, bytes]:
    """Compile and link a kernel with the flags of its dispatcher, as its first launch on a card does.

    Parameters
    ----------
    dispatcher : dispatcher
        A result of `device.kernel`.
    types : tuple
        Numba's types of the arguments.
    cc : tuple of int
        Compute capability; numba-cuda adds the architecture's suffix, as in sm_90a, as it does on a card.

    Returns
    -------
    ir, ptx, cubin : str, str, bytes
        LLVM IR, the PTX compiled from it, and the machine code assembled from that, which a launch loads.
    """
    from numba.cuda.dispatcher import _Kernel

    with card_of(cc):
        library = _Kernel(dispatcher.py_func, types, **dispatcher.targetoptions).library
        return library.get_llvm_str(), library.get_asm_str(), library.get_cubin().code


class Cubin(NamedTuple):
    """Figures that the loader reads from a kernel's machine code, an ELF file."""

    registers: int  # per thread
    local_bytes: int  # per thread: spilled registers, and arrays that are not in registers
    shared_bytes: int  # per block


def read_cubin(code: bytes) -> Cubin:
    """Read the resources that one kernel needs from its cubin.

    Source: the section ``.nv.info``: entries of format, attribute, size and data, which are a symbol and a number;
    EIATTR_REGCOUNT is 0x2f, EIATTR_FRAME_SIZE 0x11.
    """
    (table,), (width, count, names) = struct.unpack_from("<Q", code, 0x28), struct.unpack_from("<HHH", code, 0x3A)
    sections = [struct.unpack_from("<II4Q", code, table + i * width) for i in range(count)]
    found, shared = {0x2F: 0, 0x11: 0}, 0
    for name_at, _, _, _, at, size in sections:
        start = sections[names][4] + name_at
        name = code[start : code.index(0, start)].decode()
        shared += size if name.startswith(".nv.shared.") and ".reserved" not in name else 0
        end = at + size if name == ".nv.info" else at
        while at < end:
            kind, attribute, length = struct.unpack_from("<BBH", code, at)
            if attribute in found:
                found[attribute] = max(found[attribute], struct.unpack_from("<II", code, at + 4)[1])
            at += 4 + (length if kind == 4 else 0)
    return Cubin(found[0x2F], found[0x11], shared)


def main_loop(ptx: str) -> tuple[list[str], int]:
    """Return the instructions of the shortest loop that has a barrier, and how many of them branch forward.

    Without such a loop there are none.
    """
    lines = [line.split("//")[0].strip() for line in ptx.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\$\w+:", line)}
    targets = {
        i: labels[found[1]] for i, line in enumerate(lines) if (found := re.search(r"\bbra\b\S*\s+(\$\w+)", line))
    }
    loops = [range(target, i + 1) for i, target in targets.items() if target < i]
    loop = min((loop for loop in loops if any("bar.sync" in lines[i] for i in loop)), key=len, default=range(0))
    return [lines[i] for i in loop if lines[i].endswith(";")], sum(targets.get(i, 0) > i for i in loop)


def _compile(name: str, dtype: str, cc: tuple[int, int]) -> Report:
    """Compile and link a kernel of CUDA_KERNELS; RuntimeError if numba-cuda or the linker fails."""
    function, dispatcher, threads, blocks = CUDA_KERNELS[name]
    try:
        ir, ptx, cubin = compiled(dispatcher, _types(function, dtype), cc)
    except Exception as error:  # its class is Numba's, NVVM's or the linker's own
        raise RuntimeError(f"numba-cuda cannot compile {name} for sm_{cc[0]}{cc[1]}: {error}") from error
    registers, local_bytes, shared_bytes = read_cubin(cubin)
    wide = re.findall(r"\bld((?:\.\w+)*)\.(?:v4\.[fb]32|v2\.[fb]64)", ptx)
    (target,) = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)
    loop, branches = main_loop(ptx)
    return Report(
        kernel=name,
        dtype=dtype,
        cc=cc,
        threads=threads,
        blocks=blocks,
        registers=registers,
        shared_bytes=shared_bytes,
        shared_alignment=min(map(int, re.findall(r"\.shared \.align (\d+)", ptx)), default=0),
        spill_bytes=local_bytes,
        wide_loads=len(wide),
        double_operations=len(re.findall(r"^\s*(?:@%p\d+ )?\w[\w.]*\.f64\b", ptx, re.MULTILINE)),
        approximations=len(APPROXIMATE.findall(ptx)) + len(set(APPROXIMATE.findall(ir))),
        target=target,
        shared_loads=wide.count(".shared"),
        loop=len(loop),
        branches=branches,
    )


def _product_kernels(variant: str, dtype: str) -> tuple[str, ...]:
    """Return the names of a GEMM variant's kernels, and register these in CUDA_KERNELS."""
    names: list[str] = []
    for made in gemm_kernels(variant, np.dtype(dtype)):
        names.append(made.kernel.__name__)
        if made.of_modes is not None:
            names += [made.of_modes(*modes).__name__ for modes in MODES]
    return tuple(names)


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
    """Compile the kernels that a CUDA variant launches, and report what they need.

    Parameters
    ----------
    operation, variant : str
        As the registry names them, such as "matmul" and "cuda".
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
        If there is no such CUDA variant, or it does not take the dtype.
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
    if variant in GEMM_VARIANTS and not gemm_kernels(variant, np.dtype(dtype)):
        raise ValueError(f'variant "{variant}" does not take {dtype}; use float32')
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
    """Return a phrase for each fault of a kernel; an empty list if there is none."""
    shared, registers, blocks = found.shared_bytes, found.registers, found.blocks
    mixed = found.dtype == "float32" and found.double_operations > ROW_SUMS.get(found.kernel, 0)
    mixed = mixed and found.kernel not in ADDS_UP
    is_fast = re.search(r"\d+x\d+x\d+", found.kernel) is not None
    unaligned = is_fast and found.shared_alignment % arguments.VECTOR_BYTES
    # A and B each need at least one load from global memory, and two from shared memory, for two terms of the sum.
    few = is_fast and (found.wide_loads < 6 or found.shared_loads < 4)
    branches = found.branches if re.search(r"_[kl]{2}$", found.kernel) else 0  # specialized for the factors' layouts
    crowded = registers * found.threads * blocks > 65536
    large = shared > 48 << 10 or shared * blocks > SHARED_BYTES[found.cc]
    checks = (
        (found.spill_bytes, f"spills {found.spill_bytes} bytes"),
        (mixed, f"{found.double_operations} float64 instructions in a float32 kernel"),
        (found.approximations, f"{found.approximations} instructions of fast math"),
        (crowded, f"{registers} registers do not fit {found.threads} threads x {blocks}"),
        (large, f"{shared} bytes of shared memory are too many"),
        (unaligned, f"shared memory aligned to {found.shared_alignment} bytes, read by {arguments.VECTOR_BYTES}"),
        (branches, f"{branches} branches in the main loop"),
        (
            few,
            f"{found.wide_loads} loads of 16 bytes, {found.shared_loads} from shared memory; expected 6 and 4 or more",
        ),
    )
    return [said for wrong, said in checks if wrong]


def main() -> int:
    """Compile everything for every architecture, and print a line for each kernel.

    Returns
    -------
    int
        The exit status: 0; 1 if a kernel has `faults`; 2 in the simulator.
    """
    if SIMULATED:
        print("the simulator compiles nothing; unset NUMBA_ENABLE_CUDASIM", file=sys.stderr)
        return 2
    bad = 0
    print(f"{'kernel':28} {'dtype':8} target  threads regs shared spills wide loop branches f64")
    for cc in SHARED_BYTES:
        for dtype in DTYPES:
            for r in all_reports(dtype, cc):
                wrong = "; ".join(faults(r))
                bad += bool(wrong)
                sizes = f"{r.threads:7} {r.registers:4} {r.shared_bytes:6} {r.spill_bytes:6} {r.wide_loads:4}"
                code = f"{r.loop:4} {r.branches:8} {r.double_operations:3}"
                print(f"{r.kernel:28} {r.dtype:8} {r.target:7} {sizes} {code} {wrong}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
