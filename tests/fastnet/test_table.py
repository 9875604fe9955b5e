"""Tables: what pandas reads, what their columns are taken for, models of them, and hostile and broken files."""

import gzip
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import skops.io
from sklearn.preprocessing import FunctionTransformer

import fastnet
from fastnet import Network, scores, table, table_file, table_model
from fastnet.messages import one_line
from fastnet.table import Columns
from fastnet.table_model import TableModel

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


def test_kinds_of_columns() -> None:
    rows, random = 200, np.random.default_rng(0)
    dates = pandas.date_range("2021-03-01", periods=rows, freq="h")
    frame = pandas.DataFrame(
        {
            "number": random.normal(size=rows),
            "money": [f"${i % 90},{i:03}.50" for i in range(rows)],
            "mostly": [*map(str, range(199)), "n.n."],
            "truth": ["True", "false"] * 100,
            "town": random.choice(["A", "B"], rows),
            "day": dates.strftime("%Y/%m/%d"),
            "day first": dates.strftime("%d.%m.%Y"),
            "time": dates,
            "zoned": dates.tz_localize("Europe/Rome"),
            "categorical": pandas.Categorical(["u", "v"] * 100),
            "year": np.arange(1900, 2100),
            "nullable": pandas.array([1, None] * 100, "Int64"),
            "PassengerId": random.permutation(rows) + 9,
            "row": np.arange(1, rows + 1),
            "name": [f"n{i}" for i in range(rows)],
            "essay": [f"essay {i // 1.5}" for i in range(rows)],
            "constant": 7,
            "empty": None,
            "gap or not": [1.0, None] * 100,
            "wait": pandas.to_timedelta(np.arange(rows), "s"),
            "lists": [[i] for i in range(rows)],
            "records": [{"i": i} for i in range(rows)],
            "images": [b"\xff\xd8", b"\x89PNG"] * 100,
            "waves": np.arange(rows) + 1j,
        }
    )
    found = Columns.of(frame)
    assert {name: kind.split()[0] for name, kind in found.kinds.items()} == {
        **dict.fromkeys(["number", "money", "mostly", "year", "nullable", "gap or not"], "number"),
        **dict.fromkeys(["truth"], "boolean"),
        **dict.fromkeys(["town", "categorical"], "category"),
        **dict.fromkeys(["day", "day first", "time", "zoned"], "date"),
    }
    assert found.left_out == {
        "PassengerId": "an id: every row has another",
        "row": "an id: every row has another",
        "name": f"an id: every row has another text, such as {frame['name'][0]!r}",
        "essay": found.left_out["essay"],
        "constant": "constant",
        "empty": "empty",
        "wait": "a duration; give it as a number",
        "lists": "cells of type list; give numbers or text",
        "records": "cells of type dict; give numbers or text",
        "images": "cells of type bytes; give numbers or text",
        "waves": "complex numbers; give their parts as two columns",
    }
    features = found.features(frame)
    assert features["money"][3] == 3003.5
    assert features["mostly"].isna().sum() == 1
    assert (features["day (month)"] == features["day first (month)"]).all()
    assert (features["time (days)"].diff()[1:] > 0.04).all()
    transformer, inputs = found.transformed(features)
    assert np.isfinite(inputs).all()
    for fitted in (transformer, found.transformer(features)):
        np.testing.assert_array_equal(fitted.transform(features), inputs)
    assert (Columns.of(frame, category=["year"], drop=["town"]).kinds)["year"] == "category"


def test_infinities_and_text_among_numbers() -> None:
    """A tenth of infinities made a category of 181 numbers, and said of a target that it may be a name."""
    values = np.random.default_rng(0).normal(size=200)
    column = pandas.Series(np.where(np.arange(200) % 10 == 0, np.inf, values), name="y")
    assert Columns.of(column.to_frame()).kinds == {"y": "number"}
    known, y, classes, _ = table.target_of(column)
    assert (known.sum(), len(y), classes) == (180, 180, None)
    text = column.astype(str).replace("inf", "none seen")
    why = Columns.of(text.to_frame()).left_out["y"]
    assert why == "90% are numbers, others text such as 'none seen': empty these cells"


def test_columns_of_lists_are_left_out() -> None:
    for cell in ([1, 2], {"a": 1}, np.zeros(2)):
        frame = pandas.DataFrame({"x": [None] + [cell] * 9})
        assert Columns.of(frame).left_out == {"x": f"cells of type {type(cell).__name__}; give numbers or text"}


def test_columns_of_pyarrow() -> None:
    """As pandas reads them with dtype_backend="pyarrow"."""
    pyarrow = pytest.importorskip("pyarrow")
    lists = pandas.Series([[1, 2]] * 20, dtype=pandas.ArrowDtype(pyarrow.list_(pyarrow.int64())))
    prices = pandas.Series(range(5, 25), dtype=pandas.ArrowDtype(pyarrow.decimal128(25, 2)))
    found = Columns.of(pandas.DataFrame({"lists": lists, "price": prices}))
    assert found.kinds == {"price": "number"}
    assert found.left_out == {"lists": f"cells of type {type(lists[0]).__name__}; give numbers or text"}


def test_columns_that_are_called_as_parts_of_a_date_are_kept() -> None:
    days = pandas.date_range("2020-01-01", periods=40)
    size, height = (np.random.default_rng(i).normal(size=40) for i in range(2))
    frame = pandas.DataFrame({"d (days)": size, "d": days, "d (month)": height})
    features = Columns.of(frame).features(frame)
    assert (features["d (days)"] == size).all()
    assert (features["d (month)"] == height).all()
    assert (features["d (days)'"].diff()[1:] == 1).all()
    assert features.shape[1] == 7


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["no", "yes"] * 6, ["no", "yes"]),
        ([True, False] * 6, ["False", "True"]),
        ([1.0, 0.0, 1.0, None] * 4, [0, 1]),
        ([-1, 7] * 6, [-1, 7]),
        ([i % 7 for i in range(12)], None),  # each found fewer than twice on average
        ([0.5, 1.5] * 6, None),
        ([i % 20 for i in range(40)], list(range(20))),
        ([i % 21 for i in range(42)], None),
        (["1", "2", "3a"] * 4, ["1", "2", "3a"]),
        (["1", "2", "NA"] * 5, ["1", "2", "NA"]),  # as a frame; a CSV's NA is a gap
    ],
)
def test_task_is_recognised(values: list[Any], classes: Any) -> None:
    known, y, found, reason = table.target_of(pandas.Series(values, name="y"))
    assert found == classes
    assert reason
    assert len(y) == known.sum()
    assert y.dtype == (np.int64 if classes else np.float64)


def test_task_can_be_given() -> None:
    column = pandas.Series([0.5, 1.5] * 6, name="y")
    assert table.target_of(column, "classification")[2] == [0.5, 1.5]
    assert table.target_of(pandas.Series([0, 1] * 6), "regression")[2] is None
    with pytest.raises(ValueError, match="target 'y' holds 'a'; expected numbers, for regression"):
        table.target_of(pandas.Series(["a", "b"] * 6, name="y"), "regression")


def test_splits_keep_the_shares_of_classes() -> None:
    y = np.repeat([0, 1, 2, 3], [80, 15, 4, 1])
    kept, held = scores.split(y, 0.25, 0)
    assert np.bincount(y[held])[:2].tolist() in ([20, 4], [21, 4], [20, 3])
    assert sorted([*kept, *held]) == list(range(100))
    parts = scores.folds(y, 5, 0)
    assert sorted(np.concatenate([inside for _, inside in parts])) == list(range(100))
    assert all(np.bincount(y[inside], minlength=2)[1] == 3 for _, inside in parts)


# ------------------------------------------------------------------------------------------------ models


def model() -> tuple[TableModel, Any]:
    frame = pandas.DataFrame(
        {"x": np.arange(40.0), "town": ["A", "B", None, "A"] * 10, "on": ["2020-01-05"] * 39 + [None]}
    )
    columns = Columns({"x": "number", "town": "category", "on": "date %Y-%m-%d"})
    features = columns.features(frame)
    transformer = columns.transformer(features)
    net = Network([transformer.transform(features).shape[1], 4, 2])
    net.loss = "cross_entropy"
    return TableModel(columns, "y", ["no", "yes"], (0.0, 1.0), [(transformer, net)], "id"), frame


def test_model_round_trip(tmp_path: Path) -> None:
    ours, frame = model()
    ours.save(tmp_path / "m")
    other = table_model.load(tmp_path / "m")
    assert (other.predict_proba(frame) == ours.predict_proba(frame)).all()
    assert (other.predict(frame[["on", "town", "x"]]) == ours.predict(frame)).all()
    assert (other.columns, other.target, other.classes, other.id) == (ours.columns, "y", ["no", "yes"], "id")
    with pytest.raises(ValueError, match=r"a ZIP archive.*\.skops, is opened by fastnet\.table_model\.load"):
        fastnet.load(tmp_path / "m")


def test_frames_that_do_not_fit_are_refused() -> None:
    ours, frame = model()
    with pytest.raises(ValueError, match=r"the table has no columns 'x', 'on' \(did you mean 'xs'"):
        ours.predict(frame.rename(columns={"x": "xs", "on": "when"}))
    with pytest.raises(ValueError, match="column 'x' holds 'much'; the model was trained on numbers there"):
        ours.predict(frame.assign(x="much"))
    with pytest.raises(ValueError, match="no rows of data"):
        ours.predict(frame.iloc[:0])
    with pytest.raises(TypeError, match="frame is a list; expected a pandas or polars DataFrame"):
        ours.predict([[1, 2]])
    assert (ours.predict(frame.assign(town="new")) == ours.predict(frame.assign(town="newer"))).all()
    ours.members[0][1].loss = "mse"
    with pytest.raises(RuntimeError, match="gives no probabilities"):
        ours.predict_proba(frame)


def test_hostile_models_are_one_line(tmp_path: Path) -> None:
    ours, _ = model()
    path = tmp_path / "m"
    ours.save(path)
    content, random, sound = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(400):
        changed = bytearray(content)
        changed[random.integers(0, len(content))] = random.integers(0, 256)
        path.write_bytes(changed[: random.choice([len(content), random.integers(1, len(content))])])
        try:
            other = table_model.load(path)
        except ValueError as error:
            said = str(error)
            assert said.startswith(str(path))
            assert "\n" not in said
        else:
            sound += 1
            assert isinstance(other.members[0][1], Network)
    assert sound < 300


@pytest.mark.parametrize("changes", [{"kinds": {"a": 1}}, {"kinds": 3}, {"classes": "ab"}, {"scaling": [0.0, np.nan]}])
def test_fields_of_other_kinds_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    model()[0].save(tmp_path / "m")
    content = skops.io.load(tmp_path / "m", trusted=["numpy.dtype"])
    (tmp_path / "m").write_bytes(skops.io.dumps({**content, **changes}))
    with pytest.raises(ValueError, match="is not a model of a table") as caught:
        table_model.load(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_foreign_types_are_refused(tmp_path: Path) -> None:
    ours, _ = model()
    ours.save(tmp_path / "m")

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            table_model.load(tmp_path / "m")
        assert "\n" not in str(caught.value)

    (tmp_path / "m").write_bytes(skops.io.dumps({"members": FunctionTransformer(np.exp)}))
    refused(r"it holds 'numpy\S*\.exp', 'sklearn\.preprocessing\._function_transfor', which such a file never does")
    (tmp_path / "m").write_bytes(skops.io.dumps({"format": "another"}))
    refused("its format is 'another'; this fastnet reads")
    (tmp_path / "m").write_bytes(skops.io.dumps([1]))
    refused("is not a model of a table")
    (tmp_path / "m").write_text("x,y\n1,2\n")
    refused("is not a model of a table: expected what fastnet train FILE .* wrote; fastnet.load reads networks")
    ours.classes = ["one"]
    ours.save(tmp_path / "m")
    refused("its parts do not fit each other")
    ours.save(tmp_path / "m")
    file = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "m") as stored, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in stored.namelist():
            archive.writestr(name, stored.read(name))
        assert re.search("ColumnTransformer", json.dumps(json.loads(stored.read("schema.json"))))
    (tmp_path / "m").write_bytes(file.getvalue())
    refused("it is compressed, which this fastnet never writes")


@pytest.mark.parametrize("dtype", ["float64", "float32", "Float64", "object", "string"])
def test_numbers_of_every_dtype(dtype: str) -> None:
    column = pandas.Series([1.5, None, np.inf, 4.0], name="size").astype(dtype)
    found = table.numbers(column)
    np.testing.assert_array_equal(found, [1.5, np.nan, np.nan, 4.0])
    assert (found.dtype, found.name) == (np.float64, "size")
    assert table.unread(column, found.notna(), "number")["size"]["cells"] == 1
    np.testing.assert_array_equal(table.numbers(pandas.Series([True, False])), [1, 0])
    np.testing.assert_array_equal(table.numbers(pandas.Series([1, None, 3], dtype="Int64")), [1, np.nan, 3])


def test_blank_cells_are_gaps_not_unreadable() -> None:
    column = pandas.Series(["", "  ", None, "abc"], name="age")
    found = table.unread(column, pandas.Series([False] * 4), "number")
    assert found == {"age": {"expected": "number", "cells": 1, "example": "abc"}}
