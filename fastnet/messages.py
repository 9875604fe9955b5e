"""Wording shared by the messages of several modules."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .io import storage


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural: 1 row, 1,234 rows."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listed(names: Iterable[Any]) -> str:
    """Join names for a message; beyond 8, give only the number of the rest."""
    every = [repr(str(name)[:40]) for name in names]
    return ", ".join(every[:8]) + (f" and {len(every) - 8:,} more" if len(every) > 8 else "")


@contextmanager
def one_line(path: storage.Path, doing: str = "cannot be read") -> Iterator[None]:
    """Turn other libraries' errors about a file into a one-line ValueError that names the file."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        said = (
            " ".join(str(error).removeprefix("Error tokenizing data. ").removeprefix("C error: ").split())[:300]
            or type(error).__name__
        )
        said, shown = storage.printable(said), storage.display_path(path)
        raise ValueError(said if said.startswith(shown) else f"{shown} {doing}: {said}") from None
