"""Messages say what arrived, what was expected and what to write; the diagnosis says what is wrong with the data."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnet import SGD, Adam, AdamW, Ensemble, History, Network, Trainer, fit_many, load
from fastnet.kernels.api import validation
from fastnet.messages import counted
from fastnet.trainer import DivergenceWarning


class Column:
    """What the messages use of a pandas Series."""

    def __init__(self, dtype: str, values: list[Any]) -> None:
        self.dtype, self.index, self._values = dtype, range(len(values)), values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self._values, object)


class Table:
    """What the messages use of a pandas DataFrame."""

    def __init__(self, *columns: tuple[str, Any]) -> None:
        self.columns, self.dtypes = [name for name, _ in columns], [dtype for _, dtype in columns]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.full((3, len(self.columns)), None, object)


FLOAT = np.dtype("float64")

TABLES = [
    (("a", "Int64"), 'a column \'a\' of dtype Int64; expected numbers: write X["a"].astype("float64"), with missing'),
    (("b", "boolean"), 'X["b"].astype("float64")'),
    (("colour", "category"), "a column 'colour' of dtype category.*pandas.get_dummies(X, columns=[\"colour\"])"),
    (("when", "datetime64[ns, UTC]"), '(X["when"] - X["when"].min()).dt.total_seconds()'),
    (("when", np.dtype("datetime64[ns]")), '(X["when"] - X["when"].min()).dt.total_seconds()'),
    (
        ("text", np.dtype("O")),
        "a column 'text' of dtype object; expected numbers: write pandas.to_numeric(X[\"text\"])",
    ),
]


@pytest.mark.parametrize(("column", "message"), TABLES)
def test_columns_of_tables_are_named(column: tuple[str, Any], message: str) -> None:
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(TypeError, match=pattern):
        Network([2, 1]).predict(Table(("x", FLOAT), column))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [("category", "y.cat.codes"), ("Float64", 'y.astype("float64")'), ("timedelta64[ns]", ".dt.total_seconds()")],
)
def test_single_columns_are_told_apart(dtype: str, advice: str) -> None:
    y: Any = Column(dtype, [None, None])
    with pytest.raises(TypeError, match=re.escape(f"y has dtype {dtype}; expected numbers: write ") + ".*"):
        Network([2, 1]).loss_and_gradient(np.ones((2, 2)), y)
    with pytest.raises(TypeError, match=re.escape(advice)):
        Network([2, 1]).loss_and_gradient(np.ones((2, 2)), y)


def test_pandas_own_types() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1.0, 2.0], "n": pandas.array([1, None], "Int64")})
    net = Network([2, 1])
    with pytest.raises(ValueError, match="X holds NaN at row 1, column 1"):
        net.predict(frame)
    for column in (pandas.array([1, 0], "Int64"), [True, False], pandas.array([True, False], "boolean")):
        frame["n"] = column
        assert (net.predict(frame) == net.predict([[1.0, 1.0], [2.0, 0.0]])).all()
    frame["n"] = ["a", "b"]
    with pytest.raises(TypeError, match=r"for names pandas\.get_dummies\(X, columns=\[\"n\"\]\)"):
        net.predict(frame)
    frame["n"] = pandas.Categorical(["a", "b"])
    with pytest.raises(TypeError, match=r"column 'n' of dtype category"):
        net.predict(frame)
    frame["n"] = pandas.to_datetime(["2024-01-01", "2024-01-02"])
    with pytest.raises(TypeError, match=r"column 'n' of dtype datetime64"):
        net.predict(frame)
    frame["n"] = (frame["n"] - frame["n"].min()).dt.total_seconds()
    net.predict(frame)


def test_frames_and_labels_of_other_kinds() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1, 2, 3]})
    net = Network([2, 3], seed=1)
    assert (net.predict(frame) == net.predict(frame.to_numpy())).all()
    with pytest.raises(TypeError, match=re.escape("column 'b' of dtype String; expected numbers: write X.to_dummies(")):
        net.predict(frame.with_columns(b=polars.lit("x")))
    net.loss_and_gradient(frame, pandas.DataFrame({"y": [0, 1, 2]}), "cross_entropy")
    net.loss_and_gradient(frame, polars.Series([True, False, True]), "cross_entropy")
    names = re.escape("np.unique(y, return_inverse=True)[1]")
    for y in (["a", "b", "c"], pandas.Series(["a", "b", "c"]), polars.Series(["a", "b", "c"]), [2, 4, 6]):
        with pytest.raises((TypeError, ValueError), match=names):
            net.loss_and_gradient(frame, y, "cross_entropy")
    with pytest.raises(TypeError, match=names):
        Network([2, 1]).loss_and_gradient(frame, ["a", "b", "c"])
    with pytest.raises(TypeError, match=names):
        Network([2, 1]).loss_and_gradient(frame, pandas.Series(["a", "b", "c"]))


def test_elements_that_are_not_numbers_are_named() -> None:
    with pytest.raises(TypeError, match=r"X has dtype object and holds str 'red', row 1, column 0; expected numbers"):
        validation.floats(X=np.array([[1, 2], ["red", 3]], object))
    with pytest.raises(TypeError, match=r"X has dtype object.*np\.asarray\(X, dtype=\"float64\"\)"):
        validation.floats(X=np.array([[1, 2], [3, 4]], object))
    with pytest.raises(TypeError, match=re.escape('(X - X.min()) / np.timedelta64(1, "s")')):
        validation.floats(X=np.array([["2024-01-01"]], "datetime64[D]"))


def test_numbers_beyond_all_bounds_are_refused_in_words() -> None:
    with pytest.raises(TypeError, match="X has dtype object and holds int '1000000"):
        validation.floats(X=[[10**400]])
    for sizes in ([2**63, 1], [2**32] * 3, [10**400, 1]):
        with pytest.raises(ValueError, match="no memory holds as many parameters"):
            Network(sizes)


def test_objects_that_make_no_array_say_so_themselves() -> None:
    class Lying:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return [1]

    with pytest.raises(ValueError, match="X is not an array: object __array__ method not producing an array"):
        validation.floats(X=Lying())


def test_one_input_takes_rows_of_one() -> None:
    with pytest.raises(ValueError, match=re.escape("for one input use X.reshape(-1, 1)")):
        Network([1, 2]).predict(np.ones(60))
    with pytest.raises(ValueError, match=re.escape("for one sample use X.reshape(1, -1)")):
        Network([60, 2]).predict(np.ones(60))
    with pytest.raises(ValueError, match=re.escape("one sample a row")) as error:
        Network([3, 2]).predict(np.ones(60))
    assert "reshape" not in str(error.value)


def test_labels_beyond_the_outputs_say_how_many_are_needed() -> None:
    ours = Trainer(Network([1, 2]), loss="cross_entropy")
    with pytest.raises(ValueError, match="labels up to 2 need a network of 3 outputs"):
        ours.fit(np.ones((6, 1)), [0, 1, 2, 0, 1, 2])
    with pytest.raises(ValueError, match="if they count from 1, use y - 1"):
        ours.fit(np.ones((4, 1)), [1, 2, 1, 2])


def test_gradients_are_checked_for_the_loss_trained_with() -> None:
    net = Network([2, 3], dtype="float64")
    net.loss = "cross_entropy"
    assert net.check_gradients([[1.0, 2.0], [3.0, 1.0]], [0, 2]) < 1e-6


def test_names_of_other_libraries_are_told_ours() -> None:
    class Own(Network):
        pass

    net = Network([2, 1])
    trainer = Trainer(net)
    for thing, name, said in (
        (Own([2, 1]), "fit", "'Own' object has no attribute 'fit': Trainer"),
        (net, "fit", r"Trainer\(network, loss=..., optimizer=...\).fit\(X, y\) trains a network"),
        (trainer, "predict", "write trainer.network.predict"),
        (trainer, "save", r"trainer.network.save\(path\) keeps the model"),
        (Ensemble([net]), "fit", r"fit_many\(trainers, X, y\) trains several networks"),
        (Ensemble([net]), "evaluate", r"compare predict\(X\)"),
        (trainer, "score", r"evaluate\(X, y\) measures the network$"),
        (net.predictor(), "predict", r"'Predictor' object has no attribute 'predict': call it, as in predictor\(X\)$"),
        (net.predictor(), "predict_labels", "write network.predict_labels$"),
        (trainer, "histry", "'Trainer' object has no attribute 'histry'$"),
    ):
        assert not hasattr(thing, name)
        with pytest.raises(AttributeError, match=said):
            getattr(thing, name)


@pytest.mark.parametrize("name", ["parameters", "weights", "biases"])
def test_what_replaces_views_is_told_to_write_into_them(name: str) -> None:
    net = Network([2, 1])
    written = "net.parameters[:]" if name == "parameters" else f"net.{name}[0][:]"
    with pytest.raises(
        AttributeError, match=rf"^{name} cannot be replaced; write into it: {re.escape(written)} = \.\.\.$"
    ):
        setattr(net, name, getattr(net, name))


def test_wrong_arguments_are_told_the_right_ones() -> None:
    class Own(Network):
        pass

    X, y = np.ones((5, 2)), np.ones((5, 1))
    net: Any = Network([2, 1])
    trainer: Any = Trainer(net)
    wrong: list[tuple[Any, str]] = [
        (lambda: Own([2, 1], activation="relu"), r"^Own\(\) got .* 'activation': write hidden=, as in hidden=\"relu\""),
        (lambda: Network(6, 5, 4, 3, 2, 1), r"^Network\(\) too many .*: all sizes are one list, as in Network\(\["),
        (lambda: net(X), r"'Network' object is not callable: net.predict\(X\) predicts$"),
        (lambda: Network([1, 2], hiden="relu"), r"^Network\(\) got .* 'hiden': did you mean hidden=\?$"),
        (lambda: Adam(learning_rat=0.1), r"^Adam\(\) got .*: did you mean learning_rate=\?$"),
        (lambda: Network([1, 2], colour=3), r"'colour'$"),
        (lambda: Adam(lr=0.1), r"^Adam\(\) got .* 'lr': write learning_rate=$"),
        (lambda: AdamW(betas=(0, 0)), r"^AdamW\(\) got .* 'betas': write beta1= and beta2=$"),
        (lambda: AdamW(rate=0.1), "'rate'$"),
        (lambda: Trainer(net, lr=0.1), r"'lr': write optimizer=Adam\(learning_rate=...\)$"),
        (lambda: trainer.fit(X, y, batch_size=8), r"^Trainer.fit\(\) .*: Trainer\(network, batch_size=...\) takes it$"),
        (lambda: trainer.fit(X, y, lr=0.1), r"'lr': Trainer\(network, optimizer=Adam\(learning_rate=...\)\) takes it$"),
        (
            lambda: trainer.fit(X, y, validation=0.2),
            r"'validation': write validation_split=, a share of the rows, or va",
        ),
        (lambda: trainer.fit(X, y, class_weight={}), r"'class_weight': write sample_weight=, a weight for each row$"),
        (lambda: fit_many([trainer], X, y, test_size=0.2), r"'test_size': write validation_split=, a share of the"),
        (lambda: trainer.fit(X, y, X_val=X), r"'X_val': write validation_data=\(X_val, y_val\)$"),
        (lambda: trainer.fit(X), r"^Trainer.fit\(\) missing a required argument: 'y'$"),
        (
            lambda: Trainer.fit(X, y),  # type: ignore[call-arg, arg-type]
            r"^Trainer.fit\(\) missing .* 'y': fit is called on a trainer, as in Trainer\(net, ...\).fit\(X, y\)$",
        ),
        (lambda: Trainer.fit(X=X, y=y), r"^Trainer.fit\(\) missing .*: fit is called on a trainer"),  # type: ignore[call-arg]
        (lambda: Network.__init__(), r"^Network.__init__\(\) missing a required argument: 'self'$"),  # type: ignore[call-arg]
        (lambda: fit_many([trainer], X, y, seed=0), r"^fit_many\(\) .* 'seed': Trainer\(network, seed=...\) takes it$"),
        (lambda: Ensemble(net, net), r"^Ensemble\(\) .*: the networks are one list, as in Ensemble\(\["),
    ]
    for call, said in wrong:
        with pytest.raises(TypeError, match=said):
            call()
    with pytest.raises(TypeError, match=r"^a callback's own$"):  # whose arguments are not those of fit
        trainer.fit(X, y, 1, callbacks=[_raise])


def _raise(row: Any) -> None:
    raise TypeError("a callback's own")


def test_estimators_name_themselves_in_errors() -> None:
    sklearn = pytest.importorskip("fastnet.sklearn")
    for name in ("MLPClassifier", "MLPRegressor", "TabularClassifier"):
        with pytest.raises(TypeError, match=rf"^{name}.fit\(\) missing a required argument: 'y'$"):
            getattr(sklearn, name)().fit(np.ones((5, 2)))
        with pytest.raises(TypeError, match=r"^fit\(\) missing .*: fit is called on an estimator that has been made"):
            getattr(sklearn, name).fit(np.ones((5, 2)), np.ones(5))


def test_estimators_say_what_to_write_instead() -> None:
    sklearn, X, y = pytest.importorskip("fastnet.sklearn"), np.ones((5, 2)), np.ones(5)
    wrong: list[tuple[Any, str]] = [
        (lambda name: getattr(sklearn, name)().fit(X, y, validation_data=()), "write X_val= and y_val="),
        (
            lambda name: getattr(sklearn, name)().fit(X, y, test_size=0.2),
            "the constructor takes .*validation_fraction=",
        ),
        (lambda name: getattr(sklearn, name)(seed=0), "write random_state="),
    ]
    of_tables = {"alpha": "write l2=", "max_iter": "write epochs=", "hidden": "write hidden_layer_sizes="}
    of_tables |= {"validation_split": "write validation_fraction=", "lr": "write learning_rate="}
    for name in ("MLPClassifier", "MLPRegressor", "TabularClassifier", "TabularRegressor"):
        for call, said in wrong:
            with pytest.raises(
                TypeError, match=rf"^{name}(.fit)?\(\) got an unexpected keyword argument '.*': {said}$"
            ):
                call(name)
        for argument, said in (of_tables if name.startswith("Tabular") else {"epochs": "write max_iter="}).items():
            with pytest.raises(TypeError, match=rf"^{name}\(\) got .* '{argument}': {said}$"):
                getattr(sklearn, name)(**{argument: 1})


def test_warnings_of_divergence_name_the_line_that_calls_fit() -> None:
    X, y = np.full((20, 1), 1e19), np.ones((20, 1))
    for many in (False, True):
        trainer = Trainer(Network([1, 1]), optimizer=SGD(1e10))
        with pytest.warns(DivergenceWarning) as caught:
            _ = fit_many([trainer], X, y, 20) if many else trainer.fit(X, y, 20)
        assert [warning.filename for warning in caught] == [__file__]


def test_checkpoint_of_an_unknown_optimizer_names_the_class(tmp_path: Path) -> None:
    from fastnet.io import checkpoint

    with pytest.raises(ValueError, match="optimizer is of class 'Mine'; there are: SGD, Adam"):
        checkpoint.settings(
            {
                "trainer": '{"loss": "mse", "batch_size": 1, "shuffle": true, "seed": 0, "l2": 0, "clip_norm": null, '
                '"dropout": 0, "backend": "cpu", "threads": null, "optimizer": {"name": "Mine"}}'
            }
        )


# ------------------------------------------------------------------------------------- the diagnosis


def diagnosis(X: Any, y: Any, loss: str = "mse", optimizer: Any = None, outputs: int = 1) -> str:
    ours = Trainer(Network([X.shape[1], 8, outputs]), loss=loss, optimizer=optimizer or Adam())
    ours.fit(X, y, 12)
    return ours.history.diagnosis()


def test_diagnosis_names_unscaled_data() -> None:
    X = np.random.default_rng(0).standard_normal((300, 3))
    y = X @ [1.0, 2.0, 3.0]
    said = diagnosis(X, 1e6 + 1e4 * y)
    assert said.startswith("Underfitting: loss has levelled off")
    assert "The data are far from unit scale (y has mean 1e+06" in said
    assert said.endswith("train on (y - y.mean(axis=0)) / y.std(axis=0).")
    assert "column 1 of X has mean 5e+03" in diagnosis(X + np.array([0, 5000, 0]), y, optimizer=SGD(1e-12))
    assert "unit scale" not in diagnosis(X, y, optimizer=SGD(1e-12))
    assert "unit scale" not in diagnosis(X * [1, 1, 0.001], y, optimizer=SGD(1e-12)), "one is nearly constant"
    assert "column 0 of X has mean" in diagnosis(X * 0.001, y, optimizer=SGD(1e-12))
    assert "without columns that hold one value only" in diagnosis(X * [5000, 1, 0], y, optimizer=SGD(1e-12))


def test_diagnosis_names_a_constant_target() -> None:
    X = np.random.default_rng(0).standard_normal((300, 3))
    assert diagnosis(X, np.full(300, 7)).startswith("Every row has the same target, 7.0: there is nothing to learn")
    said = diagnosis(X, np.ones(300, int), "cross_entropy", outputs=2)
    assert said.startswith("Every row belongs to the same class, 1:")
    rare = np.zeros(300, int)
    rare[1] = 1  # not among the rows that are looked at first
    assert "same class" not in diagnosis(X, rare, "cross_entropy", outputs=2)
    wide = diagnosis(X, np.ones((300, 2)), outputs=2)
    assert wide.startswith("Every row has the same target, [1.0, 1.0]")


@pytest.mark.parametrize(("number", "expected"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234, "1,234 rows")])
def test_nouns_agree_with_numbers(number: int, expected: str) -> None:
    assert counted(number, "row") == expected


@pytest.mark.parametrize("path", [None, 3, b"net", []], ids=repr)
def test_what_is_no_path_is_named(path: Any) -> None:
    """Whatever reads or writes a file; NumPy's and Python's errors did not say which argument it was."""
    net = Network([2, 1])
    for use in (net.save, net.to_onnx, History().to_csv, load, Trainer.resume):
        with pytest.raises(TypeError, match=rf"^path is {re.escape(repr(path))}; expected the name of a file, a str "):
            use(path)
