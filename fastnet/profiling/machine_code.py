"""Inspects a compiled variant: compile time, and the vector instructions of its inner loop.

Both need a fresh compilation: a kernel loaded from the cache has no compile time, and Numba cannot show its assembly.
So `inspect` runs this module as a program, in a separate process with an empty cache folder.

The inner loop is found in the assembly, not by sampling: a micro-kernel's loop if there is one, otherwise the innermost
loop with the most vector arithmetic (in bytes of registers; an FMA counts twice). It is therefore the loop of the
widest micro-tile, although narrow matrices use narrower ones.
"""

import functools
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from ..kernels.jit import target
from ..kernels.jit.numba_internals import CPUDispatcher
from ..kernels.jit.symbols import demangle
from ..kernels.registry import find, prepare
from ..kernels.specs.base import Case


@dataclass(frozen=True)
class Loop:
    """The inner loop.

    Attributes
    ----------
    function : str
        Demangled name of the function that contains it.
    vector_bytes : int
        Width of the widest registers that its arithmetic uses; an element's width if it is not vectorised.
    fmas, arithmetic, instructions : int
        Number of FMAs of that width, of all floating-point instructions, and of all instructions.
    loops : int
        Number of loops with vector arithmetic from which this one was chosen.
    text : str
        Its assembly.
    """

    function: str
    vector_bytes: int
    fmas: int
    arithmetic: int
    instructions: int
    loops: int
    text: str


@dataclass(frozen=True)
class Code:
    """Result of compiling a variant.

    Attributes
    ----------
    first_call_s : float
        Seconds of the first call in a new process with an empty cache, minus those of the second.
    loop : Loop or None
        None if no loop computes with floating-point numbers.
    """

    first_call_s: float
    loop: Loop | None


# ------------------------------------------------------------------------------------------- assembly

_MICROKERNEL = re.compile(r"fastnet\.tile\.\w+\.(\d+)x(\d+)")  # rows and vectors of the tile
_FMA = re.compile(r"(?:vfn?m(?:add|sub)\w*[ps][sd]|fml[as]|fmadd)\s")
_ARITHMETIC = re.compile(
    r"(?:v?(?:add|sub|mul|div|min|max|sqrt)[ps][sd]|f(?:add|sub|mul|div|min|max|sqrt|minnm|maxnm))\s"
)
_NO_INSTRUCTION = re.compile(r"\s*(?:[.#]|\S+:|$)")
_LABEL = re.compile(r"^(\.?L\w+):")
_SYMBOL = re.compile(r'^(?!L\w+:)"?([^\s".#:][^":\n]*)"?:.*$', re.MULTILINE)
_BRANCH = re.compile(r"\s*(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s(?:.*[\s,])?([^\s,]+)\s*$")


def is_fma(instruction: str) -> bool:
    """Return whether an instruction, without leading spaces, is an FMA."""
    return _FMA.match(instruction) is not None


def is_arithmetic(instruction: str) -> bool:
    """Return whether an instruction is floating-point arithmetic other than an FMA."""
    return _ARITHMETIC.match(instruction) is not None


def inner_loop(assembly: str) -> Loop | None:
    """Find the innermost loop with the most vector arithmetic, the micro-kernel's of the largest tile if there is one.

    Parameters
    ----------
    assembly : str
        Assembly of one or several modules, for x86 (AT&T syntax) or ARM.
    """
    parts = _SYMBOL.split(assembly)
    functions = dict(zip(parts[1::2], parts[2::2], strict=True))  # a function linked into several modules counts once
    best, best_score, count = None, (0, 0), 0
    for function, text in functions.items():
        if function.startswith(("_ZN7cpython", "cfunc.")):  # an entry from Python or C
            continue
        tile = _MICROKERNEL.match(function)
        size = int(tile[1]) * int(tile[2]) if tile else 0  # loops of small tiles may be unrolled more often
        for body in _innermost(text.splitlines()):
            weight, loop = _weigh(function, body)
            count += loop.vector_bytes > 8
            score = size, weight
            if weight > 0 and score > best_score:
                best, best_score = loop, score
    return best and replace(best, loops=count)


def _innermost(lines: list[str]) -> Iterator[list[str]]:
    """Yield the lines of each innermost loop: from a label to the last branch back to it."""
    labels: dict[str, int] = {}
    ends: dict[int, int] = {}
    for i, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = i
        elif (branch := _BRANCH.match(line)) and branch[1] in labels:
            ends[labels[branch[1]]] = i
    for start, end in ends.items():
        if not any(start < other <= end for other in ends):
            yield lines[start : end + 1]


def _weigh(function: str, body: list[str]) -> tuple[int, Loop]:
    """Return a loop and its weight: bytes of registers that it computes on, with FMAs counted twice."""
    code = [line.strip() for line in body if not _NO_INSTRUCTION.match(line)]
    fmas = [_width(line) for line in code if is_fma(line)]
    widths = fmas + [_width(line) for line in code if is_arithmetic(line)]
    widest = max(widths, default=0)
    # "#" begins a comment, but "#16" is a number on ARM.
    shown = [re.split(r"#(?![-\d])", line)[0] for line in body if line.strip()[:1] not in ("", "#")]
    text = "\n".join(line.rstrip().expandtabs(4) for line in shown)
    loop = Loop(demangle(function), widest, fmas.count(widest), len(widths), len(code), 0, text)
    return sum(fmas) + sum(widths), loop


def _width(instruction: str) -> int:
    """Return the width in bytes of the registers that an instruction computes on."""
    widths = (r"^\w+ss\s", 4), (r"^\w+sd\s", 8), ("%zmm", 64), ("%ymm", 32), ("%xmm", 16)
    arm = (r"\bz\d+\.", target.vector_bytes()), (r"\bv\d+\.[248]", 16), (r"\bd\d+", 8), ("", 4)
    return next(width for pattern, width in (*widths, *arm) if re.search(pattern, instruction))


# ------------------------------------------------------------------------------------- a process of its own


@functools.cache
def inspect(operation: str, variant: str, dtype: str, case: Case) -> Code | None:
    """Compile a variant of the table in a new process with an empty cache, once for each set of arguments.

    Returns
    -------
    Code or None
        None for "reference", which is not compiled.

    Raises
    ------
    RuntimeError
        If that process fails.
    """
    if variant == "reference":
        return None
    with tempfile.TemporaryDirectory(prefix="fastnet-") as folder:
        request = json.dumps([operation, variant, dtype, list(case.dims), case.option])
        command = [sys.executable, "-m", __name__, request]
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"{operation}, variant {variant}: compiling it in a process of its own failed: {last[0]}")
    answer = json.loads(done.stdout)
    return Code(answer["first_call_s"], Loop(**answer["loop"]) if answer["loop"] else None)


def _assembly(dtype: str) -> Iterator[str]:
    """Yield the assembly of the kernels that this process has compiled for a dtype, or without floats."""
    # Kernels made by factories are not attributes of any module.
    for kernel in gc.get_objects():
        if isinstance(kernel, CPUDispatcher) and kernel.py_func.__module__.startswith("fastnet.kernels."):
            for signature in kernel.signatures:
                kinds = {str(getattr(kind, "dtype", kind)) for kind in signature}
                if dtype in kinds or not kinds & {"float32", "float64"}:
                    yield kernel.inspect_asm(signature)


def main() -> None:
    """Answer a request of `inspect`: compile a variant by calling it, in a process with an empty cache."""
    np.seterr(all="ignore")
    operation, variant, dtype, dims, option = json.loads(sys.argv[1])
    function = find(operation, variant)
    arguments = prepare(operation, Case(tuple(dims), "profiled", option), dtype).arguments
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    code = Code(seconds[0] - seconds[1], inner_loop("\n".join(_assembly(dtype))))
    print(json.dumps(asdict(code)))


if __name__ == "__main__":
    main()
