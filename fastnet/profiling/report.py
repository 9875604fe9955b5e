"""Writes a profile as one self-contained HTML page: machine, tables, plots, diagnoses, annotated inner loops.

The page of a whole benchmark run uses `document` and `svg` too.

Matplotlib draws the plots as SVG within the page; templates format everything else as text.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..kernels.jit import target
from ..messages import counted
from . import llvm_mca, roofline, sweep, tables
from .loop_bounds import bounds, kinds_of
from .variants import Measurement, Profile, machine_limits
from .verdicts import Verdict

_LETTERS = {"arithmetic": "F", "divisions": "D", "loads": "L", "stores": "S"}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem; color: #222; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }}
.wide {{ overflow-x: auto; }} .wide + .wide {{ margin-top: 1.5rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: .2rem .7rem; border-bottom: 1px solid #eee; white-space: nowrap; }}
th:first-child, td:first-child, .facts td {{ text-align: left; }} th:first-child, td:first-child {{ padding-left: 0; }}
.side {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 1.5rem; }}
.side > * {{ min-width: 0; }}
svg {{ width: 100%; height: auto; max-width: 40rem; }}
figure {{ margin: 1.5rem 0; }} figure svg {{ width: auto; max-width: 100%; }}
pre {{ font: 12px/1.4 ui-monospace, monospace; background: #f7f7f7; padding: .6rem; }}
pre {{ overflow: auto; max-height: 32rem; }}
.F {{ background: #d3e6f5; }} .D {{ background: #f3d9d0; }} .L {{ background: #d5efe4; }} .S {{ background: #f8e6c4; }}
.slower, .binds {{ color: #a33; font-weight: bold; }} .faster {{ color: #06644a; font-weight: bold; }}
.note {{ color: #555; font-size: .9rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def page(
    profiles: Sequence[Profile],
    sweeps: Sequence[Sequence[Profile]],
    machine: Mapping[str, object],
    compared: Sequence[Mapping[str, Verdict]] = (),
) -> str:
    """Write a page.

    Parameters
    ----------
    profiles : sequence of Profile
        Profiles of one operation and case, with different numbers of threads.
    sweeps : sequence of sequence of Profile
        Profiles of growing sizes, each sweep with one number of threads.
    machine : mapping of str to object
        Names and values that describe the machine.
    compared : sequence of mapping, optional
        For each profile, the result of the comparison with a baseline.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    first = profiles[0]
    facts = _table([("machine", ""), *((name, str(value)) for name, value in machine.items())])
    body = [f'<div class="facts">{facts}</div>']
    for i, profile in enumerate(profiles):
        body += [f"<h2>{counted(profile.limits.threads, 'thread')}</h2>", f"<p>{escape(tables.limits(profile))}</p>"]
        body.append(_table(tables.measurements(profile)))
        body.append(_list(": ".join(filter(None, said)) for said in tables.diagnoses(profile)))
        body += [_comparison(compared[i])] if compared else []
    body += ["<h2>Roofline and sizes</h2>", '<div class="side">']
    body += [_roofline(profile) for profile in profiles]
    for profiles_of_sizes in sweeps:
        body += [_sizes(profiles_of_sizes, False), _sizes(profiles_of_sizes, True)]
    body += ["</div>", _list(cliff.sentence() for sizes in sweeps for cliff in sweep.cliffs(sizes))]
    loops = [_loop(m) for m in first.measurements if m.code and m.code.loop]
    if loops:
        note = "F: floating-point arithmetic, D: division or square root, L: load, S: store, at the left of each line."
        body += ["<h2>Inner loops</h2>", f'<p class="note">{note} Cycles: what an iteration takes at least.</p>']
        body += ['<div class="side">', *loops, "</div>"]
    title = f"{first.operation} {first.case}, {first.dtype}"
    return document(title, "\n".join(body))


def document(title: str, body: str) -> str:
    """Write a page from a title, which is text, and a body, which is HTML."""
    return _PAGE.format(title=escape(title), body=body)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Format a table of cells, which are text, under headings."""
    heads, *lines = [[escape(cell) for cell in row] for row in rows]
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in lines)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _list(lines: Iterable[str]) -> str:
    """Format a list of lines, which are text."""
    return "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


def _comparison(compared: Mapping[str, Verdict]) -> str:
    found = _table(tables.comparison(compared))
    for word in ("slower", "faster"):
        found = found.replace(f"<td>{word}</td>", f'<td class="{word}">{word}</td>')
    return found


# ---------------------------------------------------------------------------------------------- plots


def svg(figure: Any, salt: str) -> str:
    """Return a matplotlib figure as SVG that keeps text as text; the salt makes its ids unique."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _plot(draw: Callable[[Any], None], salt: str) -> str:
    """Draw into new axes and return them as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    draw(figure.subplots())
    return f"<div>{svg(figure, salt)}</div>"


def _roofline(profile: Profile) -> str:
    count = profile.limits.threads
    points = [roofline.Point(m.variant, profile.intensity, m.gflops, m.variant) for m in profile.measurements]
    gbps = machine_limits(count)["gbps"]
    title = f"roofline, {counted(count, 'thread')}"
    return _plot(lambda ax: roofline.draw(ax, points, profile.limits.gflops, gbps, title), title)


def _sizes(profiles: Sequence[Profile], times: bool) -> str:
    found = sweep.cliffs(profiles)
    return _plot(lambda ax: sweep.draw(ax, profiles, found, times), f"sizes {times} {profiles[0].limits.threads}")


# ---------------------------------------------------------------------------------------------- loops


def _loop(m: Measurement) -> str:
    """Format an inner loop: the bounds of an iteration, then each line with letters for what it does."""
    assert m.code is not None
    assert m.code.loop is not None
    loop, found = m.code.loop, bounds(m.code.loop)
    cells = []
    for name, cycles in found.cycles.items():
        if cycles:
            text = f"{escape(name)} {cycles:.3g}"
            cells.append(f'<b class="binds">{text}</b>' if name == found.binding else text)
    lines = [
        f"<h3>{escape(m.variant)}</h3>",
        f'<p class="note">{escape(loop.function)}<br>cycles: {", ".join(cells)}</p>',
    ]
    if simulated := llvm_mca.simulate(loop.text, target.target_cpu()):
        lines.append(f'<p class="note">by llvm-mca: {escape(simulated.sentence())}</p>')
    shown = []
    for line in loop.text.splitlines():
        letters = [_LETTERS[kind] for kind in kinds_of(line.strip())]
        text = f"{''.join(sorted(set(letters))):<3}{escape(line)}"
        shown.append(f'<span class="{letters[0]}">{text}</span>' if letters else text)
    return "<div>" + "\n".join(lines) + "\n<pre>" + "\n".join(shown) + "</pre></div>"
