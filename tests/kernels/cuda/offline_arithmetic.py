"""The elementwise kernels' float32 arithmetic, replayed on the CPU instruction by instruction, against the oracle.

Needs numba-cuda, as `offline_cuda`: a kernel is compiled for a card that is not here, and one thread of its PTX is
interpreted, which takes all elements, since the kernels accept any grid. Rounding is exact, by rational numbers;
``ex2.approx`` and ``rcp.approx`` are off by as much as the PTX ISA allows, the first but for powers of two, which the
card computes exactly, as libdevice's expm1 expects. The assembler may still contract a product
and a sum that PTX keeps apart, which only makes them more accurate.
"""

import ctypes
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pytest

from fastnet.kernels.cuda import ptx_report
from fastnet.kernels.cuda import variants as cuda_variants
from fastnet.kernels.cuda.device import CUDA_KERNELS
from fastnet.kernels.registry import Case, Variant
from fastnet.kernels.specs.activations import ACTIVATIONS
from fastnet.kernels.specs.losses import CROSS_ENTROPY, LOSSES
from fastnet.kernels.specs.optimizers import UPDATES
from fastnet.kernels.verify import WrongKernelError, check

SPECIAL = {"%tid.x": 0, "%ntid.x": 1, "%ctaid.x": 0, "%nctaid.x": 1}
C_TYPES = {"f32": ctypes.c_float, "f64": ctypes.c_double, "u32": ctypes.c_uint32, "u64": ctypes.c_uint64}
BITWISE = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
ARITHMETIC = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "min": min, "max": max}
FLOATS: dict[str, Any] = {"f32": np.float32, "f64": np.float64}

Operation = Callable[..., Any]


def _rounded(exact: Fraction, mode: str) -> Any:
    """Round to float32: to nearest (rn), down (rm), or towards zero (rz)."""
    below = np.float32(float(exact))  # next to it, at least: it was rounded twice
    if not np.isfinite(below):
        return below
    if Fraction(float(below)) > exact:
        below = np.nextafter(below, np.float32(-np.inf))
    above = below if Fraction(float(below)) == exact else np.nextafter(below, np.float32(np.inf))
    if mode == "rm" or (mode == "rz" and exact > 0) or not np.isfinite(above):
        return below
    if mode == "rz":
        return above
    distance = exact - Fraction(float(below)) - (Fraction(float(above)) - exact)
    is_odd = int(below.view(np.uint32)) & 1
    return above if distance > 0 or (distance == 0 and is_odd) else below


def _fma(mode: str, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c in float32, rounded once."""
    wide = float(a) * float(b) + float(c)
    if not math.isfinite(wide) or wide == 0:
        return np.float32(wide)
    return _rounded(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)), mode)


def _approximate(function: Callable[[float], float], error: float, a: Any, flushes: bool) -> Any:
    """Return a function with a relative error, denormals as zeros where ``flushes``."""
    tiny = np.finfo(np.float32).tiny
    value = float(a) if not flushes or abs(a) >= tiny or not math.isfinite(a) else math.copysign(0.0, a)
    found = np.float32(function(value) * (1 + error))
    return (
        found if not flushes or abs(found) >= tiny or not math.isfinite(found) else np.float32(math.copysign(0, found))
    )


def _inverse(value: float) -> float:
    return math.copysign(math.inf, value) if value == 0 else 1 / value


def _integer(value: int, kind: str) -> int:
    """Return an integer of any size as one of a type such as s32: unsigned where that is u or b."""
    bits = int(kind[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value


def _compared(how: str, a: Any, b: Any) -> bool:
    """Compare as setp does: with NaN only a comparison whose name ends in u, for unordered, holds."""
    if a != a or b != b:
        return how.endswith("u")
    return bool(getattr(operator, how[:2])(a, b))


def _converted(parts: list[str], a: Any) -> Any:
    """Convert as cvt does: ``parts`` are modifiers, the type of the result, and that of the operand."""
    *modifiers, to, source = parts
    a = a if source in FLOATS else _integer(a, source)
    if "sat" in modifiers:
        return np.float32(0 if a != a else min(max(a, np.float32(0)), np.float32(1)))
    a = {"rzi": np.trunc, "rni": np.rint}.get(modifiers[0] if modifiers else "", lambda same: same)(a)
    return FLOATS[to](a) if to in FLOATS else _integer(int(a), to)


def _computed(name: str, parts: list[str], a: list[Any], slack: float) -> Any:
    """Return the result of an instruction from its operands."""
    kind = parts[-1]
    if name == "fma":
        return _fma(parts[0], *a)
    if name == "ex2":
        return _approximate(lambda x: 2.0**x, 0 if a[0] == np.rint(a[0]) else slack * 2**-22, a[0], "ftz" in parts)
    if name == "rcp":
        return _approximate(_inverse, slack * 2**-23 if "approx" in parts else 0, a[0], "ftz" in parts)
    if name == "cvt":
        return _converted(parts, a[0])
    if name == "selp":
        return a[0] if a[2] else a[1]
    if kind == "pred":
        return BITWISE[name](*a)
    if kind not in FLOATS and name not in ("mov", "cvta"):
        a = [_integer(each, kind) for each in a]
    if name == "setp":
        return _compared(parts[0], *a)
    if name in BITWISE:
        return BITWISE[name](*a)
    if name == "add" and parts[0] == "rz":
        return _rounded(Fraction(float(a[0])) + Fraction(float(a[1])), "rz")
    if name in ("min", "max") and kind in FLOATS:
        return {"min": np.fmin, "max": np.fmax}[name](*a)
    if name in ARITHMETIC:
        return ARITHMETIC[name](*a)
    if name == "div":
        return a[0] / a[1] if kind in FLOATS else abs(a[0]) // abs(a[1]) * (1 if (a[0] < 0) == (a[1] < 0) else -1)
    functions: dict[str, Operation] = {
        "mov": operator.pos, "cvta": operator.pos, "neg": operator.neg, "abs": abs, "not": operator.invert,
        "sqrt": np.sqrt, "shl": operator.lshift, "shr": operator.rshift,
    }  # fmt: skip
    return functions[name](*a)


def _thread(ptx: str, parameters: list[Any], memory: list[Any], slack: float) -> None:
    """Run the only thread of a grid; ``parameters``: the kernel's; ``memory``: arrays that it may touch."""
    lines = [line.split("//")[0].strip() for line in ptx[ptx.index("\n{") :].splitlines()]
    places = {line[:-1]: i for i, line in enumerate(lines) if line.startswith("$") and line.endswith(":")}
    registers: dict[str, Any] = dict(SPECIAL)

    def value(text: str) -> Any:
        if text.startswith(("0f", "0d")):
            return np.array(int(text[2:], 16), f"u{len(text) // 2 - 1}").view(f"f{len(text) // 2 - 1}")[()]
        return registers[text] if text.startswith("%") else int(text)

    def cell(text: str, kind: str) -> Any:
        base, _, offset = text.strip("[]").partition("+")
        address, c_type = value(base) + int(offset or 0), C_TYPES[kind]
        assert any(0 <= address - m.ctypes.data <= m.nbytes - ctypes.sizeof(c_type) for m in memory), "beyond an array"
        return c_type.from_address(address)

    at = 0
    while True:
        guarded = re.fullmatch(r"(?:@(!?)(%p\d+) )?(\w+)\.?([\w.]*)\s*(.*);", lines[at])
        at += 1
        if guarded is None or lines[at - 1].startswith("."):
            continue
        negated, guard, name, suffix, operands = guarded.groups()
        if guard and registers[guard] == bool(negated):
            continue
        parts, (to, *sources) = suffix.split("."), [each.strip() for each in operands.split(",")]
        if name == "ret":
            return
        if name == "bra":
            at = places[to]
        elif name == "ld" and parts[0] == "param":
            registers[to] = parameters[int(re.findall(r"_param_(\d+)", sources[0])[0])]
        elif name == "ld":
            registers[to] = FLOATS.get(parts[-1], int)(cell(sources[0], parts[-1]).value)
        elif name == "st":
            found = value(sources[0])
            is_bits = parts[-1] == "u32"
            cell(to, parts[-1]).value = (
                int(found.view(np.uint32)) if is_bits and isinstance(found, np.float32) else found
            )
        else:
            found = _computed(name, parts, [value(each) for each in sources], slack)
            if to.startswith("%f") and not isinstance(found, np.floating):  # mov.b32 of bits
                found = np.array(found, np.uint32).view(np.float32)[()]
            elif to.startswith("%r"):
                bits = int(found.view(np.uint32)) if isinstance(found, np.float32) else int(found)
                registers[to] = _integer(bits, "u64" if to.startswith("%rd") else "u32")
                continue
            registers[to] = found


@cache
def _ptx(name: str) -> str:
    function, dispatcher, *_ = CUDA_KERNELS[name]
    return ptx_report.compiled(dispatcher, ptx_report._types(function, "float32"), (9, 0))[1]


def _replay(slack: float) -> Any:
    """Return what stands in for `enqueue`: a kernel's launch over NumPy arrays."""

    def enqueue(kernel: Any, grid: Any, threads: int, *arguments: Any) -> None:
        (name,) = (name for name, (_, dispatcher, *_) in CUDA_KERNELS.items() if dispatcher is kernel)
        parameters: list[Any] = []
        for given in arguments:
            if isinstance(given, np.ndarray):  # as numba-cuda passes it: the address is the fifth of seven
                sizes = given.size, given.itemsize
                parameters += [0, 0, *sizes, given.ctypes.data, *sizes]
            else:
                parameters += given if isinstance(given, tuple) else [given]
        _thread(_ptx(name), parameters, [a for a in arguments if isinstance(a, np.ndarray)], slack)

    return enqueue


NAMES = [*ACTIVATIONS, *(f"{name}_derivative" for name in ACTIVATIONS), *UPDATES]
NAMES += [f"{name}_derivative" for name, spec in LOSSES.items() if spec.code != CROSS_ENTROPY]


def _check(name: str, slack: float, case: Case) -> float:
    variant = Variant(name, "PTX", cuda_variants.VARIANTS[name, "cuda"])
    with (
        mock.patch.object(cuda_variants, "enqueue", _replay(slack)),
        mock.patch.object(cuda_variants, "empty", np.empty),
        np.errstate(all="ignore"),
    ):
        return check(variant, case, "float32")


@pytest.mark.parametrize("slack", [-1, 0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_meets_the_contract(name: str, slack: int) -> None:
    """With approximations as wrong as they may be to either side; where they are right, by a third of the bound."""
    option = next(iter(UPDATES[name].options)) if name in UPDATES else ""
    dims = (9, 5) if name.removesuffix("_derivative") in LOSSES else (60,)
    assert _check(name, slack, Case(dims, "a thread that takes all", option)) <= (1 if slack else 1 / 3)


@pytest.mark.parametrize(
    ("name", "right", "wrong"), [("silu", "0f3FB8AA3B", "0f3FB8AA9B"), ("gelu", "sub.f32", "add.f32")]
)
def test_wrong_arithmetic_is_noticed(name: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant that is off, and a wrong instruction, in the kernel's own PTX."""
    text = _ptx("activation_kernel")
    assert right in text
    monkeypatch.setitem(globals(), "_ptx", lambda kernel: text.replace(right, wrong))
    with pytest.raises(WrongKernelError):
        _check(name, 0, Case((60,), "a thread that takes all"))


def test_rounding_is_that_of_numpy() -> None:
    """Sums and products of float32, which NumPy rounds to nearest; and the two other directions, on either side."""
    rng = np.random.default_rng(0)
    for a, b in rng.standard_normal((300, 2)).astype(np.float32) * np.float32(2.0) ** rng.integers(-70, 60, (300, 2)):
        a, b, one, zero = np.float32(a), np.float32(b), np.float32(1), np.float32(-0.0)
        assert _fma("rn", a, b, zero) == a * b
        assert _fma("rn", a, one, b) == a + b
        exact, infinite = Fraction(float(a)) + Fraction(float(b)), np.float32(np.inf)
        below, inside = _fma("rm", a, one, b), _rounded(exact, "rz")
        assert Fraction(float(below)) <= exact < Fraction(float(np.nextafter(below, infinite)))
        away = np.nextafter(inside, infinite if exact > 0 else -infinite)
        assert abs(Fraction(float(inside))) <= abs(exact) < abs(Fraction(float(away)))
