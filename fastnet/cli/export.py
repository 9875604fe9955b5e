"""The command ``fastnet export``: write a model as ONNX."""

import argparse
from typing import Any

from ..ensemble import load
from ..io import storage
from .predict import check_output, is_table_model


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "export",
        help="write a model as ONNX",
        description="Write a model as an ONNX file, for runtimes in other languages and on other devices. A model of a "
        "table becomes one graph, from the columns to the predictions: each column that it takes is an input (rows, 1) "
        "of its name: numbers as float64, with NaN for gaps; booleans and categories as text, empty for gaps; "
        "dates as the numbers that were made of them. It needs pip install onnx.",
    )
    parser.set_defaults(run=export)
    parser.option("model", "a file that fastnet train --out, or Network.save, wrote", metavar="MODEL")
    parser.option("out", "the file to write, such as model.onnx", metavar="ONNX")


def export(options: argparse.Namespace) -> int:
    """Write a model as ONNX and return the exit status."""
    check_output(options.out, options.model)
    storage.check_suffix(options.out, ".onnx")
    if is_table_model(options.model):
        from .. import table_model

        table_model.load(options.model).to_onnx(options.out)
    else:
        load(options.model).to_onnx(options.out)
    print(f"onnx      {storage.display_path(options.out)}")
    return 0
