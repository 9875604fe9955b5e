"""The argument parser of the command line, and the types of its arguments."""

import argparse
from typing import Any, NoReturn

from .. import checks


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line and accepts no abbreviated options.

    The parser of each command has the defaults ``run``, a function of the parsed options that returns the exit status,
    and ``parser``, itself.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print one line to standard error and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_args(self, arguments: Any = None, namespace: Any = None) -> Any:
        """Parse; unknown arguments are reported by the parser of the command that received them."""
        found, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            found.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found


def integer(text: str, least: int = 1, expected: str = "a whole number of at least 1") -> int:
    """Parse a whole number of at least ``least``."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def seed(text: str) -> int:
    """Parse a seed."""
    try:
        return checks.seed(int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**64 - 1") from None


def batch_size(text: str) -> int | None:
    """Parse a number of rows; ``full`` gives None."""
    return None if text == "full" else integer(text, expected="a whole number of at least 1, or full")


def integers(text: str, expected: str = "a list of whole numbers of at least 1, such as 64,64") -> list[int]:
    """Parse whole numbers of at least 1, separated by commas."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return values


def hidden_sizes(text: str) -> list[int]:
    """Parse the sizes of hidden layers; ``none`` gives an empty list."""
    return [] if text == "none" else integers(text, "a list of sizes such as 64,64, or none")


def layer_sizes(text: str) -> list[int]:
    """Parse the sizes of at least two layers."""
    expected = "a list of at least two sizes, inputs and outputs, such as 784,256,128,10"
    sizes = integers(text, expected)
    if len(sizes) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return sizes


def thread_counts(text: str) -> list[int]:
    """Parse numbers of threads."""
    return integers(text, "a list of whole numbers of at least 1, such as 1,2")


def names(text: str) -> list[str]:
    """Parse names separated by commas."""
    return text.split(",")


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    try:
        return checks.number("number", float(text), above=0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0") from None
