"""The progress bar of `Trainer.fit`, in terminals and notebooks."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

_LABEL = ContextVar("_LABEL", default="")

_FORMAT = "{desc}{percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
"""Fits 80 columns with two losses of four digits and up to 10 000 epochs."""


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and "IPKernelApp" in getattr(shell.get_ipython(), "config", ())


@contextmanager
def bars_labelled(label: str) -> Iterator[None]:
    """Within a block, prefix progress bars with a label such as ``"refit: "``."""
    token = _LABEL.set(label)
    try:
        yield
    finally:
        _LABEL.reset(token)


def progress_bar(epochs: int, show: bool | None) -> Any:
    """Return a context manager that yields a bar, or None: even a disabled bar costs 40 us.

    ``show=None`` shows a bar only on terminals and in notebooks.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()  # None under pythonw
    if not (terminal or _in_notebook() if show is None else show):
        return nullcontext()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets, the bar is text
        from tqdm.auto import tqdm
    return tqdm(total=epochs, unit="epoch", file=sys.stderr, bar_format=_FORMAT, desc=_LABEL.get())


def update_bar(bar: Any, row: dict[str, float], epochs: int = 1) -> None:
    """Advance by some epochs, and show the last one's losses, or its loss and accuracy."""
    names = [name for name in ("loss", "val_loss", "accuracy") if name in row][:2]
    bar.set_postfix({name: f"{row[name]:.4g}" for name in names}, refresh=False)
    bar.update(epochs)
