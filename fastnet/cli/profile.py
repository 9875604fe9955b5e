"""The commands ``fastnet profile kernel`` and ``profile step``, and the peak figures of ``fastnet info``.

Results go to standard output, as a table or, with --json, as JSON.
"""

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..io import storage
from ..kernels.jit import target
from ..kernels.registry import Variant
from ..kernels.specs.losses import LOSSES
from ..kernels.specs.operations import OP_SPECS
from ..messages import counted
from ..profiling import (
    baseline,
    llvm_mca,
    machine_code,
    report,
    roofline,
    step_breakdown,
    sweep,
    tables,
    variants,
)
from ..profiling.verdicts import Verdict
from . import arguments, figure, profile_sweep, textplot
from .profile_options import add_common_options, check_threads, hardware, machine


def add_parser(subparsers: Any) -> None:
    """Add the parsers of all ``fastnet profile`` commands."""
    text = "time kernel variants, or the parts of a training step, against this machine's limits"
    profile = subparsers.add_parser("profile", help=text, description=f"{text.capitalize()}.")
    commands = profile.add_subparsers(dest="profiled", metavar="kernel|sweep|step", required=True)
    kernel = commands.add_parser(
        "kernel",
        help="time the variants of a kernel",
        description="Compare each variant of a kernel with the float64 oracle, then time them in turns: time and its "
        "interquartile range, GFLOP/s, GB/s, share of the limit that binds (FMAs on registers, or bytes read from the "
        "cache that holds the arrays; both measured here and now), the error as a share of what is allowed, the "
        "compile time and the inner loop; and a sentence that says why it takes that long. A wrong kernel is refused "
        "before it is timed.",
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
    add_common_options(kernel)
    code = "leave out compile times and inner loops, which take a process for each variant"
    kernel.option("--no-compile-stats", code, dest="code", action="store_false")
    kernel.option("--asm", "show the inner loops", action="store_true")
    kernel.option("--plot", "draw the roofline to this .png, .svg or .pdf", metavar="IMAGE")
    page = "write all of it, and a sweep over sizes up to 512, as one page; takes a minute, and matplotlib"
    kernel.option("--html", page, metavar="FILE.html")
    kernel.option("--save", "keep the times in this file, for --baseline", metavar="FILE.json")
    baseline_text = "compare with what --save kept; exit status 1 where a variant has become slower"
    kernel.option("--baseline", baseline_text, metavar="FILE.json")
    least = "the least difference from the baseline that counts (default: 5 for products, 10 for others)"
    kernel.option("--threshold", least, type=arguments.positive, metavar="PERCENT")

    profile_sweep.add_parser(commands)
    parts = commands.add_parser(
        "step",
        help="break a training step down by kernel",
        description="Time each part of a training step: forward, loss, backward and update of every layer.",
    )
    parts.set_defaults(run=step)
    sizes = "inputs, hidden layers, outputs"
    parts.option("--layers", sizes, type=arguments.layer_sizes, metavar="N,...,K", default="784,256,128,10")
    parts.option("--batch-size", "rows", type=arguments.integer, metavar="N", default=128)
    parts.option("--loss", "of the outputs", choices=list(LOSSES), default="mse")
    parts.option("--optimizer", "of the update", choices=list(step_breakdown.OPTIMIZERS), default="sgd")
    add_common_options(parts)


def measure(threads: Sequence[int]) -> list[tuple[str, str]]:
    """Measure this machine's limits for each number of threads, as names and values for `fastnet info`."""
    lines = []
    for count in threads:
        limits = variants.machine_limits(count)
        rates = ", ".join(f"{rate:.0f} GFLOP/s {dtype}" for dtype, rate in limits["gflops"].items())
        lines.append(("FMA peak", f"{counted(count, 'thread')}: {rates}"))
        rates = ", ".join(f"{level} {rate:.0f}" for level, rate in limits["gbps"].items())
        lines.append(("bandwidth", f"{counted(count, 'thread')}: {rates} GB/s, read"))
    return lines


# --------------------------------------------------------------------------------------------- kernels


def kernels(options: argparse.Namespace) -> int:
    """Profile variants of an operation and print the result; return the exit status."""
    check_threads(options)
    if options.asm and not options.code:
        options.parser.error("--asm shows what --no-compile-stats leaves out")
    try:
        candidates = variants.chosen(options.operation, options.variants, options.dtype)
        case = variants.case_of(options.operation, options.shape, options.option)
    except ValueError as error:
        options.parser.error(str(error))
    picture = figure.new_figure(options.plot) if options.plot is not None and candidates else None
    for path in filter(None, (options.save, options.html)):
        storage.check_target(path)
    storage.check_suffix(options.save or "", ".json")
    storage.check_suffix(options.html or "", ".html")
    if options.html is not None:
        figure.require_matplotlib("--html")
    counts = options.threads if candidates else ()
    keys = [baseline.key(options.operation, case, options.dtype, threads) for threads in counts]
    before = baseline.load(options.baseline, hardware(), keys) if options.baseline is not None else None
    threshold = options.threshold / 100 if options.threshold is not None else None
    profiles: list[variants.Profile] = []
    for threads in counts:
        settings = (options.operation, case, candidates, options.dtype, threads, options.seconds)
        profiles.append(variants.profile(*settings, code=options.code))
    if options.save is not None and profiles:
        baseline.save(options.save, profiles, hardware())
    compared = [baseline.compare(each, before, threshold) for each in profiles] if before is not None else []
    if options.html is not None and profiles:
        _write_page(options, candidates, profiles, compared)
    status = int(any(verdict.word == "slower" for each in compared for verdict in each.values()))
    cuda = variants.cuda_variants(options.operation, options.variants or ())
    offline = _ptx_reports(options, cuda) if cuda else []
    if picture is not None:
        _plot(picture, options.plot, profiles)
    if options.json:
        found: dict[str, Any] = {"profiles": [_as_json(profile) for profile in profiles], "offline": offline}
        found |= (
            {"baseline": [{name: v._asdict() for name, v in each.items()} for each in compared]} if compared else {}
        )
        print(json.dumps({**hardware(), **found}, indent=1))
        return status
    texts = []
    if profiles:
        vectors = f"vectors of {target.vector_bytes()} bytes"
        texts.append(f"{options.operation} {case}, {options.dtype}; {target.target_cpu()}, {vectors}")
        texts += [_table(profile) for profile in profiles]
        texts += _code_tables(profiles[0], options.asm) if options.code else []
        texts += [textplot.table("<>><", tables.comparison(each)) for each in compared]
    for name in ("plot", "html", "save"):
        if profiles and getattr(options, name) is not None:
            texts.append(f"{name:<10}{storage.display_path(getattr(options, name))}")
    if cuda:
        rows = [list(_CUDA_COLUMNS), *([str(report[name]) for name in _CUDA_COLUMNS.values()] for report in offline)]
        note = "compiled for sm_90 and not timed (bench/gpu.py does that, on a card)"
        texts.append(f"{options.operation}, {options.dtype}, {note}\n{textplot.table('<<>>>>>', rows)}")
    print("\n\n".join(texts))
    return status


_CUDA_COLUMNS = {name: name for name in ("variant", "kernel", "threads", "registers")}
_CUDA_COLUMNS |= {"shared B": "shared_bytes", "spilled B": "spill_bytes", "16 B loads": "wide_loads"}
"""Column heads of the table of CUDA variants, and the report's field for each."""


def _ptx_reports(options: argparse.Namespace, names: Sequence[str]) -> list[dict[str, Any]]:
    """Compile CUDA variants with NVIDIA's compiler and return reports of the code; needs no device, times nothing."""
    from ..kernels.cuda import ptx_report  # imports numba.cuda

    reports = ((name, r) for name in names for r in ptx_report.report(options.operation, name, options.dtype))
    return [{"variant": name, **asdict(report)} for name, report in reports]


def _table(profile: variants.Profile) -> str:
    said = tables.diagnoses(profile)
    width = max(len(name) for name, _ in said)
    lines = [tables.limits(profile), textplot.table("<>>>>>>>", tables.measurements(profile))]
    lines += [
        textwrap.fill(f"{name:<{width}}  {text}", 120, subsequent_indent=" " * (width + 2)) for name, text in said
    ]
    if not variants.BOUNDS_BLAS and any(m.variant == "reference" for m in profile.measurements):
        lines.append("reference: the threads of NumPy's BLAS are not limited (pip install threadpoolctl)")
    return "\n".join(lines)


_PAGE_SIZES = 13
"""Number of sizes in the page's sweep, up to 512; larger ones would take minutes."""


def _write_page(
    options: argparse.Namespace,
    candidates: Sequence[Variant],
    profiles: Sequence[variants.Profile],
    compared: Sequence[Mapping[str, Verdict]],
) -> None:
    """Run the sweeps over sizes, and write the page."""
    sizes = sweep.default_sizes(options.operation, options.dtype)[:_PAGE_SIZES]
    settings = options.operation, candidates, sizes, options.dtype
    sweeps = [list(sweep.sweep(*settings, count, options.seconds / 5)) for count in options.threads]
    with storage.replacing(options.html) as file:
        file.write(report.page(profiles, sweeps, machine(), compared).encode())


def _code_tables(profile: variants.Profile, asm: bool) -> list[str]:
    """Format compile times and inner loops, llvm-mca's results for them, and on request their assembly."""
    rows, simulated, texts = [("variant", "compile s", "inner loop")], [], []
    for m in profile.measurements:
        loop = m.code.loop if m.code else None
        rows.append((m.variant, f"{m.code.first_call_s:.2f}", _describe(loop)) if m.code else (m.variant, "-", "NumPy"))
        if loop and (found := llvm_mca.simulate(loop.text, target.target_cpu())):
            simulated.append(f"{m.variant} by llvm-mca: {found.sentence()}")
        if asm and loop:
            texts.append(f"{m.variant}: {loop.function}\n{loop.text}")
    return ["\n".join([textplot.table("<><", rows), *simulated]), *texts]


def _describe(loop: machine_code.Loop | None) -> str:
    if loop is None:
        return "not found: no loop with floating-point arithmetic"
    others = loop.arithmetic - loop.fmas
    also = f" and {counted(others, 'other')}" if others else ""
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
        title = f"{profile.operation} {profile.case}, {profile.dtype}, {counted(profile.limits.threads, 'thread')}"
        roofline.draw(ax, points, profile.limits.gflops, limits["gbps"], title)
    figure.save_figure(picture, path)


# ------------------------------------------------------------------------------------------------- step


def step(options: argparse.Namespace) -> int:
    """Break a training step down by kernel and print the times; return the exit status."""
    check_threads(options)
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
    remainder = max(0.0, found.remainder)
    share = f"{remainder / found.step.median:.1%}"
    rows.insert(len(found.parts), ("remainder", "", tables.microseconds(remainder), "", share, "", ""))
    heads = ("part", "M x K x N", "time us", "spread", "of step", "GFLOP/s", "of limit")
    print(textplot.table("<>>>>>>", [heads, *rows]))
    print("\nweights: dW, db, update and W^T of a layer. Each part is timed by itself, with its arrays in the nearest")
    if found.remainder < 0:
        longer = tables.microseconds(-found.remainder).strip()
        print(
            f"cache. Alone, the parts took {longer} us longer than in the step, which calls them once: nothing remains."
        )
    else:
        print("cache; the remainder is what the parts do not explain.")
    return 0


def _step_row(part: step_breakdown.Part, profile: step_breakdown.StepProfile) -> tuple[str, ...]:
    """Format a part, its GFLOP/s and their ratio to the limit; dashes for parts without FLOPs."""
    rate = part.flops / part.seconds.median / 1e9
    rates = (f"{rate:.1f}", f"{rate / profile.gflops:.1%}") if part.flops else ("-", "-")
    share = f"{part.seconds.median / profile.step.median:.1%}"
    return (part.name, part.shape, *tables.times(part.seconds), share, *rates)
