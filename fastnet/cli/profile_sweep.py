"""The command ``fastnet profile sweep``: the speed of a kernel's variants over a range of sizes."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..io import storage
from ..kernels.specs.operations import OP_SPECS
from ..messages import counted
from ..profiling import sweep, variants
from . import arguments, figure, textplot
from .profile_options import add_common_options, check_threads, hardware


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "sweep",
        help="time the variants of a kernel over a range of sizes",
        description="Time each variant of a kernel at sizes from 8 to 2048, all sizes of a problem the same, beside "
        f"the limit at each, and name the cliffs: sizes at which a variant falls below {sweep.FALL} of its speed at "
        f"the size before. A variant whose call takes longer than {sweep.SLOWEST_S} s is left out at larger sizes.",
        epilog="Without --plot, which needs matplotlib, a table is all there is.",
    )
    parser.set_defaults(run=run)
    parser.option("operation", "a public kernel, such as matmul", metavar="KERNEL", choices=list(OP_SPECS))
    sizes = "sizes, such as 64,128,256 (default: 8 to 2048; up to 512 in float64; their squares for vectors)"
    parser.option("--sizes", sizes, type=arguments.integers, metavar="N,...")
    names = "which to time, such as reference,simd (default: all)"
    parser.option("--variants", names, type=lambda text: text.split(","), metavar="A,B")
    add_common_options(parser, seconds=0.1)
    parser.option("--plot", "draw GFLOP/s against size to this .png, .svg or .pdf", metavar="IMAGE")


def run(options: argparse.Namespace) -> int:
    """Time the sizes and print a table for each number of threads; return the exit status."""
    check_threads(options)
    try:
        candidates = variants.chosen(options.operation, options.variants, options.dtype)
    except ValueError as error:
        options.parser.error(str(error))
    picture = figure.new_figure(options.plot) if options.plot is not None else None
    sizes = options.sizes or sweep.default_sizes(options.operation, options.dtype)
    settings = options.operation, candidates, sizes, options.dtype
    found = {count: list(sweep.sweep(*settings, count, options.seconds)) for count in options.threads}
    if picture is not None:
        picture.set_size_inches(7 * len(found), 4.4)
        for ax, profiles in zip(picture.subplots(1, len(found), squeeze=False)[0], found.values(), strict=True):
            sweep.draw(ax, profiles, sweep.cliffs(profiles))
        figure.save_figure(picture, options.plot)
    if options.json:
        runs = [as_json(profiles) for profiles in found.values()]
        print(
            json.dumps({**hardware(), "operation": options.operation, "dtype": options.dtype, "sweeps": runs}, indent=1)
        )
        return 0
    texts = [f"{options.operation}, {options.dtype}, GFLOP/s; {hardware()['cpu']}"]
    texts += [f"{counted(count, 'thread')}\n{table(profiles)}" for count, profiles in found.items()]
    texts += [f"plot      {storage.display_path(options.plot)}"] if picture is not None else []
    print("\n\n".join(texts))
    return 0


def table(profiles: Sequence[variants.Profile]) -> str:
    """Format the GFLOP/s by size and variant, next to the limit, and below them the cliffs."""
    names = list(sweep.speeds(profiles))
    rows = [("size", *names, "limit")]
    for each in profiles:
        rates = {m.variant: f"{m.gflops:.2f}" for m in each.measurements}
        limit = each.flops / each.limits.seconds(each.flops, each.bytes_moved) / 1e9
        rows.append((str(each.case.dims[0]), *(rates.get(name, "-") for name in names), f"{limit:.2f}"))
    lines = [textplot.table(">" * len(rows[0]), rows)]
    lines += [f"cliff: {cliff.sentence()}" for cliff in sweep.cliffs(profiles)]
    return "\n".join(lines)


def as_json(profiles: Sequence[variants.Profile]) -> dict[str, Any]:
    """Return a sweep for JSON: the limits and each variant's times by size, then the cliffs."""
    sizes = [
        {
            "case": str(each.case),
            "flops": each.flops,
            "bytes": each.bytes_moved,
            "limits": asdict(each.limits),
            "variants": {m.variant: {"seconds": m.seconds.median, "gflops": m.gflops} for m in each.measurements},
        }
        for each in profiles
    ]
    return {"sizes": sizes, "cliffs": [cliff._asdict() for cliff in sweep.cliffs(profiles)]}
