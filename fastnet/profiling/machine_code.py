"""What the compiler made of a variant: how long that took, and the vector instructions of the inner loop.

Imports `kernels.variants` and `kernels._jit`. Both need a compilation that has just happened: a kernel out of the cache
took no time, and Numba cannot show its assembly. So `inspect` runs this module as a program, in a process of its own
whose cache folder is new and empty.

The inner loop is found in the assembly, not by watching it run: a micro-kernel's where there is one, and of all loops
that hold no other loop the one with the most vector arithmetic (bytes of registers, an FMA counting as two). So it is
the widest tile's, though narrow matrices use narrower ones. A kernel that holds a loop for each activation is compiled
once more with its code as a constant, so that the others drop out. Of the losses, whose code goes through several
functions, nobody can tell whose loop is whose, and none is shown.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher

from ..kernels.jit import target
from ..kernels.registry import find, prepare
from ..kernels.specs.base import Case


@dataclass(frozen=True)
class Loop:
    """The inner loop.

    Attributes
    ----------
    function : str
        The symbol it stands in, without what Numba adds to it.
    vector_bytes : int
        Width of the widest registers that its arithmetic uses; an element's, where that is not vectorised.
    fmas, arithmetic, instructions : int
        Vector FMAs of that width; all its floating-point arithmetic; all its instructions.
    loops : int
        How many loops with vector arithmetic there are to choose from.
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
    """What compiling a variant gave.

    Attributes
    ----------
    first_call_s : float
        Seconds of the first call in a new process with an empty cache, less those of the second.
    loop : Loop or None
        None where there is no loop that computes with floating-point numbers.
    """

    first_call_s: float
    loop: Loop | None


# ------------------------------------------------------------------------------------------- assembly

_TILE_FIRST = 1 << 20  # bytes that no loop computes on

_FMA = re.compile(r"vfn?m(?:add|sub)\w*[ps][sd]$|fml[as]$|fmadd$")
_ARITHMETIC = re.compile(r"v?(?:add|sub|mul|div|min|max|sqrt)[ps][sd]$|f(?:add|sub|mul|div|min|max|sqrt|minnm|maxnm)$")
_LABEL = re.compile(r"^(\.?L\w+):")
_SYMBOL = re.compile(r'^"?([^\s".#:]?[^":]*)"?:')
_BRANCH = re.compile(r"^(?:j\w+|b|b\.\w+|cbn?z|tbn?z)$")


def inner_loop(assembly: str) -> Loop | None:
    """Find the innermost loop with the most vector arithmetic in the text of a module, x86 (AT&T) or ARM."""
    best, best_score, count = None, 0, 0
    functions = dict(_functions(assembly))  # linked into several modules, but counted once
    for function, lines in functions.items():
        for body in _innermost(lines):
            score, loop = _weigh(function, body)
            count += loop is not None and loop.vector_bytes > 8
            score += _TILE_FIRST * function.startswith("fastnet.tile.")
            if loop is not None and score > best_score:
                best, best_score = loop, score
    return None if best is None else Loop(**{**asdict(best), "loops": count})


def _functions(assembly: str) -> Iterator[tuple[str, list[str]]]:
    """Names and lines of the functions, without Python's entries to them."""
    name, lines = "", list[str]()
    for line in assembly.splitlines():
        found = _SYMBOL.match(line)
        if found and not _LABEL.match(line):
            if lines:
                yield name, lines
            name, lines = found[1], []
        elif not name.startswith(("_ZN7cpython", "cfunc.")):
            lines.append(line)
    if lines:
        yield name, lines


def _innermost(lines: list[str]) -> Iterator[list[str]]:
    """Loops, from a label to the last branch back to it, that hold no other."""
    labels: dict[str, int] = {}
    ends: dict[int, int] = {}
    for i, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = i
            continue
        words = line.replace(",", " ").split()
        if len(words) > 1 and _BRANCH.match(words[0]) and words[-1] in labels:
            ends[labels[words[-1]]] = i
    for start, end in ends.items():
        if not any(start < other <= end for other in ends):
            yield lines[start : end + 1]


def _weigh(function: str, body: list[str]) -> tuple[int, Loop | None]:
    """How much arithmetic a loop does, in bytes of registers, and the loop."""
    fmas: list[int] = []
    others: list[int] = []
    instructions = 0
    for line in body:
        words = line.split(None, 1)
        if not words or words[0].startswith((".", "#")) or words[0].endswith(":"):
            continue
        instructions += 1
        name = words[0]
        if _FMA.match(name) or _ARITHMETIC.match(name):
            (fmas if _FMA.match(name) else others).append(_width(name, words[1] if len(words) > 1 else ""))
    widths = [*fmas, *others]
    if not widths:
        return 0, None
    widest = max(widths)
    # A comment; but #16 is a number of ARM's.
    shown = [re.split(r"#(?![-\d])", line)[0] for line in body if line.strip()[:1] not in ("", "#")]
    text = "\n".join(line.rstrip().expandtabs(4) for line in shown)
    loop = Loop(_plain(function), widest, fmas.count(widest), len(widths), instructions, 0, text)
    return 2 * sum(fmas) + sum(others), loop


def _width(name: str, operands: str) -> int:
    """Bytes of the registers that an instruction computes on."""
    if name[-2:] in ("ss", "sd"):
        return 4 if name[-2:] == "ss" else 8
    for register, width in (("%zmm", 64), ("%ymm", 32), ("%xmm", 16)):
        if register in operands:
            return width
    if re.search(r"\bz\d+\.", operands):
        return target.vector_bytes()
    return 16 if re.search(r"\bv\d+\.[248]", operands) else 8 if re.search(r"\bd\d+", operands) else 4


def _plain(symbol: str) -> str:
    """What stands in a source of a symbol that Numba has mangled: its modules and its name."""
    if not symbol.startswith("_ZN"):
        return symbol
    names, rest = [], symbol[3:]
    while length := re.match(r"\d+", rest):
        start, size = length.end(), int(length[0])
        names.append(rest[start : start + size])
        rest = rest[start + size :]
    return ".".join(names)


# ------------------------------------------------------------------------------------- a process of its own


def inspect(operation: str, variant: str, dtype: str, case: Case) -> Code | None:
    """Compile a variant of the table in a new process with an empty cache; None for one that is not compiled."""
    if variant == "reference":
        return None
    with tempfile.TemporaryDirectory(prefix="fastnet-") as folder:
        request = json.dumps([operation, variant, dtype, list(case.dims), case.option])
        command = [sys.executable, "-m", "fastnet.machinecode", request]
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"{operation}, variant {variant}: compiling it in a process of its own failed: {last[0]}")
    answer = json.loads(done.stdout)
    return Code(answer["first_call_s"], Loop(**answer["loop"]) if answer["loop"] else None)


def _answer(operation: str, variant: str, dtype: str, dims: list[int], option: str) -> Code:
    """Compile a variant by calling it; what `inspect` wants to know."""
    function = find(operation, variant)
    arguments = prepare(operation, Case(tuple(dims), "profiled", option), dtype).arguments
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    return Code(seconds[0] - seconds[1], inner_loop(_assembly(function, dtype)))


def _assembly(function: Callable[..., Any], dtype: str) -> str:
    """The assembly of all that a variant calls, as it was just compiled."""
    if isinstance(function, partial):
        dispatcher: Any = function.func
        if not hasattr(dispatcher, "inspect_asm"):
            return ""
        compiled = dispatcher.signatures[0]
        constants = [types.literal(value) for value in function.args]
        dispatcher.compile((*constants, *compiled[len(constants) :]))
        return str(dispatcher.inspect_asm(dispatcher.signatures[-1]))
    found = [(dispatcher, signature) for dispatcher in _compiled_here() for signature in dispatcher.signatures]
    return "\n".join(
        dispatcher.inspect_asm(signature) for dispatcher, signature in found if _is_about(signature, dtype)
    )


def _is_about(signature: tuple[Any, ...], dtype: str) -> bool:
    kinds = {str(getattr(kind, "dtype", kind)) for kind in signature}
    return dtype in kinds or not kinds & {"float32", "float64"}


def _compiled_here() -> list[Any]:
    """Kernels that this process has compiled."""
    modules = [module for name, module in sys.modules.items() if name.startswith("fastnet.kernels.")]
    values = [value for module in modules for value in vars(module).values()]
    return [*{id(value): value for value in values if isinstance(value, Dispatcher) and value.signatures}.values()]


def main() -> None:
    """Answer one request of `inspect`, on standard output."""
    np.seterr(all="ignore")
    print(json.dumps(asdict(_answer(*json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
