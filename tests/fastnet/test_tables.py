"""CSV and NPZ: what is read, what is recognised, and the line that is named where something is wrong."""

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnet.data
from fastnet import tables
from fastnet.data import Preparation

HOUSES = [f"{50 + i},{i % 4},{1000.5 * i}" for i in range(12)]


def written(tmp_path: Path, *lines: str, end: str = "\n") -> Path:
    (tmp_path / "t.csv").write_bytes("".join(line + end for line in lines).encode())
    return tmp_path / "t.csv"


def houses(tmp_path: Path, **changed: str) -> Path:
    """Twelve rows; line5="..." puts something else there."""
    lines = ["area,rooms,price", *HOUSES]
    for name, line in changed.items():
        lines[int(name.removeprefix("line")) - 1] = line
    return written(tmp_path, *lines)


def test_table_is_read(tmp_path: Path) -> None:
    table = fastnet.data.read(houses(tmp_path), "price")
    assert (table.task, table.features, table.target, table.classes) == ("regression", ("area", "rooms"), "price", None)
    assert table.X.dtype == table.y.dtype == np.float64
    assert table.X.tolist() == [[50 + i, i % 4] for i in range(12)]
    assert table.y.tolist() == [1000.5 * i for i in range(12)]
    table = fastnet.data.read(houses(tmp_path), "area")
    assert table.features == ("rooms", "price")
    assert table.X[1].tolist() == [1, 1000.5]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("delimiter", "separator"), [(",", "comma"), (";", "semicolon"), ("\t", "tab")])
def test_separators_quotes_and_blanks(delimiter: str, separator: str, end: str, tmp_path: Path) -> None:
    text = {0: '"b, ""c"""', 1: '"a"'}
    rows = [f'"{i}"{delimiter} {i}.5e1 {delimiter}{text[i % 2]}' for i in range(10)]
    header = delimiter.join(["\ufeffone", '"two, or so"', " three "])
    table = fastnet.data.read(written(tmp_path, header, *rows[:5], "", *rows[5:], "", end=end), "three")
    assert table.separator == separator
    assert table.features == ("one", "two, or so")
    assert table.classes == ("a", 'b, "c"')
    assert table.X.tolist() == [[i, i * 10 + 5 if i else 5] for i in range(10)]
    assert table.y.tolist() == [1, 0] * 5


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["no", "yes"] * 6, "classification", ("no", "yes")),
        (["1", "0", "1.0"] * 4, "classification", (0, 1)),
        (["-1", "7"] * 6, "classification", (-1, 7)),
        ([str(i % 6) for i in range(12)], "classification", (0, 1, 2, 3, 4, 5)),
        ([str(i % 7) for i in range(12)], "regression", None),  # each found fewer than twice on average
        (["0.5", "1.5"] * 6, "regression", None),
        ([str(i % 20) for i in range(40)], "classification", tuple(range(20))),
        ([str(i % 21) for i in range(42)], "regression", None),
    ],
)
def test_task_is_recognised(values: list[str], task: str, classes: Any, tmp_path: Path) -> None:
    table = fastnet.data.read(written(tmp_path, "x,y", *[f"{i},{v}" for i, v in enumerate(values)]), "y")
    assert table.task == task
    assert table.classes == classes
    assert table.task_reason
    if classes:
        assert table.y.dtype == np.int64
        found = [table.classes[i] for i in table.y]  # type: ignore[index]
        assert found == ([float(v) for v in values] if isinstance(classes[0], int) else values)


def test_task_can_be_given(tmp_path: Path) -> None:
    path = written(tmp_path, "x,y", *[f"{i},{i % 2}.5" for i in range(12)])
    assert fastnet.data.read(path, "y", "classification").classes == ("0.5", "1.5")
    path = written(tmp_path, "x,y", *[f"{i},{i % 2}" for i in range(12)])
    assert fastnet.data.read(path, "y", "regression").y.tolist() == [0, 1] * 6
    path = written(tmp_path, "x,y", *[f"{i},{['1', '2', '3a'][i % 3]}" for i in range(12)])
    assert fastnet.data.read(path, "y", "classification").classes == ("1", "2", "3a")
    with pytest.raises(ValueError, match=r"t.csv, line 4: column 'y' holds '3a'; expected a number, for regression"):
        fastnet.data.read(path, "y", "regression")
    with pytest.raises(ValueError, match="unknown task 'guess'"):
        fastnet.data.read(path, "y", "guess")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"line5": "53,three,7"}, "line 5: column 'rooms' holds 'three'; expected a number"),
        ({"line5": "53,,7"}, "line 5: column 'rooms' is empty, a missing value; fill it in, or leave the row out"),
        ({"line5": "53,N/A,7"}, "line 5: column 'rooms' holds 'N/A', a missing value"),
        ({"line5": "53,nan,7"}, "line 5: column 'rooms' holds nan; expected a finite number"),
        ({"line5": "1e999,1,7"}, "line 5: column 'area' holds inf; expected a finite number"),
        ({"line5": "1_000,1,7"}, "line 5: column 'area' holds '1_000'; expected a number"),
        ({"line5": "53\x1d,1,7"}, "line 5: column 'area' holds '53\\x1d'; expected a number"),  # str.strip() removes it
        ({"line5": '"1,5",1,7'}, "line 5: column 'area' holds '1,5'; expected a number: numbers have a decimal point"),
        ({"line5": "53,1"}, "line 5 has 2 fields; the header has 3"),
        ({"line5": "53,1,7,8"}, "line 5 has 4 fields; the header has 3"),
        ({"line5": "53,1,"}, "line 5: column 'price' is empty"),
        ({"line5": "53,1,inf"}, "line 5: column 'price' holds 'inf'; expected a finite number"),
        ({"line5": "53,1,dear"}, "line 5: column 'price' holds 'dear' but line 2: column 'price' holds '0.0'"),
        ({"line5": '"53,1,7'}, "line 13: unexpected end of data; is a quotation mark left open?"),
        ({"line5": '"53"x,1,7'}, "line 5: ',' expected after '\"'; is a quotation mark left open?"),
        ({"line5": "53\r,1,7"}, "line 5: a bare carriage return"),
        ({"line5": '"5\n3",1,7', "line7": "x,1,7"}, "line 5: column 'area' holds '5\\n3'"),
        ({"line3": '51,1,"7\n"', "line7": "x,1,7"}, "line 8: column 'area' holds 'x'"),  # lines, not rows
        ({"line1": "area,area,price"}, "line 1: two columns are called 'area'"),
        ({"line1": ",rooms,price"}, "line 1: column 1 has no name (an index that pandas wrote? save with index=False)"),
        ({"line1": "area,rooms,cost"}, "has no column 'price'; there are: 'area', 'rooms', 'cost'"),
        ({"line1": "50,0,1"}, "here it holds numbers"),
        ({"line1": ""}, "line 1 is empty: expected column names"),
    ],
)
def test_bad_data_errors_name_the_line(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    path = houses(tmp_path, **changes)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        fastnet.data.read(path, "price")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_bad_file_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(content: bytes, message: str) -> None:
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            fastnet.data.read(tmp_path / "t.csv", "y")
        assert "\n" not in str(caught.value)

    body = b"".join(b"%d,%d\n" % (i, i % 2) for i in range(12))
    refused(b"", "t.csv is empty$")
    refused(b"x,y\n", "has 0 rows of data; expected at least 10")
    refused(b"x,y\n1,2\n", "has 1 rows of data")
    refused(b"x,y\n" + body + b"caf\xe9,1\n", "line 14 is not UTF-8: byte 0xe9; save the file as UTF-8")
    refused(("x,y\n" + body.decode()).encode("utf-16"), r"line 1 is not UTF-8: byte 0xff \(it begins like UTF-16\)")
    refused(b"\x89PNG\r\n\x1a\n\0\0", "line 1 is not UTF-8: byte 0x89; save|is it a CSV")
    refused(b"y\n" + body, "has no column but the target 'y'")
    refused(b"x,y\n" + b"1,2\n" * 12, "target 'y' holds 2.0 in every row; there is nothing to learn")
    refused(b"x,y\n" + b"1,cat\n" * 12, "target 'y' holds cat in every row")
    refused(b"x,y\n" + b"".join(b"1,n%d\n" % i for i in range(1500)), "more than 1000 different texts; is it a name")
    refused(",".join(f"c{i}" for i in range(10**6)).encode() + b",y\n", "1,000,001 columns; a CSV may have 65,536")
    refused(b"x,y\n" + b'"' + b"a" * 200_000 + b'",1\n', "field larger than field limit")
    monkeypatch.setattr(tables, "_MAX_LINE_BYTES", 100)
    refused(b"x" * 200, "line 1 is longer than")
    with pytest.raises(FileNotFoundError, match=r"cannot read .*no.csv: no such file"):
        fastnet.data.read(tmp_path / "no.csv", "y")
    with pytest.raises(OSError, match="it is a folder"):
        fastnet.data.read(tmp_path, "y")


def test_target_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Name it by --target; there are: 'area', 'rooms', 'price'"):
        fastnet.data.read(houses(tmp_path))


def test_random_bytes_are_read_or_rejected(tmp_path: Path) -> None:
    good, random = houses(tmp_path).read_bytes(), np.random.default_rng(0)
    outcomes, messages = set(), []
    for _ in range(400):
        content = bytearray(good)
        for _ in range(random.integers(1, 4)):
            content[random.integers(0, len(good))] = random.integers(0, 256)
        (tmp_path / "t.csv").write_bytes(content)
        try:
            outcomes.add(fastnet.data.read(tmp_path / "t.csv", "price").task)
        except ValueError as error:
            messages.append(str(error))
    assert "regression" in outcomes
    assert messages
    assert not [message for message in messages if "\n" in message], "an error is one line"


# -------------------------------------------------------------------------------------------------- NPZ


def npz(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "t.npz", **arrays)
    return tmp_path / "t.npz"


def test_npz_is_read(tmp_path: Path) -> None:
    X = np.arange(24, dtype="float32").reshape(12, 2)
    table = fastnet.data.read(npz(tmp_path, X=X, y=np.arange(12) / 4))
    assert (table.task, table.features, table.target, table.X.dtype) == ("regression", None, "y", np.float32)
    table = fastnet.data.read(npz(tmp_path, X=X, kind=np.array(["b", "a"] * 6).reshape(12, 1)), "kind")
    assert (table.classes, table.target, table.y.tolist()) == (("a", "b"), "kind", [1, 0] * 6)
    assert fastnet.data.read(npz(tmp_path, X=X, y=np.array([True, False] * 6))).classes == (0, 1)
    assert fastnet.data.read(npz(tmp_path, X=X, y=np.arange(12) % 3)).classes == (0, 1, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"A": np.ones(3)}, "has no array 'X'; there are: 'A'"),
        ({"X": np.ones((12, 2))}, "has no array 'y' to predict; there are: 'X'"),
        ({"X": np.ones((12, 2)), "y": np.ones(11)}, r"y has shape \(11,\); expected \(12,\)"),
        ({"X": np.ones((12, 2)), "y": np.ones((12, 2))}, r"y has shape \(12, 2\)"),
        ({"X": np.ones(12), "y": np.ones(12)}, "X has shape"),
        ({"X": np.full((12, 2), np.nan), "y": np.ones(12)}, "X holds NaN at row 0, column 0"),
        ({"X": np.ones((12, 2)), "y": np.full(12, np.inf)}, "y holds infinity at row 0"),
        ({"X": np.ones((12, 2)), "y": np.ones(12, complex)}, "y has dtype complex128; expected numbers, or text"),
        ({"X": np.array([[None]] * 12), "y": np.ones(12)}, "it holds Python objects, which are never unpickled"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, "X is empty"),
    ],
)
def test_bad_npz_is_rejected(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        fastnet.data.read(npz(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_broken_npz_is_rejected(tmp_path: Path) -> None:
    content, random = npz(tmp_path, X=np.ones((12, 2)), y=np.arange(12)).read_bytes(), np.random.default_rng(0)
    for cut in (0, 3, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "t.npz").write_bytes(content[:cut])
        with pytest.raises(ValueError, match="is not an NPZ file"):
            fastnet.data.read(tmp_path / "t.npz")
    for _ in range(300):
        changed = bytearray(content)
        changed[random.integers(0, len(content))] = random.integers(0, 256)
        (tmp_path / "t.npz").write_bytes(changed)
        try:
            fastnet.data.read(tmp_path / "t.npz")
        except (ValueError, TypeError) as error:
            said = str(error)
            assert "\n" not in said
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "t.npz").write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="has no array 'X'"):
        fastnet.data.read(tmp_path / "t.npz")


# ---------------------------------------------------------------------------------------- new rows, scaling


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    kept = Preparation(np.zeros(2), np.ones(2), ("area", "rooms"), "price")
    path = written(tmp_path, "rooms,price,area", "3,,70", "4,whatever,80")
    assert tables.read_inputs(path, kept, 2).tolist() == [[70, 3], [80, 4]]
    assert tables.read_inputs(written(tmp_path, "rooms,area", "3,70"), kept, 2).tolist() == [[70, 3]]
    with pytest.raises(ValueError, match="lacks columns that this model takes: 'rooms'; it has instead 'room'"):
        tables.read_inputs(written(tmp_path, "room,area", "3,70"), kept, 2)
    with pytest.raises(ValueError, match="was not trained on: 'garden'; remove them"):
        tables.read_inputs(written(tmp_path, "rooms,area,garden", "3,70,1"), kept, 2)
    with pytest.raises(ValueError, match="has no rows of data"):
        tables.read_inputs(written(tmp_path, "rooms,area"), kept, 2)
    with pytest.raises(ValueError, match="line 2: column 'area' holds 'big'"):
        tables.read_inputs(written(tmp_path, "rooms,area", "3,big"), kept, 2)


def test_columns_without_names_are_taken_in_order(tmp_path: Path) -> None:
    kept = Preparation(np.zeros(2), np.ones(2), None, "y")
    assert tables.read_inputs(written(tmp_path, "a,y,b", "1,2,3"), kept, 2).tolist() == [[1, 3]]
    assert tables.read_inputs(written(tmp_path, "a,b", "1,2"), None, 2).tolist() == [[1, 2]]
    assert tables.read_inputs(npz(tmp_path, X=np.ones((3, 2))), kept, 2).shape == (3, 2)
    with pytest.raises(ValueError, match="has 3 columns of features; this model takes 2"):
        tables.read_inputs(npz(tmp_path, X=np.ones((3, 3))), kept, 2)


def test_preparation_scales_and_restores() -> None:
    random = np.random.default_rng(0)
    X, y = random.normal([5, -1e9, 1e-9], [2, 100, 1e-12], (500, 3)), random.normal(3e5, 1e5, 500)
    kept = Preparation.of(X, y, target="price")
    scaled = kept.inputs(X)
    assert np.abs(scaled.mean(axis=0)).max() < 1e-6
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(kept.targets(y).std(), 1)
    np.testing.assert_allclose(kept.restore(kept.targets(y).astype("float32")), y, rtol=1e-6)
    constant = Preparation.of(np.array([[0.1, 1e300], [0.1, 1e300], [0.1, 1e300]]))
    assert constant.scale.tolist() == [1, 1]
    assert Preparation.of(np.full((100_000, 1), 0.1)).scale.tolist() == [1]


def test_preparation_is_checked() -> None:
    with pytest.raises(ValueError, match="column 'b' holds numbers too large to be scaled"):
        Preparation.of([[1, -1e300], [2, 1e300]], features=["a", "b"])
    with pytest.raises(ValueError, match="features names 1 columns; X has 2"):
        Preparation.of([[1, 2]], features=["a"])
    with pytest.raises(ValueError, match=r"y has shape \(2,\); expected \(1,\)"):
        Preparation.of([[1, 2]], [1, 2])
    with pytest.raises(ValueError, match="X has 1 columns; expected 2, as in the table trained on"):
        Preparation.of([[1, 2], [3, 4]]).inputs([[1]])
    with pytest.raises(ValueError, match="X holds NaN"):
        Preparation.of([[np.nan, 2]])


def test_pipe_is_rejected_without_waiting(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(OSError, match="it is a device or a pipe"):
        fastnet.data.read(tmp_path / "pipe.csv", "y")
