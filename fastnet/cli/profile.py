"""What `fastnet profile` and `fastnet info --measure` do, once their arguments are parsed.

Imports `profiling`, `stepprofile`, `roofline`, `storage`. Results go to standard output, as a table or with --json.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..io import storage
from ..kernels.cpu.threads.pool import num_threads
from ..kernels.jit import target
from ..profiling import machine_code, roofline, step_breakdown, variants


def hardware() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"cpu": target.target_cpu(), "vector_bytes": target.vector_bytes(), "threads": num_threads()}


def measure(threads: Sequence[int]) -> list[tuple[str, str]]:
    """The limits of this machine as lines of `fastnet info`."""
    lines = []
    for count in threads:
        limits = variants.machine_limits(count)
        of = f"{count} thread{'s' * (count > 1)}"
        rates = ", ".join(f"{rate:.0f} GFLOP/s {dtype}" for dtype, rate in limits["gflops"].items())
        lines.append(("FMA peak", f"{of}: {rates}"))
        rates = ", ".join(f"{level} {rate:.0f}" for level, rate in limits["gbps"].items())
        lines.append(("bandwidth", f"{of}: {rates} GB/s, read"))
    return lines


# --------------------------------------------------------------------------------------------- kernels


def kernels(options: argparse.Namespace) -> int:
    """Profile variants of an operation; print what was found."""
    on_card = variants.on_card(options.operation, options.variants or ())
    tried = variants.chosen(options.operation, options.variants, options.dtype)
    if not tried:
        return _cards(options, on_card)
    case = variants.case_of(options.operation, options.shape, options.option)
    figure = None if options.plot is None else _figure(options.plot)
    profiles: list[variants.Profile] = []
    for threads in options.threads:
        arguments = (options.operation, case, tried, options.dtype, threads, options.seconds)
        profiles.append(variants.profile(*arguments, code=options.code and not profiles))
    if figure is not None:
        _plot(figure, options.plot, profiles)
    if options.json:
        found = {**hardware(), "profiles": [_as_json(profile) for profile in profiles]}
        if on_card:
            found["offline"] = _offline(options, on_card)
        print(json.dumps(found, indent=1))
        return 0
    print(
        f"{options.operation} {case}, {options.dtype}; {target.target_cpu()}, vectors of {target.vector_bytes()} bytes"
    )
    for profile in profiles:
        print("\n" + _table(profile))
    if options.code:
        print("\n" + _code_table(profiles[0], options.asm))
    if figure is not None:
        print(f"plot      {storage.display_path(options.plot)}")
    if on_card:
        print()
        return _cards(options, on_card)
    return 0


def _cards(options: argparse.Namespace, names: Sequence[str]) -> int:
    """What NVIDIA's compiler makes of CUDA variants; no card is needed, and none is timed."""
    found = _offline(options, names)
    if options.json:
        print(json.dumps({"offline": found}, indent=1))
        return 0
    print(f"{options.operation}, {options.dtype}, compiled for sm_90 and not timed (bench/gpu.py does that, on a card)")
    heads = f"{'threads':>8}{'registers':>11}{'shared B':>10}{'spilled B':>11}{'16 B loads':>12}"
    print(f"{'variant':<12}{'kernel':<26}{heads}")
    for r in found:
        sizes = (
            f"{r['threads']:>8}{r['registers']:>11}{r['shared_bytes']:>10}{r['spill_bytes']:>11}{r['wide_loads']:>12}"
        )
        print(f"{r['variant']:<12}{r['kernel']:<26}{sizes}")
    return 0


def _offline(options: argparse.Namespace, names: Sequence[str]) -> list[dict[str, Any]]:
    from ..kernels.cuda import ptx_report  # imports numba.cuda

    reports = ((name, r) for name in names for r in ptx_report.report(options.operation, name, options.dtype))
    return [{"variant": name, **asdict(report)} for name, report in reports]


def _table(profile: variants.Profile) -> str:
    limits = profile.limits
    threads = f"{limits.threads} thread{'s' * (limits.threads > 1)}"
    roof = limits.seconds(profile.flops, profile.elements_moved)
    lines = [
        f"{threads}: at most {limits.gflops:.0f} GFLOP/s of FMAs, {limits.gbps:.0f} GB/s from {limits.level}; "
        f"{profile.flops / 1e6:.3g} MFLOP, {profile.elements_moved / 1e6:.3g} MB, {profile.intensity:.2f} FLOP/byte: "
        f"{profile.binds} binds, {_us(roof)} us at the limit",
        f"{'variant':<12}{'time us':>11}{'spread':>8}{'GFLOP/s':>10}{'GB/s':>8}{'of limit':>10}{'error':>8}",
    ]
    lines += [
        f"{m.variant:<12}{_us(m.seconds.median):>11}{m.seconds.share:>7.1%} {m.gflops:>10.1f}{m.gbps:>8.1f}"
        f"{m.fraction_of_limit:>9.1%} {m.error:>8.3f}"
        for m in profile.measurements
    ]
    if not variants.BOUNDS_BLAS and any(m.variant == "reference" for m in profile.measurements):
        lines.append("reference: NumPy's BLAS on as many threads as it likes (pip install threadpoolctl bounds it)")
    return "\n".join(lines)


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:.3f}" if us < 10 else f"{us:.2f}" if us < 1000 else f"{us:.0f}"


def _code_table(profile: variants.Profile, asm: bool) -> str:
    """Compile times and inner loops, and if wanted their text."""
    lines = [f"{'variant':<12}{'compile s':>11}  inner loop"]
    texts = []
    for m in profile.measurements:
        loop = m.code.loop if m.code else None
        took = f"{m.code.first_call_s:.2f}" if m.code else "-"
        lines.append(f"{m.variant:<12}{took:>11}  {_said(loop) if m.code else 'NumPy'}")
        if asm and loop:
            texts.append(f"\n{m.variant}: {loop.function}\n{loop.text}")
    return "\n".join([*lines, *texts])


def _said(loop: machine_code.Loop | None) -> str:
    if loop is None:
        return "not found: no arithmetic in a loop of its own, or none that can be told from others'"
    others = loop.arithmetic - loop.fmas
    also = f" and {others} other{'s' * (others > 1)}" if others else ""
    return f"{loop.fmas} FMAs{also} of {loop.vector_bytes} bytes in {loop.instructions} instructions, {loop.function}"


def _as_json(profile: variants.Profile) -> dict[str, Any]:
    about: dict[str, Any] = {"operation": profile.operation, "case": str(profile.case), "dtype": profile.dtype}
    about |= {
        "flops": profile.flops,
        "bytes": profile.elements_moved,
        "intensity": profile.intensity,
        "binds": profile.binds,
    }
    measurements = []
    for m in profile.measurements:
        found = asdict(m) | {"seconds": m.seconds.median, "quartiles": [m.seconds.low, m.seconds.high]}
        measurements.append(found)
    return {**about, "limits": asdict(profile.limits), "variants": measurements}


def _figure(path: str) -> Any:
    """A figure for a file of a type that matplotlib can write, before any work."""
    storage.check_target(path)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('--plot needs the package matplotlib: pip install "fastnet-jit[plot]"') from None
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    types = figure.canvas.get_supported_filetypes()
    if path.rpartition(".")[2].lower() not in types:
        raise ValueError(f"--plot {path}: unknown type of picture; there are: {', '.join(sorted(types))}")
    return figure


def _plot(figure: Any, path: str, profiles: Sequence[variants.Profile]) -> None:
    """One roofline for each number of threads."""
    axes = figure.subplots(1, len(profiles), squeeze=False)[0]
    figure.set_size_inches(7 * len(profiles), 4.6)
    for ax, profile in zip(axes, profiles, strict=True):
        limits = variants.machine_limits(profile.limits.threads)
        points = [roofline.Point(m.variant, profile.intensity, m.gflops, m.variant) for m in profile.measurements]
        threads = f"{profile.limits.threads} thread{'s' * (profile.limits.threads > 1)}"
        title = f"{profile.operation} {profile.case}, {profile.dtype}, {threads}"
        roofline.draw(ax, points, profile.limits.gflops, limits["gbps"], title)
    figure.savefig(path, dpi=150)


# ------------------------------------------------------------------------------------------------ train


def step(options: argparse.Namespace) -> int:
    """Break a training step down by kernel."""
    found = step_breakdown.profile_step(
        options.layers,
        options.batch_size,
        options.dtype,
        options.loss,
        options.optimizer,
        options.threads,
        max(2.0, 6 * options.seconds),
    )
    if options.json:
        parts = [asdict(part) | {"seconds": part.seconds.median} for part in found.parts]
        summary = asdict(found) | {"step": found.step.median, "remainder": found.remainder, "parts": parts}
        summary["threaded"] = {str(count): times.median for count, times in found.threaded.items()}
        print(json.dumps({**hardware(), **summary}, indent=1))
        return 0
    whole = found.step.median
    sizes = "-".join(map(str, found.layer_sizes))
    print(
        f"a step of {sizes}, batch {found.batch_size}, {found.dtype}, {found.loss}, {found.optimizer}, unshuffled; "
        f"{target.target_cpu()}, 1 thread, at most {found.gflops:.0f} GFLOP/s\n"
    )
    print(f"{'part':<14}{'M x K x N':>15}{'time us':>11}{'spread':>8}{'of step':>9}{'GFLOP/s':>10}{'of limit':>10}")
    for part in found.parts:
        median, rate = part.seconds.median, part.flops / part.seconds.median / 1e9
        rates = f"{rate:>10.1f}{rate / found.gflops:>9.1%}" if part.flops else f"{'-':>10}{'-':>9}"
        print(
            f"{part.name:<14}{part.shape:>15}{_us(median):>11}{part.seconds.share:>7.1%} {median / whole:>8.1%}{rates}"
        )
    print(f"{'remainder':<29}{_us(found.remainder):>11}{'':>8}{found.remainder / whole:>8.1%}")
    flops = sum(part.flops for part in found.parts)
    rates = f"{flops / whole / 1e9:>10.1f}{flops / whole / 1e9 / found.gflops:>9.1%}"
    print(f"{'step':<29}{_us(whole):>11}{found.step.share:>7.1%} {1:>8.1%}{rates}")
    for count, times in found.threaded.items():
        name = f"step, {count} threads"
        print(f"{name:<29}{_us(times.median):>11}{times.share:>7.1%} {times.median / whole:>8.1%}")
    print("\nweights: dW, db, update and W^T of a layer. Each part by itself, in caches of its own; the remainder is")
    print("what the parts do not explain.")
    return 0
