"""The command line: ``fastnet train | predict | export | profile | info``.

Each command is a module with a function ``add_parser(subparsers)``. Results go to standard output; the progress bar and
errors, one line each, go to standard error. The exit status is 0 on success, 1 if the work failed, 2 for wrong usage,
or 130 after Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module

from .. import __version__
from ..kernels.verify import WrongKernelError
from . import launcher
from .arguments import Parser

COMMANDS = ("train", "predict", "export", "profile", "info")

_EXAMPLES = """\
examples:
  fastnet train                                                 the bundled handwritten digits
  fastnet train houses.csv --target price --out houses.skops    a table of your own
  fastnet predict houses.skops new.csv --out predictions.csv    new rows of it

`fastnet COMMAND --help` lists the options of a command."""


def make_parser(commands: Sequence[str] = COMMANDS) -> Parser:
    """Make the parser of the command line for these commands, and import only their modules."""
    parser = Parser(
        prog="fastnet",
        description="Train dense networks with compiled kernels.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastnet {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for command in commands:
        import_module(f".{command}", __package__).add_parser(subparsers)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, given without the program's name; the attribute `run` of the options is its command."""
    named = [command for command in COMMANDS if command in arguments[:1]]
    with launcher.only_first_prints() if named == ["train"] else nullcontext():
        return make_parser(named or COMMANDS).parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Run a command and return the exit status."""
    try:
        status: int = options.run(options)
        if sys.stdout is not None:  # None if the shell closed it
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("fastnet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, MemoryError, OSError, RuntimeError, ValueError, WrongKernelError) as error:
        print(f"{options.parser.prog}: {error}", file=sys.stderr)
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own, and return the exit status."""
    return run(parse(sys.argv[1:] if arguments is None else arguments))
