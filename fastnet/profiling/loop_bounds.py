"""Lower bounds on the cycles of an inner loop's iteration, for each resource of a core.

The instructions are counted in the loop's assembly. The throughputs and latencies below hold, at least nearly, from
Haswell and Zen 2 on; if a core can do more, a bound is too high, but the order of the bounds is still what counts.
Dependency chains are followed on x86 only: on ARM they count as empty.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .machine_code import Loop, is_arithmetic, is_fma

PER_CYCLE = {"arithmetic": 2, "loads": 2, "stores": 1, "instructions": 6}
"""Instructions of each kind that a core starts per cycle."""

FP_LATENCY = 4
"""Cycles until the result of an FMA, an addition or a multiplication can be used."""

FORWARDING = 4
"""Cycles until a stored number can be loaded again (store-to-load forwarding)."""

DIVISION = 5
"""Cycles between two vector divisions or square roots."""

_DIVISION = re.compile(r"(?:v?(?:div|sqrt)[ps][sd]|fdiv|fsqrt)\s")
_NO_RESULT = re.compile(r"(?:cmp[bwlq]?|test[bwlq]?|v?u?comis[sd]|v?ptest|(?:j|prefetch|nop|push|call|ret)\w*)$")
_READS_ITS_RESULT = re.compile(r"(?!v|mov|lea|set|cvt|sqrt|pshuf|broadcast)|vfn?m")
_ZERO = re.compile(r"v?p?(?:xor|sub)[pqld]?[sdq]?\s+(%\w+),\s*\1\b")
_OPERAND = re.compile(r"(?:[^,(]|\([^)]*\))+")


@dataclass(frozen=True)
class Bounds:
    """Instructions and lower bounds of one iteration of a loop.

    Attributes
    ----------
    counts : dict of str to int
        Instructions by kind: "arithmetic" (floating-point), "loads", "stores", "divisions", "instructions".
    cycles : dict of str to float
        The fewest cycles by resource: the keys of `PER_CYCLE`, "divisions", and the loop-carried chains "address chain"
        (general registers) and "sum chain" (vector registers, and numbers stored and loaded again).
    """

    counts: dict[str, int]
    cycles: dict[str, float]

    @property
    def binding(self) -> str:
        """The resource that takes longest; in a tie not the arithmetic, since the other resource then delays it."""
        return max(self.cycles, key=lambda name: (self.cycles[name], name != "arithmetic"))

    @property
    def ceiling(self) -> float:
        """The largest fraction of the FMA units that the loop can keep busy."""
        return self.cycles["arithmetic"] / self.cycles[self.binding]


@dataclass(frozen=True)
class _Step:
    """An instruction, the registers and memory locations that it reads, and the one that it writes."""

    text: str
    sources: tuple[str, ...]
    result: str


def bounds(loop: Loop) -> Bounds:
    """Count the instructions of a loop and follow its dependency chains."""
    lines = [line.strip() for line in loop.text.splitlines() if not re.match(r"\s*(?:\S+:|\.)", line)]
    kinds = [kinds_of(line) for line in lines]
    counts = {name: sum(kind.count(name) for kind in kinds) for name in ("arithmetic", "loads", "stores", "divisions")}
    counts["instructions"] = len(lines)
    cycles = {name: counts[name] / rate for name, rate in PER_CYCLE.items()}
    cycles["divisions"] = counts["divisions"] * DIVISION
    steps = [step for line in lines if (step := _step(line))]
    changed = {step.result for step in steps}
    fixed = [_Step(s.text, tuple(_fixed(s.sources, changed)), "".join(_fixed([s.result], changed))) for s in steps]
    cycles["address chain"] = _chain([s for s in fixed if s.result and s.result[0] not in "v("], _integer_latency)
    cycles["sum chain"] = _chain([s for s in fixed if s.result and s.result[0] in "v("], _vector_latency)
    return Bounds(counts, cycles)


def kinds_of(instruction: str) -> list[str]:
    """Classify an instruction: "arithmetic", "divisions", "loads", "stores"; an FMA with a memory operand is two."""
    name, _, rest = instruction.partition(" ")
    kinds = ["arithmetic"] * (is_fma(instruction) or is_arithmetic(instruction))
    kinds += ["divisions"] * bool(_DIVISION.match(instruction))
    if re.match(r"(?:ld|st)\w*\s+.*\[", instruction):  # ARM
        return ["loads" if name.startswith("ld") else "stores"] * (2 if name in ("ldp", "stp") else 1)
    operands = _OPERAND.findall(rest)
    if operands and not re.match("lea|prefetch|nop", name):
        reads_all = _NO_RESULT.match(name) or (_READS_ITS_RESULT.match(name) and not name.startswith("v"))
        kinds += ["loads"] * any("(" in operand for operand in (operands if reads_all else operands[:-1]))
        kinds += ["stores"] * ("(" in operands[-1] and not _NO_RESULT.match(name))
    return kinds


def _step(instruction: str) -> _Step | None:
    """Parse an x86 instruction in AT&T syntax; None for one without a result."""
    name, _, rest = instruction.partition(" ")
    operands = [operand.strip() for operand in _OPERAND.findall(rest)]
    if not operands or _NO_RESULT.match(name) or "%" not in rest:
        return None
    *given, last = operands
    if _READS_ITS_RESULT.match(name):
        given.append(last)
    sources = [] if _ZERO.match(instruction) else [name for operand in given for name in _names(operand)]
    return _Step(instruction, tuple(sources), next(_names(last)))


def _names(operand: str) -> Iterator[str]:
    """Yield an operand's memory location, then its registers, each under one name for all its widths."""
    if "(" in operand:
        yield "(" + operand
    for register in re.findall(r"%(\w+)", operand):
        vector = re.fullmatch(r"[xyz]mm(\d+)", register)
        yield f"v{vector[1]}" if vector else re.sub(r"^(\d+)[dwb]$", r"\1", register.lstrip("re"))


def _fixed(names: list[str] | tuple[str, ...], changed: set[str]) -> Iterator[str]:
    """Yield names, except memory locations whose address changes in the loop."""
    for name in names:
        if not name.startswith("(") or not changed & set(list(_names(name[1:]))[1:]):
            yield name


def _chain(steps: list[_Step], latency: Callable[[str], int], rounds: int = 8) -> float:
    """Return the cycles of the longest loop-carried chain, on a core without other limits."""
    ready: dict[str, int] = {}
    ends = [0]
    for _ in range(2 * rounds):
        for step in steps:
            ready[step.result] = max((ready.get(name, 0) for name in step.sources), default=0) + latency(step.text)
        ends.append(max(ready.values(), default=0))
    return (ends[-1] - ends[rounds]) / rounds


def _integer_latency(instruction: str) -> int:
    return 0 if instruction.startswith("mov") else 3 if instruction.startswith("imul") else 1


def _vector_latency(instruction: str) -> int:
    if is_fma(instruction) or is_arithmetic(instruction):
        return FP_LATENCY
    is_move = re.match(r"v?(?:mov|broadcast|maskmov)", instruction)
    return (FORWARDING if "stores" in kinds_of(instruction) else 0) if is_move else 1
