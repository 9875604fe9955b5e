"""Figures for the option --plot: made before anything is computed, so that a wrong file name is refused first."""

import os
from typing import Any

from ..io import storage


def new_figure(path: str) -> Any:
    """Make a figure of 7 by 4.2 inches, without a window, for a file.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    OSError, ValueError
        If the file cannot be written, or its suffix is not that of an image that matplotlib can write.
    """
    storage.check_target(path)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("--plot needs the package matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    types = figure.canvas.get_supported_filetypes()
    if _suffix(path) not in types:
        shown = storage.display_path(path)
        raise ValueError(f"--plot {shown}: unknown image type; expected one of {', '.join(sorted(types))}")
    return figure


def save_figure(figure: Any, path: str) -> None:
    """Write a figure to its file, which is replaced only once all is written."""
    with storage.replacing(path) as file:
        figure.savefig(file, format=_suffix(path), dpi=150)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower() or "png"
