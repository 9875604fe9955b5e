"""Reads tables from files with pandas; recognises the kind of a file and the format of a CSV.

It needs pandas (``pip install pandas scikit-learn skops``).
"""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from .io import storage
from .messages import counted, listed, one_line

try:
    import pandas
except ImportError as error:
    raise ImportError(f"tables need pandas: pip install pandas scikit-learn skops ({error})") from error

_ENCODINGS = ("utf-8-sig", "cp1252")
_SEPARATORS = (",", ";", "\t", "|", r"\s+")
_GAPS = ["?", "-", "--", ".", "missing"]
"""Cells that count as gaps, besides those that pandas recognises: empty ones, NA, N/A, NaN, NULL, None."""

_MAX_COLUMNS = 1 << 16

_FORMS = "a table: CSV, Parquet, Feather or NPZ"
_COMPRESSED = (".gz", ".bz2", ".zip", ".xz", ".zst")


def _by(reader: str, options: str = "") -> str:
    return f"in Python, pandas.{reader}(FILE{options}).to_csv('table.csv', index=False) may convert it"


_OTHER_KINDS = (
    (rb'\s*\{\s*["}].*\}\s*\n\s*\{', "JSON, one object a line", _by("read_json", ", lines=True")),
    (rb'\s*(\{\s*["}]|\[\s*[\[{"\d\]-])', "JSON", _by("read_json")),
    (
        rb"\x80[\x02-\x05]|\(dp0|\(lp0|ccopy_reg",
        "a pickle, which may run code and is not opened",
        "write what it holds as CSV",
    ),
    (rb"(?s:.{8}\{.*\x00)", "a safetensors file, as networks are", "fastnet predict MODEL FILE applies one to a table"),
    (
        rb"PK\x03\x04(?s:.*)application/vnd\.oasis\.opendocument",
        "an OpenDocument file, such as of LibreOffice",
        f"pip install odfpy; {_by('read_excel')}",
    ),
    (rb"PK\x03\x04(?s:.*)(\[Content_Types\]|docProps/|xl/)", "an Office file, such as of Excel", _by("read_excel")),
    (rb"PK\x03\x04", "a ZIP archive, as models of tables are", "fastnet predict MODEL FILE applies one to a table"),
    (rb"\xd0\xcf\x11\xe0", "an old Office file, such as of Excel", _by("read_excel")),
    (rb"PAR1", "Parquet", "rename it to end in .parquet"),
    (rb"ARROW1|FEA1", "Feather", "rename it to end in .feather"),
    (rb"\x93NUMPY", "a single NumPy array", "numpy.savez('table.npz', X=X, y=y) writes a table"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "compressed", f"end its name in one of {', '.join(_COMPRESSED)}"),
    (rb"\x89HDF", "an HDF5 file", _by("read_hdf")),
    (rb"SQLite format", "a database of SQLite", "sqlite3 -header -csv FILE 'select * from TABLE' writes CSV"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|%PDF", "an image or a PDF", "export the table that it shows as CSV"),
    (
        rb"(?i:\s*<(!doctype html|html))",
        "a web page",
        "download the file that it shows, by its raw address",
    ),
    (rb"\s*<\?xml", "XML", _by("read_xml")),
    (rb"<stata_dta|[\x6c-\x73][\x01\x02]\x01\x00", "a Stata file", _by("read_stata")),
    (rb"\$FL[23]@", "an SPSS file", _by("read_spss")),
    (rb"(?i:(\s*%.*\n)*\s*@relation)", "ARFF", "in Python, scipy.io.arff.loadarff reads it; write it as CSV"),
)
"""Files that are not readable as tables: how they begin, what they are, and what to do."""


def _check_kind(head: bytes) -> None:
    """Reject a file of another kind by its first bytes; the error says which, what is expected, and what to do."""
    for pattern, kind, remedy in _OTHER_KINDS:
        if re.match(pattern, head.removeprefix(b"\xef\xbb\xbf")):
            raise ValueError(f"it is {kind}; expected {_FORMS}; {remedy}")
    if b"\0" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"it holds bytes that are not text; expected {_FORMS}")


def read(path: storage.Path, target: str = "y") -> Any:
    """Read a table as a pandas DataFrame.

    Parameters
    ----------
    path : str or path-like
        The suffix determines the format: Parquet (``.parquet``), Feather (``.feather``, ``.arrow``), NPZ (arrays ``X``
        (rows, n), whose columns are called X0, X1, ..., and the target), or else CSV. For CSV, the separator, the
        encoding (UTF-8, UTF-16 or Windows-1252), decimal commas and the compression are recognised.
    target : str, default "y"
        The array of an NPZ file to read besides X, if it is there.

    Returns
    -------
    pandas.DataFrame
        Without the file's index, such as the row names that R writes.

    Raises
    ------
    ImportError
        If the file is Parquet or Feather and pyarrow is not installed.
    OSError, ValueError
        If the file cannot be read; the message is one line. In a CSV, a quoted cell of several lines must end at its
        closing quote: if text follows there, two stray quotes have made one cell of the rows between them.

    Warns
    -----
    UserWarning
        If quoted cells of several lines begin and end in lines that are as long as whole rows: each may be a text, or
        rows between two stray quotes. They are read as the former; the warning says where they are, and how many rows
        would be lost.
    """
    shown, suffix = storage.display_path(path), str(path).lower().rpartition(".")[2]
    with storage.reading(path) as file:
        head = file.read(4096)
    if not head:
        raise ValueError(f"{shown} is empty")
    readers = {"parquet": pandas.read_parquet, "pq": pandas.read_parquet}
    readers |= {"feather": pandas.read_feather, "arrow": pandas.read_feather}
    with one_line(path):
        if suffix == "npz":
            if head[:2] != b"PK":
                raise ValueError("it is no NPZ archive; numpy.savez('table.npz', X=X, y=y) writes one")
            frame = _read_npz(path, target)
        elif suffix in readers:
            try:
                frame = readers[suffix](path)
            except ImportError:
                raise ImportError(
                    f"{shown}: reading this file needs the package pyarrow: pip install pyarrow"
                ) from None
        else:
            frame = _read_csv(path, head)
        frame.columns = [str(name).strip() for name in frame.columns]
        _check_names(frame.columns)
    return frame


def _check_names(names: Any) -> None:
    twice = names[names.duplicated()]
    if len(twice):
        raise ValueError(f"two columns are called {twice[0]!r}; rename or remove one")


def _read_csv(path: storage.Path, head: bytes) -> Any:
    compressed = str(path).lower().endswith(_COMPRESSED)
    if not compressed:
        _check_kind(head)
    utf16 = not compressed and head[:2] in (b"\xff\xfe", b"\xfe\xff")
    for encoding in ("utf-16",) if utf16 else _ENCODINGS:
        with suppress(UnicodeDecodeError):
            try:
                return _parse_csv(path, {"encoding": encoding, "na_values": _GAPS, "skipinitialspace": True})
            except pandas.errors.ParserError as error:
                if row := re.search(r"EOF inside string starting at row (\d+)", str(error)):  # the header's is 0
                    line = f"line {int(row[1]) + 1}, where a cell of several lines counts as one,"
                    raise ValueError(f"the quote in {line} is never closed; close it there, or leave it out") from None
                advice = "mend that line; a cell that holds the separator goes into quotes"
                raise ValueError(f"{str(error).strip()}; {advice}") from None
    raise ValueError("its text is neither UTF-8 nor Windows-1252; save it as UTF-8")


def _has_names(frame: Any) -> bool:
    """Whether rows of a CSV are one cell longer than its header: by row names, as R writes, or a trailing separator."""
    return not isinstance(frame.index, pandas.RangeIndex)


def _has_line_breaks(frame: Any) -> bool:
    """Whether any name or cell holds several lines; only then are a file's lines worth a look."""
    columns = [frame.columns.to_series(), frame.index.to_series(), *(column for _, column in frame.items())]
    texts = [each for each in columns if each.dtype == object or isinstance(each.dtype, pandas.StringDtype)]
    return any(text.astype("string").str.contains(r"[\r\n]", na=False).any() for text in texts)


def _lines(path: storage.Path, encoding: str) -> Any:
    """Return a file's lines, read by pandas since it decompresses them; none if it cannot tell them."""
    one_cell = {"sep": "\x1f", "quoting": csv.QUOTE_NONE, "skip_blank_lines": False, "header": None, "names": ["line"]}
    as_text = {"dtype": str, "keep_default_na": False, "index_col": False, "encoding": encoding}
    with suppress(pandas.errors.ParserError), warnings.catch_warnings():  # a line may hold the separator
        warnings.simplefilter("ignore")
        return pandas.read_csv(path, **one_cell, **as_text)["line"]
    return []


def _likely_rows(lines: Iterable[str], separator: str) -> list[tuple[int, int, int]]:
    """Return where quoted cells of several lines may be rows between two stray quotes.

    A cell is suspected if the line where it begins and the line where it ends hold as many separators as rows of a
    single line do. A text whose lines hold separators can look the same.

    Parameters
    ----------
    lines : iterable of str
        All lines of a CSV.
    separator : str
        A character, or the regular expression for spaces.

    Returns
    -------
    list of tuple of int
        For each place, its first and last line, from 1, and the rows that would be lost: its lines but the first and
        blank ones.

    Raises
    ------
    ValueError
        If text follows the closing quote of a cell of several lines: no text column is written like that.
    """
    # A run of spaces is matched from its first one only: from each, long runs would take minutes.
    cut, blank = (r"(?<!\s)\s+", "") if separator == r"\s+" else (re.escape(separator), " *")
    between, opening = re.compile(cut), re.compile(rf'(?:^|{cut}){blank}"')
    quoted = re.compile(rf'(^|{cut}){blank}"[^"]*(?:""[^"]*)*"(?!")')
    rest, end = re.compile(r'[^"]*(?:""[^"]*)*"(?!")'), re.compile(rf"\s*(?:{cut}|$)")
    opened = opened_length = rows = 0
    found, lengths = list[tuple[int, int, int, int, int]](), set[int]()  # a place, its ends' separators
    for number, line in enumerate(lines, 1):
        line = line.strip() if separator == r"\s+" else line
        if not opened and not line.strip():
            continue
        inside, outside, began = "", line, opened
        rows += bool(line.strip())
        if opened:
            closing = rest.match(line)
            if closing is None:
                continue
            if not end.match(line, closing.end()):
                raise ValueError(
                    f"the quote that opens in line {opened} closes in line {number}, in the middle of a cell, so that "
                    f"{counted(rows, 'row')} would be lost; leave both quotes out, or close the first where its cell "
                    "ends; a quote inside of a quoted cell is doubled"
                )
            inside, outside = line[: closing.end()], "_" + line[closing.end() :]
        outside = quoted.sub(r"\1_", outside)
        length = len(between.findall(inside)) + len(between.findall(outside))
        if opened:
            found.append((opened, number, rows, opened_length, length))
            opened = 0
        if opening.search(outside):
            opened, opened_length, rows = number, length, 0
        elif not began:
            lengths.add(length)
    least, most = max(1, min(lengths, default=0)), max(lengths, default=math.inf)  # 0: a single column, all of it text
    return [(a, b, lost) for a, b, lost, *ends in found if least <= min(ends) <= max(ends) <= most]


def _parse_csv(path: storage.Path, options: dict[str, Any]) -> Any:
    samples, ragged = dict[str, Any](), dict[str, pandas.errors.ParserError]()
    for separator in _SEPARATORS:
        try:
            sampled = {"nrows": 100, "dtype": str, "keep_default_na": False, "na_values": []}
            sample = pandas.read_csv(path, sep=separator, **{**options, **sampled})
        except pandas.errors.ParserError as error:
            ragged[separator] = error
        else:
            if sample.index.nlevels == 1:  # rows are at most one cell longer, for a row name
                samples[separator] = sample
    if not samples:  # a quote that is never closed is in the way of every separator but wrong ones
        raise next((error for error in ragged.values() if "EOF inside string" in str(error)), ragged[","])
    # With a wrong separator, rows are shorter than the header. Spaces separate only if no other character does.
    reach = {tried: sample.iloc[:, -1].ne("").any() or _has_names(sample) for tried, sample in samples.items()}
    whole = {tried: sample for tried, sample in samples.items() if reach[tried]} or samples
    widths = {tried: sample.shape[1] for tried, sample in whole.items()}
    separator = max(widths, key=lambda tried: (tried != r"\s+" and widths[tried] > 1, widths[tried]), default=",")
    for tried in ragged if widths.get(separator, 1) == 1 else ():
        if pandas.read_csv(path, sep=tried, nrows=0, **options).shape[1] > 1:
            return pandas.read_csv(path, sep=tried, **options)  # raises an error that names the line
    sample = whole[separator]
    if sample.shape[1] > _MAX_COLUMNS:
        raise ValueError(
            f"it has {sample.shape[1]:,} columns; a CSV may have {_MAX_COLUMNS:,}: use an NPZ or Parquet file"
        )
    if separator == ";" and sample.stack().str.fullmatch(r"[+-]?\d+,\d+").any():
        options = {**options, "decimal": ","}
    options = {**options, "sep": separator, "low_memory": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates in several formats, rows of different lengths
        frame = pandas.read_csv(path, **options)
        if _has_names(frame) and frame.iloc[:, -1].isna().all():
            frame = pandas.read_csv(path, index_col=False, **options)  # rows end with a separator
    if _has_line_breaks(frame) and (places := _likely_rows(_lines(path, options["encoding"]), separator)):
        first, last, _ = places[0]
        lost = counted(sum(rows for *_, rows in places), "row")
        more = f", and so on in {counted(len(places) - 1, 'more place')}" if len(places) > 1 else ""
        warnings.warn(
            f"{storage.display_path(path)}: lines {first} to {last} are read as one row, since a quote opens in the "
            f"first and closes in the last{more}; if every line there is a row of its own, {lost} are lost: leave "
            "these quotes out, or double them",
            stacklevel=4,
        )
    if all(re.fullmatch(r"[+-]?\d*[.,]?\d+(\.\d+)?", str(name)) for name in frame.columns):
        raise ValueError(f"its first line must name the columns, and here it holds numbers: {listed(frame.columns)}")
    as_text = {**options, "header": None, "dtype": str, "keep_default_na": False, "na_values": []}  # NA is a name
    first = pandas.read_csv(path, nrows=1, **as_text).iloc[0].str.strip()  # where pandas has made a.1 of a second a
    _check_names(pandas.Index(first[first != ""]))
    return frame.reset_index(drop=True)


def _read_npz(path: storage.Path, target: str) -> Any:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:  # NumPy leaves a damaged file open
        if "X" not in stored:
            raise ValueError(f"it has no array 'X'; there are: {listed(stored)}")
        X, y = stored["X"], stored.get(target)
    if X.ndim != 2 or X.dtype.kind not in "iubf" or X.size == 0:
        raise ValueError(f"X has shape {X.shape} and dtype {X.dtype}; expected numbers (rows, n), at least one")
    frame = pandas.DataFrame(X, columns=[f"X{i}" for i in range(X.shape[1])])
    if y is not None:
        if y.shape not in ((len(X),), (len(X), 1)) or y.dtype.kind not in "iubfUS":
            raise ValueError(f"{target} has shape {y.shape} and dtype {y.dtype}; expected ({len(X)},) numbers or text")
        frame[target] = (y.astype(str) if y.dtype.kind == "S" else y).reshape(-1)
    return frame
