"""`fastnet predict`: predictions of models and networks, as CSV and JSON."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
from commands import PEOPLE, rows_of, run

import fastnet
from fastnet import table
from fastnet.cli import predict


def test_predict_parses_each_column_once(
    people: pandas.DataFrame, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "train", "people.parquet", *PEOPLE, "--out", "m")
    parsed, dates_of, numbers = [], table.dates_of, table.numbers
    monkeypatch.setattr(table, "dates_of", lambda *column: parsed.append(column[0].name) or dates_of(*column))
    monkeypatch.setattr(table, "numbers", lambda column: parsed.append(column.name) or numbers(column))
    run(capsys, "predict", "m", "people.parquet")
    assert sorted(parsed) == ["age", "since"]


def test_predict_with_a_network_saved_by_the_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = fastnet.Network([2, 3], seed=1)
    net.save("m")
    np.savez("t.npz", X=np.eye(2))
    rows = rows_of(run(capsys, "predict", "m", "t.npz"))
    assert rows[0] == ["prediction_1", "prediction_2", "prediction_3"]
    np.testing.assert_allclose(np.array(rows[1:], float), net.predict(np.eye(2)), rtol=1e-7)
    net.loss = "cross_entropy"
    net.save("m")
    rows = rows_of(run(capsys, "predict", "m", "t.npz"))
    assert rows[0] == ["prediction", "probability_0", "probability_1", "probability_2"]
    assert [int(row[0]) for row in rows[1:]] == net.predict(np.eye(2)).argmax(axis=1).tolist()


def test_predict_quotes_labels_where_csv_requires_it() -> None:
    result = {
        "target": "kind",
        "classes": ['x, "y"', "naïve"],
        "predictions": ["naïve"],
        "probabilities": [[0.25, 0.75]],
    }
    said = predict.as_csv(result)
    assert said == 'kind,"probability_x, ""y""",probability_naïve\nnaïve,0.25,0.75\n'


def test_ids_of_any_kind_and_gaps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parquet files hold dates, decimals and nullable numbers, which are no numbers or text of Python's."""
    fastnet.Network([1, 1]).save("m")
    days = pandas.Series(pandas.to_datetime(["2024-01-31", None])).dt.date
    for ids, texts in ((days, ["2024-01-31", None]), (pandas.array([7, None], "Int64"), [7, None])):
        pandas.DataFrame({"x": [1.0, 2.0], "who": ids}).to_parquet("t.parquet")
        told = json.loads(run(capsys, "predict", "m", "t.parquet", "--id", "who", "--json"))
        assert told["ids"] == texts
        rows = rows_of(run(capsys, "predict", "m", "t.parquet", "--id", "who"))
        assert [row[0] for row in rows] == ["who", str(texts[0]), ""]
