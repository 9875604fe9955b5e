"""The argument parser of the command line, and the types of its arguments."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from .. import checks

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line and accepts no abbreviated options.

    The options it returns have the attribute ``parser``, the parser of the command. Each command's parser also sets the
    default ``run``, a function that takes the options and returns the exit status.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        """Print one line to standard error and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_args(self, arguments: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; the parser of the command that received unknown ones reports them."""
        found, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            found.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def option(self, name: str, text: str, **options: Any) -> None:
        """Add an argument with its help, which ends with the default if there is one and it is not an empty list."""
        shown = "" if options.get("default", []) == [] else " (default: %(default)s)"
        self.add_argument(name, help=text + shown, **options)


def _type(expected: str, parse: Callable[[str], T]) -> Callable[[str], T]:
    """Make an argument type that turns a ValueError into a message with the text and what was expected."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None

    return parsed


def _count(text: str) -> int:
    return checks.integer("number", int(text), least=1)


def _counts(text: str, least: int = 1) -> list[int]:
    counts = [_count(part) for part in text.split(",")]
    checks.integer("length", len(counts), least)
    return counts


integer = _type("a whole number of at least 1", _count)
seed = _type("a whole number from 0 to 2**64 - 1", lambda text: checks.seed(int(text)))
not_negative = _type("a number of at least 0", lambda text: checks.number("number", float(text), least=0))
share = _type("a number >= 0 and < 1", lambda text: checks.number("number", float(text), least=0, below=1))
positive = _type("a number above 0", lambda text: checks.number("number", float(text), above=0))
_BATCHES = {"full": None, "auto": "auto"}
batch_size = _type(
    "a whole number of at least 1, full, or auto", lambda text: _BATCHES[text] if text in _BATCHES else _count(text)
)
integers = _type("a list of whole numbers of at least 1, such as 64,64", _counts)
hidden_sizes = _type("a list of sizes such as 64,64, or none", lambda text: [] if text == "none" else _counts(text))
layer_sizes = _type(
    "a list of at least two sizes, inputs and outputs, such as 784,256,128,10", lambda text: _counts(text, least=2)
)


def names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Make the argument type for a list of known names, separated by commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if not set(names) <= set(known):
            raise ValueError(text)
        return names

    return _type(f"a list of names from {', '.join(known)}", parse)
