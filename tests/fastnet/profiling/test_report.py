"""The page of a profile: whole, self-contained, and escaped."""

import re
from html.parser import HTMLParser

import pytest
from profiles import made_up

from fastnet.profiling import report
from fastnet.profiling.verdicts import Verdict

pytest.importorskip("matplotlib")

VOID = {"meta", "br", "path", "use", "rect", "circle"}


class Reader(HTMLParser):
    """Checks that elements are closed in order; keeps the text and the addresses referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note an element that has an end."""
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note one that has none."""
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text.append(data)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(report, "machine_limits", lambda threads: {"gbps": {"L1": 200.0, "memory": 20.0}})
    rates = {"reference": 50.0, "simd": 80.0}
    sweeps = [[made_up(rates, 64), made_up({"reference": 50.0, "simd": 20.0}, 128)]]
    compared = [{"simd": Verdict("slower", 1.2, 0.05), "reference": Verdict("same", 1.0, 0.05)}]
    return report.page([made_up(rates)], sweeps, {"CPU": "acme <9>"}, compared)


def test_page_is_whole_and_refers_to_nothing_outside(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert all(address.startswith("#") for address in reader.addresses)
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)
    assert page.count("<svg") == 3, "a roofline, and speed and time against size"
    ids = re.findall(r'\bid="([^"]+)"', page)
    clip_paths = [name for name in ids if re.fullmatch(r"p[0-9a-f]+", name)]
    assert len(clip_paths) == len(set(clip_paths)) > 0, "each plot's are its own"


def test_page_says_what_was_measured(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    text = "".join(reader.text)
    for words in (
        "matmul 64x64x64-nn, float32",
        "acme <9>",
        "at most 100 GFLOP/s",
        ": why simd & co",
        "simd from 64 to 128: 0.25 of its speed",
        "fastnet.<tile>",
        "FL     vfmadd231ps (%rax), %ymm1, %ymm0",
        "sum chain 4",
    ):
        assert words in text, words
    assert '<td class="slower">slower</td>' in page
    assert '<b class="binds">sum chain 4</b>' in page
