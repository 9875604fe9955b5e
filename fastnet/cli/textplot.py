"""Curves and tables as plain text, for terminals, pipes and log files."""

import math
from collections.abc import Mapping, Sequence

_MARKS = "*o+x"
_LOG_FROM = 20.0  # if max / min exceeds this, the scale is logarithmic


def curves(named: Mapping[str, Sequence[float]], width: int = 64, height: int = 12) -> str:
    """Draw curves over the same epochs.

    Parameters
    ----------
    named : mapping of str to sequence of float
        One value per epoch; values that are not finite are left out. Later curves are drawn over earlier ones.
    width, height : int, default 64 and 12
        Size of the drawing in characters, without its axes; at least 2.

    Returns
    -------
    str
        Lines of ASCII text with the smallest and largest value and the first and last epoch.
    """
    values = [value for curve in named.values() for value in curve if math.isfinite(value)]
    if not values:
        return "(nothing to draw: no value is finite)"
    low, high = min(values), max(values)
    logarithmic = low > 0 and high > _LOG_FROM * low
    scale = math.log if logarithmic else float
    span = (scale(high) - scale(low)) or 1.0
    epochs = max(len(curve) for curve in named.values())
    columns = min(width, max(2, epochs))
    grid = [[" "] * columns for _ in range(height)]
    for mark, curve in zip(_MARKS, named.values(), strict=False):
        for column in range(columns):
            epoch = round(column * (epochs - 1) / (columns - 1))
            value = curve[epoch] if epoch < len(curve) else math.nan
            if math.isfinite(value):
                grid[round((scale(high) - scale(value)) / span * (height - 1))][column] = mark
    labels = {0: f"{high:.3g}", height - 1: f"{low:.3g}"}
    margin = max(map(len, labels.values()))
    lines = [f"{labels.get(i, ''):>{margin}} |{''.join(row).rstrip()}" for i, row in enumerate(grid)]
    lines.append(f"{'':>{margin}} +{'-' * columns}")
    lines.append(f"{'':>{margin}}  {'0':<{columns - len(str(epochs - 1))}}{epochs - 1}  epoch")
    legend = "   ".join(f"{mark} {name}" for mark, name in zip(_MARKS, named, strict=False))
    lines.append(f"{'':>{margin}}  {legend}{'   (log scale)' if logarithmic else ''}")
    return "\n".join(lines)


def table(alignments: str, rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells as lines, two spaces between columns; ``<`` or ``>`` aligns each column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{{:{align}{width}}}" for align, width in zip(alignments, widths, strict=True)]
    return "\n".join("  ".join(formats).format(*row).rstrip() for row in rows)
