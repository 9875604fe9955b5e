"""Network: parameters and views, initial weights, predictions, gradients, validation."""

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest

from fastnet import Network, Trainer, checks, network
from fastnet.kernels.jit.target import COMPILES
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.reference import losses
from fastnet.kernels.specs import losses as specs

ACTIVATIONS = [activation.name for activation in reference.ACTIVATIONS]


def small(**options: Any) -> Network:
    return Network([3, 4, 2], dtype="float64", **options)


def test_parameters_are_one_vector_and_its_views() -> None:
    net = small()
    assert net.parameters.shape == ((3 + 1) * 4 + (4 + 1) * 2,)
    assert [W.shape for W in net.weights] == [(4, 3), (2, 4)]
    assert [b.shape for b in net.biases] == [(4,), (2,)]
    W1, W2 = net.weights
    b1, b2 = net.biases
    assert (net.parameters == np.concatenate([W1.ravel(), b1, W2.ravel(), b2])).all()
    W2[1, 3] = 7
    b1[0] = 5
    assert net.parameters[16 + 7] == 7
    assert net.parameters[12] == 5
    net.parameters[:] = 0
    assert (net.weights[0] == 0).all()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_have_parameters_of_their_own(clone: Any) -> None:
    net = small()
    other = clone(net)
    other.weights[0][...] = 1
    assert (other.parameters[:12] == 1).all()
    assert not (net.parameters[:12] == 1).any()


def test_initial_weights_are_a_function_of_seed_and_sizes() -> None:
    assert (small(seed=1).parameters == small(seed=1).parameters).all()
    assert not (small(seed=1).weights[0] == small(seed=2).weights[0]).any()
    assert (Network([3, 4, 2], seed=1).parameters == small(seed=1).parameters.astype("float32")).all()
    assert all((b == 0).all() for b in small().biases)
    # Known values: seeds must give the same network on every machine and in every version.
    np.testing.assert_allclose(small(seed=0).weights[0][0], KNOWN_FIRST_ROW, rtol=1e-15)


KNOWN_FIRST_ROW = [-1.3815544093468557, -0.731009262854454, -1.099053650236594]


@pytest.mark.parametrize(
    ("activation", "limit"),
    [
        *((name, np.sqrt(6 / 300)) for name in ("relu", "leaky_relu", "gelu", "silu")),
        *((name, np.sqrt(6 / 500)) for name in ("tanh", "sigmoid", "identity")),
    ],
)
def test_initial_weights_scale(activation: str, limit: float) -> None:
    W = Network([300, 200, 1], hidden=activation, dtype="float64").weights[0]
    assert 0.99 * limit < np.abs(W).max() <= limit
    assert W.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)  # that of a uniform distribution
    assert abs(W.mean()) < 0.01 * limit


@pytest.mark.sampled(7)
@pytest.mark.parametrize("hidden", ACTIVATIONS)
@pytest.mark.parametrize("output", ACTIVATIONS)
def test_predict_follows_the_equation(hidden: str, output: str) -> None:
    net = small(hidden=hidden, output=output, seed=5)
    net.biases[0][:] = [0.1, -0.2, 0.3, -0.4]
    X = np.random.default_rng(0).standard_normal((2500, 3))  # more rows than one micro-batch
    f, g = (reference.ACTIVATIONS[ACTIVATIONS.index(name)].function for name in (hidden, output))
    (W1, W2), (b1, b2) = net.weights, net.biases
    np.testing.assert_allclose(net.predict(X), g(f(X @ W1.T + b1) @ W2.T + b2), rtol=1e-11, atol=1e-13)
    one = net.predict(X[1234:1235])
    if COMPILES:  # NumPy's products do not promise it
        assert (one == net.predict(X)[1234]).all(), "a row's outputs must not depend on the other rows"


def test_hidden_takes_one_activation_a_layer() -> None:
    net = Network([2, 3, 4, 1], hidden=["tanh", "relu"], output="sigmoid")
    assert net.activations == ("tanh", "relu", "sigmoid")
    assert Network([2, 1]).activations == ("identity",)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("hidden", ACTIVATIONS)
def test_gradient_against_central_differences(loss: str, hidden: str) -> None:
    net = Network([3, 5, 4, 3], hidden=hidden, dtype="float64", seed=2)
    rng = np.random.default_rng(3)
    X = rng.standard_normal((7, 3))
    y: Any = rng.standard_normal((7, 3)) if loss == "mse" else rng.integers(0, 3, 7)
    _, gradient = net.loss_and_gradient(X, y, loss=loss)
    step = 1e-6
    for i in range(net.parameters.size):
        value = net.parameters[i]
        ends = []
        for shifted in (value + step, value - step):
            net.parameters[i] = shifted
            ends.append(net.loss_and_gradient(X, y, loss=loss)[0])
        net.parameters[i] = value
        assert abs(gradient[i] - (ends[0] - ends[1]) / (2 * step)) <= 1e-7


@pytest.mark.parametrize("loss", specs.LOSSES)
def test_check_gradients(loss: str) -> None:
    net, rng = Network([3, 5, 4, 3], hidden=["gelu", "silu"], seed=2), np.random.default_rng(3)
    X = rng.standard_normal((7, 3))
    y: Any = rng.integers(0, 3, 7) if loss == "cross_entropy" else rng.uniform(0, 1, (7, 3))
    assert net.check_gradients(X, y, loss) < 1e-7
    before = net.parameters.copy()
    gradients = Network.loss_and_gradient
    try:
        Network.loss_and_gradient = lambda self, X, y, loss="mse": (  # type: ignore[method-assign]
            gradients(self, X, y, loss)[0],
            gradients(self, X, y, loss)[1] * 1.01,
        )
        assert net.check_gradients(X, y, loss) > 1e-3, "a gradient that is 1% off is noticed"
    finally:
        Network.loss_and_gradient = gradients  # type: ignore[method-assign]
    assert (net.parameters == before).all()


def test_mse_objective_is_the_sum_over_outputs() -> None:
    net, X, y = small(), np.ones((5, 3)), np.zeros((5, 2))
    objective, _ = net.loss_and_gradient(X, y)
    assert objective == pytest.approx(2 * losses.mse(y, net.predict(X)))


def test_probabilities_need_the_right_loss() -> None:
    net, X = small(), np.ones((4, 3))
    with pytest.raises(RuntimeError, match=r"has not been trained.*Trainer\(net, loss=\"cross_entropy\"\)"):
        net.predict_proba(X)
    Trainer(net, loss="mse").fit(X, np.ones((4, 2)), epochs=1)
    with pytest.raises(RuntimeError, match="was trained with mse"):
        net.predict_proba(X)
    Trainer(net, loss="cross_entropy").fit(X, [0, 1, 1, 1], epochs=1)
    np.testing.assert_allclose(net.predict_proba(X), losses.softmax(net.predict(X)))
    np.testing.assert_allclose(net.predict_proba(X).sum(axis=1), 1)


def test_summary_and_repr() -> None:
    text = Network([64, 128, 10]).summary()
    assert "8,320" in text
    assert "total 9,610 parameters, float32, 37.5 KiB" in text
    assert re.search(r"training in batches of 32 takes \d+\.\d KiB of workspace", text)
    assert "full batches" in Network([64, 128, 10]).summary(batch_size=None)
    with pytest.raises(ValueError, match="batch_size is 0"):
        small().summary(batch_size=0)
    assert repr(small(seed=4)) == "Network([3, 4, 2], hidden=['relu'], output='identity', dtype='float64', seed=4)"
    assert eval(repr(small(seed=4))).parameters.tolist() == small(seed=4).parameters.tolist()


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "expected at least inputs and outputs", ([3],)),
        (ValueError, r"sizes\[1\] is 0; expected a whole number of at least 1", ([3, 0, 1],)),
        (TypeError, r"sizes\[1\] is 2.0; expected a whole number", ([3, 2.0],)),
        (TypeError, r"sizes\[0\] is True", ([True, 2],)),
        (TypeError, "sizes is 3; expected a list", (3,)),
        (TypeError, "sizes is '64'; expected a list", ("64",)),
        (
            ValueError,
            "unknown hidden activation 'rellu'; there are: identity, relu, tanh, sigmoid",
            ([3, 2, 1], "rellu"),
        ),
        (ValueError, "hidden names 1 activations; expected 2, one for each hidden layer", ([3, 2, 2, 1], ["relu"])),
        (TypeError, "hidden is None; expected the name of an activation", ([3, 1], None)),
        (ValueError, "unknown output activation 'sofmax'", ([3, 1], "relu", "sofmax")),
        (ValueError, 'train with loss="cross_entropy", which applies it', ([3, 2], "relu", "softmax")),
        (ValueError, "dtype is 'float16'; expected 'float32' or 'float64'", ([3, 1], "relu", "identity", "float16")),
        (ValueError, "dtype is None", ([3, 1], "relu", "identity", None)),
        (ValueError, "dtype is 'fast'", ([3, 1], "relu", "identity", "fast")),
        (ValueError, "seed is -1", ([3, 1], "relu", "identity", "float32", -1)),
        (ValueError, r"at most 2\*\*64 - 1", ([3, 1], "relu", "identity", "float32", 2**64)),
        (TypeError, "seed is 1.5", ([3, 1], "relu", "identity", "float32", 1.5)),
    ],
)
def test_construction_is_checked(error: type[Exception], message: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(error, match=message):
        Network(*arguments)


@pytest.mark.parametrize(
    ("error", "message", "X"),
    [
        (ValueError, r"X has 63 columns; this network takes 64 \(layer sizes \[64, 128, 10\]\)", np.ones((2, 63))),
        (ValueError, r"X has shape \(64,\); expected two dimensions.*X.reshape\(1, -1\)", np.ones(64)),
        (ValueError, "X is empty", np.ones((0, 64))),
        (
            ValueError,
            "X holds NaN at row 5000, column 3",
            np.where(np.arange(6000 * 64) == 5000 * 64 + 3, np.nan, 1).reshape(6000, 64),
        ),
        (ValueError, "X holds infinity at row 0, column 0", np.full((1, 64), -np.inf)),
        (ValueError, "X holds numbers too large for float32", np.full((1, 64), 1e200)),
        (TypeError, "X has dtype object", np.full((1, 64), None)),
        (TypeError, "X has dtype <U1", np.full((1, 64), "a")),
    ],
)
def test_inputs_are_checked(error: type[Exception], message: str, X: Any) -> None:
    net = Network([64, 128, 10])
    for call in (net.predict, lambda X: net.loss_and_gradient(X, np.ones((2, 10)))):
        with pytest.raises(error, match=message):
            call(X)


def test_inputs_of_any_form_stay_unchanged() -> None:
    net = small()
    X = np.arange(12.0).reshape(4, 3)
    expected = net.predict(X)
    frozen = X.copy()
    frozen.flags.writeable = False
    for form in (
        X.tolist(),
        X.astype(int),
        X.astype("float32"),
        np.asfortranarray(X),
        X.repeat(2, axis=0)[::2],
        frozen,
    ):
        assert (net.predict(form) == expected).all()
    assert (np.arange(12.0).reshape(4, 3) == X).all()


# ------------------------------------------------------------------------------------------------- labels


def test_predict_labels_are_decisions() -> None:
    net = Network([2, 3], dtype="float64")
    net.weights[0][...], net.loss = [[1, 0], [0, 1], [1, 0]], "cross_entropy"
    labels = net.predict_labels([[2.0, 1.0], [1.0, 3.0]])
    assert labels.tolist() == [0, 1], "the first of equals"
    assert labels.dtype == np.int64
    net.loss = "binary_cross_entropy"
    assert net.predict_labels([[2.0, -1.0], [-1.0, 0.0]]).tolist() == [[1, 0, 1], [0, 0, 0]]
    one = Network([2, 1])
    one.loss = "binary_cross_entropy"
    assert one.predict_labels([[0.0, 0.0], [1.0, 1.0]]).shape == (2,)
    one.loss = "mse"
    with pytest.raises(RuntimeError, match="was trained with mse, so its outputs are neither labels nor"):
        one.predict_labels([[0.0, 0.0]])


def test_network_larger_than_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is filled: the system killed the process."""
    monkeypatch.setattr(checks, "memory_total", lambda: 2.0**27)
    monkeypatch.setattr(network, "aligned", lambda size, dtype: pytest.fail("it is allocated"))
    said = r"^a network of the sizes \[10, 99999999, 10\] has 7.8 GiB of parameters; expected at most 0.1 GiB, the mem"
    with pytest.raises(MemoryError, match=said + "ory that this process may use: choose smaller layers$"):
        Network([10, 99999999, 10])
    monkeypatch.undo()
    Network([10, 10])
