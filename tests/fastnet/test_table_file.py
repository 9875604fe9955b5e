"""Files of tables: CSV, NPZ and Parquet as pandas reads them; broken files, and those of other kinds."""

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from table_models import model

from fastnet import Network, table, table_file
from fastnet.messages import one_line

HOUSES = [f"{50 + i},{i % 4},{1000.5 * i}" for i in range(12)]


def written(tmp_path: Path, *lines: str, end: str = "\n", encoding: str = "utf-8", name: str = "t.csv") -> Path:
    (tmp_path / name).write_bytes("".join(line + end for line in lines).encode(encoding))
    return tmp_path / name


# ----------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_quotes_encodings_and_blanks(separator: str, encoding: str, end: str, tmp_path: Path) -> None:
    text = ['"b, ""c"""', "ö", ""]
    rows = [f'"{i}"{separator} {i}.5e1 {separator}{text[i % 3]}' for i in range(10)]
    header = separator.join(["one", '"two, or so"', " three "])
    frame = table_file.read(written(tmp_path, header, *rows[:5], "", *rows[5:], "", end=end, encoding=encoding))
    assert list(frame.columns) == ["one", "two, or so", "three"]
    assert frame["one"].tolist() == list(range(10))
    assert frame["two, or so"].tolist() == [i * 10 + 5 if i else 5 for i in range(10)]
    assert frame["three"].tolist()[:2] == ['b, "c"', "ö"]
    assert frame["three"].isna().sum() == 3


def test_other_forms(tmp_path: Path) -> None:
    expected = [[1.5, "a b"], [2.5, "c"]]
    for lines in (
        ["x  y", '1.5  "a b"', "2.5  c"],
        ["x;y", "1,5;a b", "2,5;c"],
        ["x y", '"r1" 1.5 "a b"', '"r2" 2.5 "c"'],  # R's row names
        ["x,y", "1.5,a b,", "2.5,c,"],  # rows that end with a separator
        ["x,y", "1.5,a b", "2.5,c", "?,NA"],
    ):
        frame = table_file.read(written(tmp_path, *lines))
        assert frame.iloc[:2].values.tolist() == expected, lines
    assert frame.iloc[2].isna().all()
    content = (tmp_path / "t.csv").read_bytes()
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(content))
    assert table_file.read(tmp_path / "t.csv.gz").equals(frame)
    X = np.arange(24, dtype="float32").reshape(12, 2)
    np.savez(tmp_path / "t.npz", X=X, kind=np.array(["b", "a"] * 6).reshape(12, 1), other=np.ones(3))
    frame = table_file.read(tmp_path / "t.npz", "kind")
    assert list(frame.columns) == ["X0", "X1", "kind"]
    assert frame["kind"].tolist() == ["b", "a"] * 6


def learnt(path: Path, target: str) -> None:
    frame = table_file.read(path, target)
    with one_line(path):
        table.check_columns([target], list(frame.columns), str(path))
        table.target_of(frame[target])


def refused(path: Path, message: str, target: str = "y") -> None:
    with pytest.raises((ValueError, OSError), match=message) as caught:
        learnt(path, target)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    def csv(content: bytes, message: str) -> None:
        (tmp_path / "t.csv").write_bytes(content)
        refused(tmp_path / "t.csv", message)

    body = b"".join(b"%d,%d\n" % (i, i % 2) for i in range(12))
    csv(b"", "t.csv is empty$")
    csv(b"\n \n", "cannot be read")
    csv(b"x,y\n", "'y' is known in 0 rows; expected at least 10")
    csv(b"x,y\n" + body + b"1,2,3,4\n", "t.csv cannot be read: Expected 2 fields in line 14, saw 4; mend that line")
    csv(
        b"x,y\n\n" + body + b'"1,2\n3,4\n',
        "cannot be read: the quote in line 15, where a cell of several lines counts as one, is never",
    )
    csv(b'y\n1\n"2\n3\n', "cannot be read: the quote in line 3, .* is never closed; close it there, or leave it out")
    csv(b'a;b\n1;2\n1,5;2,5\n"x;2\n4;5\n', "cannot be read: the quote in line 4, .* is never closed")
    csv(b"x,y, x\n" + b"1,2,3\n" * 12, "cannot be read: two columns are called 'x'; rename or remove one")
    csv(b"NA,y,NA\n" + b"1,2,3\n" * 12, "cannot be read: two columns are called 'NA'; rename or remove one")
    csv(b"x,y\n\0\0", "holds bytes that are not text; expected a table: CSV, Parquet, Feather or NPZ")
    csv(b"x,y\n" + body + b"\x81,1\n", "neither UTF-8 nor Windows-1252")
    csv(body, "its first line must name the columns, and here it holds numbers: '0'")
    csv(
        b"Table 1\n\nx,y\n" + body, "no column 'y'; there are: 'Table 1'; does its first line name all columns, and one"
    )
    csv(b"x,z\n" + body, "has no column 'y'; there are: 'x', 'z'$")
    csv(b"x,y\n" + b"1,2\n" * 12, "target 'y' holds 2 in every row; there is nothing to learn")
    csv(b"x,y\n" + b"".join(b"1,n%d\n" % i for i in range(1500)), "is it a name")
    csv(b"x,y\n" + b"".join(b"1,2020-01-%02d\n" % i for i in range(1, 29)), "target 'y' holds dates; predict a number")
    csv(",".join(f"c{i}" for i in range(70_000)).encode() + b",y\n", "70,001 columns; a CSV may have 65,536")
    for name in ("t.csv.gz", "t.parquet", "t.feather", "t.npz", "t.csv.zip", "t.csv.xz"):
        (tmp_path / name).write_bytes(body)
        refused(tmp_path / name, "cannot be read")
    refused(tmp_path / "no.csv", "cannot read .*no.csv: no such file")
    (tmp_path / "d.csv").mkdir()
    refused(tmp_path / "d.csv", "it is a folder")


ROWS = [f"{i},text {i},{i % 4}" for i in range(30)]


def with_rows(changed: dict[int, str], header: str = "x,word,y") -> list[str]:
    """Lines of a CSV of which some are others, counted from 1 as messages do."""
    return [changed.get(number, line) for number, line in enumerate([header, *ROWS], 1)]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_between_two_stray_quotes_are_refused(end: str, name: str, tmp_path: Path) -> None:
    for separator in (",", ";", "\t"):
        lines = [line.replace(",", separator) for line in with_rows({5: '7,"seven,1', 8: "", 12: '8,"eight,2'})]
        path = written(tmp_path, *lines, end=end)
        if name.endswith("gz"):
            (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
        message = (
            "the quote that opens in line 5 closes in line 12, in the middle of a cell, so that 6 rows would be lost"
        )
        refused(tmp_path / name, message)
    quoted = with_rows({5: '7,"seven,1', 12: '8,"eight",2'})
    refused(written(tmp_path, *quoted), "opens in line 5 closes in line 12, .* so that 7 rows")
    in_header = with_rows({6: '"8",eight,2'}, header='"x,word,y')
    refused(written(tmp_path, *in_header), "opens in line 1 closes in line 6")
    spaced = [line.replace(" ", "").replace(",", " ") for line in with_rows({5: '7,"seven,1', 12: '8,"eight,2'})]
    refused(written(tmp_path, *spaced), "opens in line 5 closes in line 12, .* so that 7 rows")


def test_rows_that_may_be_text_are_read_with_a_warning(tmp_path: Path) -> None:
    def read(lines: list[str]) -> Any:
        with pytest.warns(UserWarning, match="are read as one row") as caught:
            frame = table_file.read(written(tmp_path, *lines))
        assert len(caught) == 1
        return frame, str(caught[0].message)

    frame, said = read(with_rows({5: '7,"seven,1', 12: '8,eight",2'}))
    assert len(frame) == 23
    assert "t.csv: lines 5 to 12 are read as one row, since a quote opens in the first and closes in the last;" in said
    assert "every line there is a row of its own, 7 rows are lost: leave these quotes out, or double them" in said
    frame, said = read(with_rows({5: '7,"seven,1', 12: '8,eight",2', 20: '1,"a,1', 21: '2,b",2'}))
    assert "in the last, and so on in 1 more place; if" in said
    assert "8 rows are lost" in said
    short = with_rows({3: "7", 5: '7,"seven', 12: '8,eight"'})  # a row without its last cells: no line tells
    assert "lines 5 to 12" in read(short)[1]
    assert "lines 1 to 3" in read(['y,"x', "1,2", '3,4"', "5,6", "7,8"])[1]


def test_lines_that_tell_nothing_are_read_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert len(table_file.read(written(tmp_path, "y", *['"a\nb"'] * 20, *"c" * 20))) == 40
    assert len(table_file.read(written(tmp_path, "x,word,y", '1,"one\x1f\ntwo",0', *ROWS))) == 31
    spaces = " " * 20_000  # matched from each of them, they took minutes
    assert (
        len(table_file.read(written(tmp_path, "x word y", '1 "one\ntwo" 0', *[f"{i} w{spaces}{i}" for i in "23"]))) == 3
    )
    assert not recwarn


def test_texts_of_several_lines_are_read(tmp_path: Path) -> None:
    texts = ["It works, but\nI had hoped for more.", 'He said:\n\n"no, no"', "a\n", "plain", "b, c, d"]
    frame = pandas.DataFrame({"x": range(30), "word": texts * 6, "y": [i % 4 for i in range(30)]})
    for columns in (["x", "word", "y"], ["word", "x", "y"], ["x", "y", "word"]):
        for separator in (",", ";", "\t"):
            frame[columns].to_csv(tmp_path / "t.csv", index=False, sep=separator)
            assert table_file.read(tmp_path / "t.csv").equals(frame[columns])
    frame["word"] = frame["word"].str.replace("\n", "\r\n")
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert table_file.read(tmp_path / "t.csv").equals(frame)


def other_kinds(folder: Path) -> dict[str, str]:
    """Write files that are no tables here; return what each is said to be."""
    frame = pandas.DataFrame({"x": range(30), "y": [0, 1] * 15})
    frame.to_pickle(folder / "p"), frame.to_json(folder / "j"), frame.to_stata(folder / "s")
    frame.to_json(folder / "l", orient="records", lines=True), frame.to_html(folder / "h")
    frame.to_parquet(folder / "parquet.csv"), frame.to_feather(folder / "feather.csv")
    np.save(folder / "a", frame), Network([1, 1]).save(folder / "n"), model()[0].save(folder / "m")
    with zipfile.ZipFile(folder / "t.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    with zipfile.ZipFile(folder / "t.ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    net = (folder / "n").read_bytes()
    (folder / "n10").write_bytes(b"\n" + net[1:])
    (folder / "c").write_bytes(gzip.compress(b"x,y\n1,2\n"))
    (folder / "w").write_text(f"<!DOCTYPE html><html>{(folder / 'h').read_text()}</html>")
    (folder / "w2").write_text("\ufeff\n<html>")
    (folder / "r").write_text("% of flowers\n@RELATION iris\n@DATA\n1,2\n")
    (folder / "i").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    return {
        "p": "it is a pickle, which may run code and is not opened; .*; write what it holds as CSV",
        "j": r"it is JSON; .*; in Python, pandas.read_json\(FILE\).to_csv\('table.csv', index=False\) may convert it",
        "l": r"it is JSON, one object a line; .*pandas.read_json\(FILE, lines=True\)",
        "s": r"it is a Stata file; .*pandas\.read_stata",
        "parquet.csv": "it is Parquet; .*; rename it to end in .parquet",
        "feather.csv": "it is Feather; .*; rename it to end in .feather",
        "a.npy": "it is a single NumPy array",
        "n": "it is a safetensors file, as networks are; .*; fastnet predict MODEL FILE applies one",
        "n10": "it is a safetensors file",
        "m": "it is a ZIP archive, as models of tables are",
        "t.ods": r"it is an OpenDocument file.*pip install odfpy; in Python, pandas.read_excel\(FILE\)",
        "t.xlsx": "it is an Office file.*pandas.read_excel",
        "c": r"it is compressed; .*; end its name in one of \.gz, ",
        "w": "it is a web page; .*; download the file",
        "w2": "it is a web page",
        "r": "it is ARFF",
        "i": "it is an image",
    }


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    for name, message in other_kinds(tmp_path).items():
        refused(tmp_path / name, f"{name} cannot be read: {message}")
        for suffix in (".npz", ".parquet"):
            (tmp_path / f"t{suffix}").write_bytes((tmp_path / name).read_bytes())
            if name not in ("parquet.csv", "m", "t.xlsx", "t.ods"):
                refused(
                    tmp_path / f"t{suffix}", "no NPZ archive; numpy.savez" if suffix == ".npz" else "cannot be read"
                )


def test_headers_that_begin_like_other_files_are_read(tmp_path: Path) -> None:
    for first in ("[kg]", "{x}", "<b>", "%", "PARTS", "@id", "(d", "BZ", "$FL"):
        frame = table_file.read(written(tmp_path, f"{first},y", *[f"{i},{i % 2}" for i in range(12)]))
        assert list(frame.columns) == [first, "y"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"A": np.ones(3)}, "has no array 'X'; there are: 'A'"),
        ({"X": np.ones((12, 2))}, "has no column 'y'; there are: 'X0', 'X1'"),
        ({"X": np.ones((12, 2)), "y": np.ones(11)}, r"y has shape \(11,\) and dtype float64; expected \(12,\)"),
        ({"X": np.ones((12, 2)), "y": np.ones((12, 2))}, r"y has shape \(12, 2\)"),
        ({"X": np.ones(12), "y": np.ones(12)}, "X has shape"),
        ({"X": np.ones((12, 2)), "y": np.ones(12, complex)}, "dtype complex128; expected"),
        ({"X": np.array([[None]] * 12), "y": np.ones(12)}, "allow_pickle=False"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, "at least one"),
    ],
)
def test_bad_npz_is_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    refused(tmp_path / "t.npz", message)


def test_changed_bytes_are_read_or_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pandas.DataFrame({"x": range(30), "y": ["a", "b", None] * 10})
    frame.to_csv(tmp_path / "t.csv.gz"), frame.to_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", X=frame[["x"]], y=np.arange(30) % 3)
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        for _ in range(60):
            changed = bytearray(content)
            changed[random.integers(0, len(content))] = random.integers(0, 256)
            path.write_bytes(changed[: random.choice([len(content), random.integers(1, len(content))])])
            try:
                table_file.read(path)
            except (ValueError, OSError) as error:
                said = str(error)
                assert "\n" not in said, path
                assert path.name in said


# ------------------------------------------------------------------------------------------------- kinds
