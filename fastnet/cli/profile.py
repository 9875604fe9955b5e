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
from . import arguments, figure


def add_parser(subparsers: Any) -> None:
    """Add the parsers of both commands."""
    profile = subparsers.add_parser(
        "profile",
        help="time kernel variants, or the parts of a training step, against this machine's limits",
        description="Time kernel variants, or the parts of a training step, against this machine's limits.",
    )
    commands = profile.add_subparsers(dest="profiled", metavar="kernel|step", required=True)
    _add_kernel_parser(commands)
    _add_step_parser(commands)


def _add_kernel_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "kernel",
        help="time the variants of a kernel",
        description="Compare each variant of a kernel with the float64 oracle, then time them in turns: time and its "
        "interquartile range, GFLOP/s, GB/s, share of the limit that binds (FMAs on registers, or bytes read from the "
        "cache that holds the arrays; both measured here and now), the error as a share of what is allowed, the "
        "compile time and the inner loop. A wrong kernel is refused before it is timed.",
        epilog=f"Kernels: {', '.join(OP_SPECS)}. A time is that of a call from Python with arrays in the cache. "
        "The compile time is that of the first call in a new process with an empty cache, less that of the second.",
    )
    parser.add_argument("operation", metavar="KERNEL", choices=list(OP_SPECS), help="a public kernel, such as matmul")
    shape = "its sizes, such as M,K,N of a product (default: the largest that is benchmarked)"
    parser.add_argument("--shape", type=arguments.integers, metavar="N,...", help=shape)
    option = "layout, activation or kind of update, such as nt for a transposed B (default: as benchmarked)"
    parser.add_argument("--case-option", dest="option", metavar="NAME", help=option)
    names = "which to time, such as reference,simd (default: all)"
    parser.add_argument("--variants", type=arguments.names, metavar="A,B", help=names)
    _add_common_arguments(parser)
    code = "leave out compile times and inner loops, which take a process for each variant"
    parser.add_argument("--no-compile-stats", dest="code", action="store_false", help=code)
    parser.add_argument("--asm", action="store_true", help="show the inner loops")
    parser.add_argument("--plot", metavar="IMAGE", help="draw the roofline to this .png, .svg or .pdf")
    parser.set_defaults(run=kernels, parser=parser)


def _add_step_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "step",
        help="break a training step down by kernel",
        description="Time each part of a training step: forward, loss, backward and update of every layer.",
    )
    sizes = "inputs, hidden layers, outputs, such as 784,256,128,10"
    parser.add_argument("--layers", type=arguments.layer_sizes, metavar="N,...,K", required=True, help=sizes)
    rows = "rows (default: %(default)s)"
    parser.add_argument("--batch-size", type=arguments.integer, metavar="N", default=128, help=rows)
    parser.add_argument("--loss", choices=list(LOSSES), default="mse", help="of the outputs (default: %(default)s)")
    optimizers = list(step_breakdown.OPTIMIZERS)
    parser.add_argument("--optimizer", choices=optimizers, default="sgd", help="of the update (default: %(default)s)")
    _add_common_arguments(parser)
    parser.set_defaults(run=step, parser=parser)


def _add_common_arguments(parser: Any) -> None:
    dtype = "of the arrays (default: %(default)s)"
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help=dtype)
    counts = "numbers of threads, such as 1,2; each is timed (default: 1)"
    parser.add_argument("--threads", type=arguments.thread_counts, default=[1], metavar="N,...", help=counts)
    seconds = "about how long to time each (default: %(default)s)"
    parser.add_argument("--seconds", type=arguments.positive, default=0.5, metavar="S", help=seconds)
    parser.add_argument("--json", action="store_true", help="print JSON")


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
    cuda = variants.cuda_variants(options.operation, options.variants or ())
    if not candidates:
        return _cuda_kernels(options, cuda)
    picture = None if options.plot is None else figure.new_figure(options.plot, height=4.6)
    profiles: list[variants.Profile] = []
    for threads in options.threads:
        settings = (options.operation, case, candidates, options.dtype, threads, options.seconds)
        profiles.append(variants.profile(*settings, code=options.code and not profiles))
    if picture is not None:
        _plot(picture, options.plot, profiles)
    if options.json:
        result = {**hardware(), "profiles": [_as_json(profile) for profile in profiles]}
        if cuda:
            result["offline"] = _ptx_reports(options, cuda)
        print(json.dumps(result, indent=1))
        return 0
    print(
        f"{options.operation} {case}, {options.dtype}; {target.target_cpu()}, vectors of {target.vector_bytes()} bytes"
    )
    for profile in profiles:
        print("\n" + _table(profile))
    if options.code:
        print("\n" + _code_table(profiles[0], options.asm))
    if picture is not None:
        print(f"plot      {storage.display_path(options.plot)}")
    if cuda:
        print()
        return _cuda_kernels(options, cuda)
    return 0


def _cuda_kernels(options: argparse.Namespace, names: Sequence[str]) -> int:
    """Print what NVIDIA's compiler makes of CUDA variants; this needs no device and times nothing."""
    reports = _ptx_reports(options, names)
    if options.json:
        print(json.dumps({"offline": reports}, indent=1))
        return 0
    print(f"{options.operation}, {options.dtype}, compiled for sm_90 and not timed (bench/gpu.py does that, on a card)")
    heads = f"{'threads':>8}{'registers':>11}{'shared B':>10}{'spilled B':>11}{'16 B loads':>12}"
    print(f"{'variant':<12}{'kernel':<26}{heads}")
    for r in reports:
        sizes = (
            f"{r['threads']:>8}{r['registers']:>11}{r['shared_bytes']:>10}{r['spill_bytes']:>11}{r['wide_loads']:>12}"
        )
        print(f"{r['variant']:<12}{r['kernel']:<26}{sizes}")
    return 0


def _ptx_reports(options: argparse.Namespace, names: Sequence[str]) -> list[dict[str, Any]]:
    from ..kernels.cuda import ptx_report  # imports numba.cuda

    reports = ((name, r) for name in names for r in ptx_report.report(options.operation, name, options.dtype))
    return [{"variant": name, **asdict(report)} for name, report in reports]


def _table(profile: variants.Profile) -> str:
    limits = profile.limits
    least = limits.seconds(profile.flops, profile.bytes_moved)
    lines = [
        f"{_threads(limits.threads)}: at most {limits.gflops:.0f} GFLOP/s of FMAs, {limits.gbps:.0f} GB/s from "
        f"{limits.level}; {profile.flops / 1e6:.3g} MFLOP, {profile.bytes_moved / 1e6:.3g} MB, "
        f"{profile.intensity:.2f} FLOP/byte: {profile.binds} binds, {_us(least)} us at the limit",
        f"{'variant':<12}{'time us':>11}{'spread':>8}{'GFLOP/s':>10}{'GB/s':>8}{'of limit':>10}{'error':>8}",
    ]
    lines += [
        f"{m.variant:<12}{_us(m.seconds.median):>11}{m.seconds.relative_iqr:>7.1%} {m.gflops:>10.1f}{m.gbps:>8.1f}"
        f"{m.fraction_of_limit:>9.1%} {m.error_ratio:>8.3f}"
        for m in profile.measurements
    ]
    if not variants.BOUNDS_BLAS and any(m.variant == "reference" for m in profile.measurements):
        lines.append("reference: the threads of NumPy's BLAS are not limited (pip install threadpoolctl)")
    return "\n".join(lines)


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:.3f}" if us < 10 else f"{us:.2f}" if us < 1000 else f"{us:.0f}"


def _code_table(profile: variants.Profile, asm: bool) -> str:
    """Format compile times and inner loops, and the loops' assembly if asked for."""
    lines = [f"{'variant':<12}{'compile s':>11}  inner loop"]
    texts = []
    for m in profile.measurements:
        loop = m.code.loop if m.code else None
        took = f"{m.code.first_call_s:.2f}" if m.code else "-"
        lines.append(f"{m.variant:<12}{took:>11}  {_describe(loop) if m.code else 'NumPy'}")
        if asm and loop:
            texts.append(f"\n{m.variant}: {loop.function}\n{loop.text}")
    return "\n".join([*lines, *texts])


def _describe(loop: machine_code.Loop | None) -> str:
    if loop is None:
        return "not found: no loop with floating-point arithmetic"
    others = loop.arithmetic - loop.fmas
    also = f" and {others} other{'s' * (others > 1)}" if others else ""
    return f"{loop.fmas} FMAs{also} of {loop.vector_bytes} bytes in {loop.instructions} instructions, {loop.function}"


def _as_json(profile: variants.Profile) -> dict[str, Any]:
    return {
        "operation": profile.operation,
        "case": str(profile.case),
        "dtype": profile.dtype,
        "flops": profile.flops,
        "bytes": profile.bytes_moved,
        "intensity": profile.intensity,
        "binds": profile.binds,
        "limits": asdict(profile.limits),
        "variants": [
            asdict(m) | {"seconds": m.seconds.median, "quartiles": [m.seconds.low, m.seconds.high]}
            for m in profile.measurements
        ],
    }


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
    print(f"{'part':<14}{'M x K x N':>15}{'time us':>11}{'spread':>8}{'of step':>9}{'GFLOP/s':>10}{'of limit':>10}")
    whole = found.step.median
    for part in found.parts:
        print(
            _step_row(f"{part.name:<14}{part.shape:>15}", part.seconds, whole)
            + _rates(part.flops, part.seconds.median, found.gflops)
        )
    print(f"{'remainder':<29}{_us(found.remainder):>11}{'':>8}{found.remainder / whole:>8.1%}")
    flops = sum(part.flops for part in found.parts)
    print(_step_row("step", found.step, whole) + _rates(flops, whole, found.gflops))
    for count, times in found.threaded.items():
        print(_step_row(f"step, {count} threads", times, whole))
    print("\nweights: dW, db, update and W^T of a layer. Each part is timed by itself, with its arrays in the nearest")
    print("cache; the remainder is what the parts do not explain.")
    return 0


def _step_row(name: str, seconds: Spread, whole: float) -> str:
    median = seconds.median
    return f"{name:<29}{_us(median):>11}{seconds.relative_iqr:>7.1%} {median / whole:>8.1%}"


def _rates(flops: float, seconds: float, gflops: float) -> str:
    """Format GFLOP/s and their ratio to the limit; dashes where nothing is multiplied."""
    rate = flops / seconds / 1e9
    return f"{rate:>10.1f}{rate / gflops:>9.1%}" if flops else f"{'-':>10}{'-':>9}"
