"""Runs `fastnet` commands in this process; options of the trainings that several test modules share."""

import sys

import pytest

from fastnet.cli import main as cli

QUICK = ["--hidden", "8", "--backend", "numpy", "--lr", "0.02", "--batch-size", "32"]
PEOPLE = ["--target", "rich", "--id", "person", "--drop", "noise", "--category", "zone", "--epochs", "30", *QUICK]
TRAIN = [sys.executable, "-m", "fastnet", "train", "houses.csv", "--target", "price", *QUICK]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """Run a command, whose exit status must be ``status``; return what it prints."""
    assert cli.main(arguments) == status, capsys.readouterr().err
    return capsys.readouterr().out


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of the rows of CSV that quotes nothing."""
    return [line.split(",") for line in text.splitlines()]
