"""Tables in files, as the tests of the command line read them."""

from pathlib import Path

import numpy as np
import pandas
import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tables in it."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    area, rooms = random.uniform(40, 250, 200), random.integers(1, 8, 200)
    price = 3000 * area + 15000 * rooms + 1e6 + random.normal(0, 5000, 200)
    rows = [f"{a:.1f},{r},{p:.2f}" for a, r, p in zip(area, rooms, price, strict=True)]
    (tmp_path / "houses.csv").write_text("\n".join(["area,rooms,price", *rows]))
    petal, kind = random.normal(0, 1, 200), random.integers(0, 3, 200)
    rows = [f"{k + 0.2 * p:.3f};{p:.3f};{['ant', 'bee', 'cicada'][k]}" for p, k in zip(petal, kind, strict=True)]
    (tmp_path / "insects.csv").write_text("\n".join(["wing;leg;kind", *rows]))
    return tmp_path


@pytest.fixture
def people(folder: Path) -> pandas.DataFrame:
    """A table as people have them: text, gaps, dates, booleans, an id, a constant."""
    random = np.random.default_rng(0)
    age, rows = random.normal(40, 10, 300), 300
    frame = pandas.DataFrame({"person": [f"p{i}" for i in range(rows)], "age": age.round(1), "noise": age * 2})
    frame["town"] = random.choice(["Rome", "Oslo, N", "Bern"], rows)
    frame.loc[7, "town"] = "Ulm"
    frame["zone"] = random.integers(1, 4, rows)
    frame["since"] = pandas.date_range("2020-01-01", periods=rows).strftime("%d.%m.%Y")
    frame["member"], frame["planet"] = random.random(rows) > 0.5, "earth"
    frame["rich"] = np.where(age + 10 * frame["member"] > 45, "yes", "no")
    frame.loc[::9, "age"], frame.loc[::11, "town"], frame.loc[3, "rich"] = np.nan, None, None
    frame.to_csv("people.csv.gz", sep="\t")
    frame.to_parquet("people.parquet")
    return frame
