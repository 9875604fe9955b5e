"""Hints for users of other libraries: what to write instead of the names used there."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_TRAINING = "Trainer(network, loss=..., optimizer=...).fit(X, y) trains a network"
_ATTRIBUTES = {
    "Network": {
        **dict.fromkeys(("fit", "train", "compile"), _TRAINING),
        **dict.fromkeys(("evaluate", "score"), "Trainer(network, loss=...).evaluate(X, y) measures a network"),
        **dict.fromkeys(("to", "cuda"), 'Trainer(network, backend="cuda") trains on a GPU'),
        "load": "fastnet.load(path) reads what save has written",
        "forward": "predict(X) computes the outputs",
        "eval": "leave it out: dropout is the Trainer's, and predict(X) never drops",
        **dict.fromkeys(("state_dict", "load_state_dict"), "parameters, weights and biases are NumPy views of them"),
    },
    "Trainer": {
        **{name: f"write trainer.network.{name}" for name in ("predict", "predict_proba", "predict_labels")},
        "save": "trainer.network.save(path) keeps the model, fit(X, y, checkpoint=path) all that Trainer.resume needs",
        "load": "Trainer.resume(path) reads a checkpoint",
        "train": "fit(X, y) trains",
        "score": "evaluate(X, y) measures the network",
    },
    "Predictor": {
        "predict": "call it, as in predictor(X)",
        **{name: f"it returns outputs; write network.{name}" for name in ("predict_proba", "predict_labels")},
    },
    "Ensemble": {
        **dict.fromkeys(("fit", "train"), "fit_many(trainers, X, y) trains several networks, then Ensemble takes them"),
        **dict.fromkeys(("evaluate", "score"), "compare predict(X), or predict_labels(X), with y"),
        "load": "fastnet.load(path) reads what save has written",
    },
    "History": {
        **{name: f"write history[{name!r}]" for name in ("loss", "val_loss", "accuracy", "val_accuracy")},
        "history": 'it is itself the mapping of curves, as in history["loss"]',
        "epoch": "history.epochs is their number",
    },
}
"""Hints by class and attribute."""

_OPTIMIZER = "Trainer(network, optimizer=Adam(learning_rate=...)) takes it"
_EPOCHS = dict.fromkeys(("n_epochs", "num_epochs", "max_iter", "iterations"), "write epochs=")
_IN_TRAINER = ("loss", "optimizer", "batch_size", "shuffle", "seed", "l2", "clip_norm", "dropout", "backend", "comm")
_IN_FIT = ("sample_weight", "validation_data", "validation_split", "patience", "callbacks", "progress", "checkpoint")
_SHARES = ("validation", "validation_split", "validation_fraction", "val_split", "test_size")
_FIT = {
    **{name: f"Trainer(network, {name}=...) takes it" for name in (*_IN_TRAINER, "threads")},
    **dict.fromkeys(("lr", "learning_rate"), _OPTIMIZER),
    "class_weight": "write sample_weight=, a weight for each row",
    "verbose": "progress=True shows a bar",
    **_EPOCHS,
    **dict.fromkeys(_SHARES, "write validation_split=, a share of the rows, or validation_data=(X_val, y_val)"),
    **dict.fromkeys(("X_val", "y_val", "eval_set"), "write validation_data=(X_val, y_val)"),
    "self": "fit is called on a trainer, as in Trainer(net, ...).fit(X, y)",
}
_HELD = dict.fromkeys(("validation_data", "eval_set"), "write X_val= and y_val=")
_HELD["self"] = "fit is called on an estimator that has been made, as in estimator.fit(X, y)"
_RATE = {"lr": "write learning_rate="}
_ADAM = {
    **_RATE,
    "betas": "write beta1= and beta2=",
    "eps": "write epsilon=",
    "weight_decay": "AdamW(weight_decay=...) has it, or Trainer(network, l2=...)",
}
_ARGUMENTS: dict[str, dict[str, str]] = {
    "Network": {
        **dict.fromkeys(("activation", "activations"), 'write hidden=, as in hidden="relu", and output= for the last'),
        **dict.fromkeys(
            ("layers", "layer_sizes", "hidden_layer_sizes"), "all sizes come first, as in Network([64, 128, 10])"
        ),
        **{name: f"Trainer(network, {name}=...) takes it" for name in ("loss", "optimizer", "dropout", "l2")},
        **dict.fromkeys(("lr", "learning_rate"), _OPTIMIZER),
        "random_state": "write seed=",
        "": "all sizes are one list, as in Network([64, 128, 10])",
    },
    "Trainer": {
        **dict.fromkeys(("lr", "learning_rate"), "write optimizer=Adam(learning_rate=...)"),
        **{name: f"fit(X, y, {name}=...) takes it" for name in ("epochs", *_IN_FIT)},
        "weight_decay": "write l2=, or optimizer=AdamW(weight_decay=...)",
        "device": 'backend="cuda" trains on a GPU',
        "criterion": "write loss=",
        "random_state": "write seed=",
        "n_jobs": "write threads=",
        "verbose": "fit(X, y, progress=True) shows a bar",
    },
    "Trainer.fit": _FIT,
    "fit_many": {name: hint for name, hint in _FIT.items() if name != "threads"},
    "Ensemble": {"": "the networks are one list, as in Ensemble([first, second])"},
    "SGD": {**_RATE, "weight_decay": "Trainer(network, l2=...) has it"},
    "Adam": _ADAM,
    "AdamW": {name: hint for name, hint in _ADAM.items() if name != "weight_decay"},
    "RMSprop": {**_RATE, "rho": "write alpha=", "eps": "write epsilon="},
    "_EngineMixin": {
        **dict.fromkeys(("epochs", "n_epochs", "num_epochs", "iterations"), "write max_iter="),
        "seed": "write random_state=",
        "l2": "write alpha=",
    },
    "_EngineMixin.fit": {
        **_HELD,
        **dict.fromkeys(_SHARES, "the constructor takes early_stopping=True, validation_fraction="),
    },
    "_Tabular": {
        **_EPOCHS,
        **dict.fromkeys(("alpha", "weight_decay"), "write l2="),
        **dict.fromkeys(("lr", "learning_rate_init"), "write learning_rate="),
        **dict.fromkeys(("hidden", "layers", "layer_sizes"), "write hidden_layer_sizes="),
        **dict.fromkeys(("early_stopping", "n_iter_no_change"), "write patience="),
        **dict.fromkeys(_SHARES, "write validation_fraction="),
        **dict.fromkeys(("solver", "optimizer"), "it is Adam"),
        "seed": "write random_state=",
        "n_jobs": "write threads=",
        "verbose": "progress=True shows a bar",
    },
    "_Tabular.fit": {
        **_HELD,
        **dict.fromkeys(_SHARES, "the constructor takes validation_fraction="),
        **dict.fromkeys(("epochs", "patience", "callbacks", "progress"), "the constructor takes it"),
    },
}
"""Hints by class or function, and argument; "" means too many positional ones, "self" a call on the class."""


class Hinting:
    """Base class whose AttributeErrors say what to write instead of another library's name."""

    if not TYPE_CHECKING:  # otherwise type checkers would accept any attribute

        def __getattr__(self, name: str) -> Any:
            hints = [_ATTRIBUTES.get(kind.__name__, {}).get(name) for kind in type(self).__mro__]
            hint = next(filter(None, hints), "")
            said = f"{type(self).__name__!r} object has no attribute {name!r}{hint and f': {hint}'}"
            raise AttributeError(said, name=name, obj=self)


def hinting(function: F) -> F:
    """Decorate a function, a method or a class's constructor: the TypeError for wrong arguments says what to write.

    The error names the caller's class, not the base class that defines the method.
    """
    if isinstance(function, type):
        made: Any = function
        made.__init__ = hinting(made.__init__)
        return function

    @wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except TypeError:
            wrong = _wrong_call(function, arguments, named)
            if not wrong:
                raise
        raise TypeError(wrong)

    found: Any = checked
    return found


def _wrong_call(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
    """Say what is wrong with a call's arguments; return "" if they fit."""
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        names = [function.__name__]
        unknown = next((name for name in named if name not in signature.parameters), "")
        if "." in function.__qualname__:  # a method
            suffix = "" if function.__name__ == "__init__" else f".{function.__name__}"
            names = [kind.__name__ + suffix for kind in type(arguments[0]).__mro__] if arguments else []
            own = ".".join(function.__qualname__.split(".")[-2:])
            if not arguments or (suffix and own not in names):  # called on the class
                names, unknown = [own], "self"
        hints = [_ARGUMENTS.get(name, {}).get(unknown) for name in names]
        near = get_close_matches(unknown, signature.parameters, 1, 0.75) if unknown in named else []
        hints += [f"did you mean {name}=?" for name in near]
        hint = next(filter(None, hints), "")
        shown = names[0].rpartition(".")[2] if names[0].startswith("_") else names[0]
        return f"{shown}() {error}{hint and f': {hint}'}"
    return ""
