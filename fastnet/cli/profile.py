"""The commands ``fastnet profile kernel`` and ``fastnet profile step``, and the peak figures of ``fastnet info``.

Results go to standard output, as a table or, with --json, as JSON.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..io import storage
from ..kernels.cpu.threads.pool import num_threads
from ..kernels.jit import target
from ..kernels.specs.losses import LOSSES
from ..kernels.specs.operations import OP_SPECS
from ..profiling import machine_code, roofline, step_breakdown, variants
from ..profiling.timing import Spread
from . import arguments, figure, textplot


def add_parser(subparsers: Any) -> None:
    """Add the parsers of both commands."""
    text = "time kernel variants, or the parts of a training step, against this machine's limits"
    profile = subparsers.add_parser("profile", help=text, description=f"{text.capitalize()}.")
    commands = profile.add_subparsers(dest="profiled", metavar="kernel|step", required=True)
    kernel = commands.add_parser(
        "kernel",
        help="time the variants of a kernel",
        description="Compare each variant of a kernel with the float64 oracle, then time them in turns: time and its "
        "interquartile range, GFLOP/s, GB/s, share of the limit that binds (FMAs on registers, or bytes read from the "
        "cache that holds the arrays; both measured here and now), the error as a share of what is allowed, the "
        "compile time and the inner loop. A wrong kernel is refused before it is timed.",
        epilog=f"Kernels: {', '.join(OP_SPECS)}. A time is that of a call from Python with arrays in the cache. "
        "The compile time is that of the first call in a new process with an empty cache, less that of the second.",
    )
    kernel.set_defaults(run=kernels)
    kernel.option("operation", "a public kernel, such as matmul", metavar="KERNEL", choices=list(OP_SPECS))
    shape = "its sizes, such as M,K,N of a product (default: the largest that is benchmarked)"
    kernel.option("--shape", shape, type=arguments.integers, metavar="N,...")
    case = "layout, activation or kind of update, such as nt for a transposed B (default: as benchmarked)"
    kernel.option("--case-option", case, dest="option", metavar="NAME")
    names = "which to time, such as reference,simd (default: all)"
    kernel.option("--variants", names, type=lambda text: text.split(","), metavar="A,B")
    _add_common_arguments(kernel)
    code = "leave out compile times and inner loops, which take a process for each variant"
    kernel.option("--no-compile-stats", code, dest="code", action="store_false")
    kernel.option("--asm", "show the inner loops", action="store_true")
    kernel.option("--plot", "draw the roofline to this .png, .svg or .pdf", metavar="IMAGE")

    parts = commands.add_parser(
        "step",
        help="break a training step down by kernel",
        description="Time each part of a training step: forward, loss, backward and update of every layer.",
    )
    parts.set_defaults(run=step)
    sizes = "inputs, hidden layers, outputs, such as 784,256,128,10"
    parts.option("--layers", sizes, type=arguments.layer_sizes, metavar="N,...,K", required=True)
    parts.option("--batch-size", "rows", type=arguments.integer, metavar="N", default=128)
    parts.option("--loss", "of the outputs", choices=list(LOSSES), default="mse")
    parts.option("--optimizer", "of the update", choices=list(step_breakdown.OPTIMIZERS), default="sgd")
    _add_common_arguments(parts)


def _add_common_arguments(parser: arguments.Parser) -> None:
    parser.option("--dtype", "of the arrays", choices=["float32", "float64"], default="float32")
    counts = "numbers of threads, such as 1,2; each is timed"
    parser.option("--threads", counts, type=arguments.integers, default="1", metavar="N,...")
    parser.option("--seconds", "about how long to time each", type=arguments.positive, default=0.5, metavar="S")
    parser.option("--json", "print JSON", action="store_true")


def _check_threads(options: argparse.Namespace) -> None:
    if max(options.threads) > num_threads():
        options.parser.error(f"--threads {max(options.threads)}: at most {num_threads()} can be used here")


def hardware() -> dict[str, Any]:
    """Describe the CPU that figures were measured on, as JSON holds it."""
    return {"cpu": target.target_cpu(), "vector_bytes": target.vector_bytes(), "threads": num_threads()}


def measure(threads: Sequence[int]) -> list[tuple[str, str]]:
    """Measure the limits of this machine, for each number of threads, as names and values of `fastnet info`."""
    lines = []
    for count in threads:
        limits = variants.machine_limits(count)
        rates = ", ".join(f"{rate:.0f} GFLOP/s {dtype}" for dtype, rate in limits["gflops"].items())
        lines.append(("FMA peak", f"{_threads(count)}: {rates}"))
        rates = ", ".join(f"{level} {rate:.0f}" for level, rate in limits["gbps"].items())
        lines.append(("bandwidth", f"{_threads(count)}: {rates} GB/s, read"))
    return lines


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


# --------------------------------------------------------------------------------------------- kernels


def kernels(options: argparse.Namespace) -> int:
    """Profile variants of an operation and print the result; return the exit status."""
    _check_threads(options)
    if options.asm and not options.code:
        options.parser.error("--asm shows what --no-compile-stats leaves out")
    try:
        candidates = variants.chosen(options.operation, options.variants, options.dtype)
        case = variants.case_of(options.operation, options.shape, options.option)
    except ValueError as error:
        options.parser.error(str(error))
    picture = figure.new_figure(options.plot) if options.plot is not None and candidates else None
    profiles: list[variants.Profile] = []
    for threads in options.threads if candidates else ():
        settings = (options.operation, case, candidates, options.dtype, threads, options.seconds)
        profiles.append(variants.profile(*settings, code=options.code and not profiles))
    cuda = variants.cuda_variants(options.operation, options.variants or ())
    offline = _ptx_reports(options, cuda) if cuda else []
    if picture is not None:
        _plot(picture, options.plot, profiles)
    if options.json:
        found = {"profiles": [_as_json(profile) for profile in profiles], "offline": offline}
        print(json.dumps({**hardware(), **found}, indent=1))
        return 0
    texts = []
    if profiles:
        vectors = f"vectors of {target.vector_bytes()} bytes"
        texts.append(f"{options.operation} {case}, {options.dtype}; {target.target_cpu()}, {vectors}")
        texts += [_table(profile) for profile in profiles]
        texts += _code_tables(profiles[0], options.asm) if options.code else []
    if picture is not None:
        texts.append(f"plot      {storage.display_path(options.plot)}")
    if cuda:
        rows = [list(_CUDA_COLUMNS), *([str(report[name]) for name in _CUDA_COLUMNS.values()] for report in offline)]
        note = "compiled for sm_90 and not timed (bench/gpu.py does that, on a card)"
        texts.append(f"{options.operation}, {options.dtype}, {note}\n{textplot.table('<<>>>>>', rows)}")
    print("\n\n".join(texts))
    return 0


_CUDA_COLUMNS = {name: name for name in ("variant", "kernel", "threads", "registers")}
_CUDA_COLUMNS |= {"shared B": "shared_bytes", "spilled B": "spill_bytes", "16 B loads": "wide_loads"}
"""Heads of the table of CUDA variants, and the fields of the report."""


def _ptx_reports(options: argparse.Namespace, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what NVIDIA's compiler makes of CUDA variants; this needs no device and times nothing."""
    from ..kernels.cuda import ptx_report  # imports numba.cuda

    reports = ((name, r) for name in names for r in ptx_report.report(options.operation, name, options.dtype))
    return [{"variant": name, **asdict(report)} for name, report in reports]


def _table(profile: variants.Profile) -> str:
    limits = profile.limits
    least = limits.seconds(profile.flops, profile.bytes_moved)
    head = (
        f"{_threads(limits.threads)}: at most {limits.gflops:.0f} GFLOP/s of FMAs, {limits.gbps:.0f} GB/s from "
        f"{limits.level}; {profile.flops / 1e6:.3g} MFLOP, {profile.bytes_moved / 1e6:.3g} MB, "
        f"{profile.intensity:.2f} FLOP/byte: {profile.binds} binds, {_us(least)} us at the limit"
    )
    rows = [("variant", "time us", "spread", "GFLOP/s", "GB/s", "of limit", "error")]
    for m in profile.measurements:
        rates = f"{m.gflops:.1f}", f"{m.gbps:.1f}", f"{m.fraction_of_limit:.1%}"
        rows.append((m.variant, *_times(m.seconds), *rates, f"{m.error_ratio:.3f}"))
    lines = [head, textplot.table("<>>>>>>", rows)]
    if not variants.BOUNDS_BLAS and any(m.variant == "reference" for m in profile.measurements):
        lines.append("reference: the threads of NumPy's BLAS are not limited (pip install threadpoolctl)")
    return "\n".join(lines)


def _times(seconds: Spread) -> tuple[str, str]:
    return _us(seconds.median), f"{seconds.relative_iqr:.1%}"


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:.3f}" if us < 10 else f"{us:.2f}" if us < 1000 else f"{us:.0f}"


def _code_tables(profile: variants.Profile, asm: bool) -> list[str]:
    """Format compile times and inner loops, and the loops' assembly if asked for."""
    rows, texts = [("variant", "compile s", "inner loop")], []
    for m in profile.measurements:
        loop = m.code.loop if m.code else None
        rows.append((m.variant, f"{m.code.first_call_s:.2f}", _describe(loop)) if m.code else (m.variant, "-", "NumPy"))
        if asm and loop:
            texts.append(f"{m.variant}: {loop.function}\n{loop.text}")
    return [textplot.table("<><", rows), *texts]


def _describe(loop: machine_code.Loop | None) -> str:
    if loop is None:
        return "not found: no loop with floating-point arithmetic"
    others = loop.arithmetic - loop.fmas
    also = f" and {others} other{'s' * (others > 1)}" if others else ""
    return f"{loop.fmas} FMAs{also} of {loop.vector_bytes} bytes in {loop.instructions} instructions, {loop.function}"


def _as_json(profile: variants.Profile) -> dict[str, Any]:
    fields = {name: getattr(profile, name) for name in ("operation", "dtype", "flops", "intensity", "binds")}
    fields |= {"case": str(profile.case), "bytes": profile.bytes_moved, "limits": asdict(profile.limits)}
    measured = [asdict(m) | {"seconds": m.seconds.median, "quartiles": m.seconds[1:]} for m in profile.measurements]
    return {**fields, "variants": measured}


def _plot(picture: Any, path: str, profiles: Sequence[variants.Profile]) -> None:
    """Draw a roofline plot for each number of threads, side by side."""
    axes = picture.subplots(1, len(profiles), squeeze=False)[0]
    picture.set_size_inches(7 * len(profiles), 4.6)
    for ax, profile in zip(axes, profiles, strict=True):
        limits = variants.machine_limits(profile.limits.threads)
        points = [roofline.Point(m.variant, profile.intensity, m.gflops, m.variant) for m in profile.measurements]
        title = f"{profile.operation} {profile.case}, {profile.dtype}, {_threads(profile.limits.threads)}"
        roofline.draw(ax, points, profile.limits.gflops, limits["gbps"], title)
    figure.save_figure(picture, path)


# ------------------------------------------------------------------------------------------------- step


def step(options: argparse.Namespace) -> int:
    """Break a training step down by kernel and print the times; return the exit status."""
    _check_threads(options)
    network = (options.layers, options.batch_size, options.dtype, options.loss, options.optimizer)
    found = step_breakdown.profile_step(*network, options.threads, max(2.0, 6 * options.seconds))
    if options.json:
        parts = [asdict(part) | {"seconds": part.seconds.median} for part in found.parts]
        summary = asdict(found) | {"step": found.step.median, "remainder": found.remainder, "parts": parts}
        summary["threaded"] = {str(count): times.median for count, times in found.threaded.items()}
        print(json.dumps({**hardware(), **summary}, indent=1))
        return 0
    sizes = "-".join(map(str, found.layer_sizes))
    print(
        f"a step of {sizes}, batch {found.batch_size}, {found.dtype}, {found.loss}, {found.optimizer}, unshuffled; "
        f"{target.target_cpu()}, 1 thread, at most {found.gflops:.0f} GFLOP/s\n"
    )
    whole = step_breakdown.Part("step", "", found.step, sum(part.flops for part in found.parts))
    threaded = [step_breakdown.Part(f"step, {count} threads", "", s, 0) for count, s in found.threaded.items()]
    rows = [_step_row(part, found) for part in (*found.parts, whole, *threaded)]
    share = f"{found.remainder / found.step.median:.1%}"
    rows.insert(len(found.parts), ("remainder", "", _us(found.remainder), "", share, "", ""))
    heads = ("part", "M x K x N", "time us", "spread", "of step", "GFLOP/s", "of limit")
    print(textplot.table("<>>>>>>", [heads, *rows]))
    print("\nweights: dW, db, update and W^T of a layer. Each part is timed by itself, with its arrays in the nearest")
    print("cache; the remainder is what the parts do not explain.")
    return 0


def _step_row(part: step_breakdown.Part, profile: step_breakdown.StepProfile) -> tuple[str, ...]:
    """Format a part, its GFLOP/s and their ratio to the limit; dashes where nothing is multiplied."""
    rate = part.flops / part.seconds.median / 1e9
    rates = (f"{rate:.1f}", f"{rate / profile.gflops:.1%}") if part.flops else ("-", "-")
    share = f"{part.seconds.median / profile.step.median:.1%}"
    return (part.name, part.shape, *_times(part.seconds), share, *rates)
