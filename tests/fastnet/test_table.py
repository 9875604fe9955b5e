"""Tables: what their columns are taken for, models of them, and hostile models."""

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
from table_models import model

import fastnet
from fastnet import Network, scores, table, table_model
from fastnet.table import Columns


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
