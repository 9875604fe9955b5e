"""A model of a table, for tests of its file and of what reads it."""

from typing import Any

import numpy as np
import pandas

from fastnet import Network
from fastnet.table import Columns
from fastnet.table_model import TableModel


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
