"""Directives whose text is generated from the package, so that no page repeats what the code says.

`fastnet-options` makes a table of all options of each command from the parsers; `fastnet-kernels` documents the public
kernels, in the order of their specs. Docstrings' equations hold bars and carets, which are escaped for
reStructuredText.
"""

import argparse
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from fastnet import kernels
from fastnet.cli.main import make_parser
from fastnet.kernels.specs.activations import ACTIVATIONS
from fastnet.kernels.specs.losses import LOSSES


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parser of every command, in the order of the help."""
    choices = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not choices:
        yield parser
    for sub in choices:
        for command in sub.values():
            yield from commands(command)


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str]]:
    """Yield name, values or default, and help of every argument of a command."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._VersionAction):
            continue
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
        takes = action.metavar if action.option_strings and action.nargs != 0 else None
        text = (action.help or "") % {**vars(action), "prog": parser.prog}
        text = re.sub(r" \(default: (?!%).*\)$", "", text) if takes is None and action.nargs == 0 else text
        allowed = " ".join(f"`{value}`" for value in action.choices) if action.choices else f"`{takes}`" * bool(takes)
        yield names, allowed, text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def option_tables() -> str:
    """Return a heading, a sentence and a table for every command, as MyST."""
    lines = []
    for parser in commands(make_parser()):
        lines += [f"## {parser.prog}", "", parser.description or "", ""]
        lines += ["```text", " ".join(parser.format_usage().removeprefix("usage: ").split()), "```", ""]
        rows = [" | ".join(map(_cell, row)) for row in options(parser)]
        lines += ["| argument | values | |", "|---|---|---|", *(f"| {row} |" for row in rows), ""]
        lines += [parser.epilog or "", ""]
    return "\n".join(lines)


def kernel_groups() -> dict[str, list[str]]:
    """Return the public names of `fastnet.kernels` by group."""
    names = [name for name in kernels.__all__ if name != "variants"]
    layers = ["matmul", "dense_forward", "dense_backward_batch"]
    groups = {"Layers": layers}
    for title, specs in (("Activations", ACTIVATIONS), ("Losses", LOSSES)):
        wanted = [each for name in specs for each in (name, f"{name}_derivative")]
        groups[title] = [name for name in wanted if name in names]
    groups["Losses"] += [name for name in names if name == "accuracy"]
    groups["Updates"] = [name for name in names if name.endswith("_update")]
    listed = {name for group in groups.values() for name in group}
    groups["Others"] = [*(name for name in names if name not in listed), "variants"]
    return groups


def kernel_sections() -> str:
    """Return a heading for each group of kernels, and their documentation, as MyST."""
    lines = []
    for title, names in kernel_groups().items():
        lines += [f"## {title}", "", "```{eval-rst}"]
        lines += [f".. autofunction:: fastnet.kernels.{name}" for name in names]
        lines += ["```", ""]
    return "\n".join(lines)


class _Generated(SphinxDirective):
    """A directive that is replaced by generated MyST."""

    text: Any

    def run(self) -> list[nodes.Node]:
        """Parse the text in place of the directive."""
        self.content = StringList(type(self).text().splitlines(), source=self.get_source_info()[0])
        return self.parse_content_to_nodes(allow_section_headings=True)


class Options(_Generated):
    """All options of the command line."""

    text = staticmethod(option_tables)


class Kernels(_Generated):
    """All public kernels."""

    text = staticmethod(kernel_sections)


_LITERAL = re.compile(r"(``.*?``|`[^`]+`)")


def _escape(app: Any, what: str, name: str, obj: Any, settings: Any, lines: list[str]) -> None:
    """Escape bars, which reStructuredText would take for substitutions, and asterisks, outside of literals."""
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...", "..")):
            continue
        parts = _LITERAL.split(line)
        parts[::2] = [re.sub(r"(?<!\\)\|", r"\\|", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("fastnet-options", Options)
    app.add_directive("fastnet-kernels", Kernels)
    app.connect("autodoc-process-docstring", _escape, priority=400)  # before numpydoc, which adds markup
    return {"parallel_read_safe": True, "parallel_write_safe": True}
