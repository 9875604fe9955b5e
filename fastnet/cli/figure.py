"""Figures for the option --plot, made before any computation so that a wrong file name is rejected early."""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..history import History
from ..io import storage


def require_matplotlib(option: str) -> None:
    """Raise an ImportError that names the option, if matplotlib is not installed."""
    try:
        import_module("matplotlib.figure")
    except ImportError:
        raise ImportError(f"{option} needs the package matplotlib: pip install matplotlib") from None


def new_figure(path: str) -> Any:
    """Make a figure of 7 by 4.2 inches for a file, without a window.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    OSError, ValueError
        If the file cannot be written, or its suffix is not of an image type that matplotlib can write.
    """
    storage.check_target(path)
    require_matplotlib("--plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    types = figure.canvas.get_supported_filetypes()
    if _suffix(path) not in types:
        shown = storage.display_path(path)
        raise ValueError(f"--plot {shown}: unknown image type; expected one of {', '.join(sorted(types))}")
    return figure


def draw(histories: Sequence[History], ax: Any) -> None:
    """Draw the curves of a network, or those of several as thin lines with their mean over the epochs that all have."""
    if len(histories) == 1:
        histories[0].plot(ax)
        return
    shared = min(history.epochs for history in histories)
    for name, colour in (("loss", "#4477aa"), ("val_loss", "#cc6644")):
        curves = [np.where(np.isfinite(history[name]), history[name], np.nan) for history in histories]
        for curve in curves:
            ax.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.6, alpha=0.6)
        mean = np.mean([curve[:shared] for curve in curves], axis=0)
        ax.plot(range(1, shared + 1), mean, color=colour, linewidth=2, label=f"{name}: mean of {len(curves)} networks")
    ax.set(title=f"{len(histories)} networks", xlabel="epoch", ylabel="loss (log scale)", yscale="log")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)


def save_figure(figure: Any, path: str) -> None:
    """Write a figure to its file, which is replaced only after everything has been written."""
    with storage.replacing(path) as file:
        figure.savefig(file, format=_suffix(path), dpi=150)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower() or "png"
