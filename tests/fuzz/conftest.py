"""Prints how many trials ran."""

from typing import Any

import fuzz


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if fuzz.COUNTS:
        listed = ", ".join(f"{count} {name}" for name, count in fuzz.COUNTS.items())
        terminalreporter.write_line(f"hostile trials from seed {fuzz.SEED}: {listed}")
