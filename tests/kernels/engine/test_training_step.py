"""The compiled step: bits of the registered variants, one compilation, micro-batches, penalties, wrong updates."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from backends import assert_backends_agree, random_data

from fastnet import SGD, Adam, Network, StepDecay, Trainer
from fastnet.kernels.cpu import activations
from fastnet.kernels.cpu.gemm.microkernel import NV
from fastnet.kernels.cpu.threads.pool import limit_threads
from fastnet.kernels.engine import engine, plan, training_step
from fastnet.kernels.engine.numpy_engine import NumpyEngine
from fastnet.kernels.engine.optimizer_state import OptimizerState
from fastnet.kernels.engine.plan import aligned, padded
from fastnet.kernels.engine.weights_task import pack_weights
from fastnet.kernels.jit.decorator import jit
from fastnet.kernels.llvm.builder import VECTOR
from fastnet.kernels.llvm.memory import address_and_strides
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.reference import layers, losses
from fastnet.kernels.registry import find
from fastnet.kernels.specs.batches import MICRO_BATCH_ROWS
from fastnet.kernels.specs.optimizers import OPTIMIZERS

NAMES = [activation.name for activation in reference.ACTIVATIONS]
EXACT = ["identity", "relu", "leaky_relu", "tanh", "gelu", "silu"]
"""Activations whose derivative has the same bits here as in the table; sigmoid's is A (1 - A) here."""

# ------------------------------------------------------------------------------------------------- against the oracle


@pytest.mark.sampled(5)
@pytest.mark.compiled
@pytest.mark.parametrize("hidden", EXACT)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(45, (37, 50, 33, 5)), (1, (90, 150, 330, 5)), (130, (70, 300, 129, 5))],
    ids=["edges of tiles", "one row, wider than its tile", "several panels and tasks"],
)
def test_gradient_has_the_bits_of_the_registered_variants(
    dtype: str, hidden: str, rows: int, sizes: tuple[int, ...]
) -> None:
    """What trains is what is held against the oracle: its products, activations and losses, called one by one."""
    X, y = random_data(rows, sizes, dtype)
    net = Network(sizes, hidden=hidden, dtype=dtype, seed=1)
    net.parameters[:] += 0.01  # biases that are not 0
    codes = [NAMES.index(name) for name in net.activations]

    inputs, Zs = [X], []
    for W, b, code in zip(net.weights, net.biases, codes, strict=True):
        A, Z = (np.full((rows, len(W)), np.nan, dtype) for _ in range(2))
        find("dense_forward", "simd")(inputs[-1], W, b, code, A, Z)
        inputs.append(A)
        Zs.append(Z)
    loss, D = np.empty(1), np.empty_like(inputs[-1])
    find("mse", "simd")(y, inputs[-1], loss)
    find("mse_derivative", "simd")(y, inputs[-1], D)
    parts: list[Any] = []
    for i in reversed(range(3)):
        W = net.weights[i]
        dW, db, dX = np.empty_like(W), np.empty(len(W), dtype), np.empty_like(inputs[i])
        find("dense_backward_batch", "simd")(inputs[i], Zs[i], D, W, codes[i], dW, db, dX)
        parts = [dW.ravel(), db, *parts]
        D = dX

    objective, gradient = net.loss_and_gradient(X, y)
    assert gradient.tobytes() == np.concatenate(parts).tobytes()
    assert objective == pytest.approx(loss[0] * 5, rel=1e-6)
    assert net.predict(X).tobytes() == inputs[-1].tobytes()


@pytest.mark.sampled(3)
@pytest.mark.compiled
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_times_derivative(dtype: str, name: str, rng: np.random.Generator) -> None:
    """The one kernel of an epoch that is in no variant of the table."""
    activation = reference.ACTIVATIONS[NAMES.index(name)]
    Z = (rng.standard_normal(300) * 5).astype(dtype)
    dZ = rng.standard_normal(300).astype(dtype)
    expected = dZ * activation.derivative(Z.astype(np.float64))
    A = activation.function(Z).astype(dtype)
    activations.times_derivative_kernel(NAMES.index(name))(A, Z.copy(), dZ)
    np.testing.assert_allclose(dZ, expected, rtol=0, atol=40 * np.finfo(dtype).eps)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_micro_batches_add_up_to_the_batch(backend: str) -> None:
    """A full batch of several micro-batches has the gradient of one NumPy product over all rows."""
    sizes = (6, 9, 2)
    X, y = random_data(2 * MICRO_BATCH_ROWS + 77, sizes, "float64")
    net = Network(sizes, hidden="tanh", dtype="float64")
    ours = Trainer(net, optimizer=SGD(1.0), batch_size=None, shuffle=False, backend=backend)
    before = net.parameters.copy()
    (W1, W2), (b1, b2) = ([array.copy() for array in arrays] for arrays in (net.weights, net.biases))
    A1, Z1 = layers.dense_forward(X, W1, b1, reference.tanh)
    A2, Z2 = layers.dense_forward(A1, W2, b2, reference.identity)
    D = losses.mse_derivative(y, A2)
    dW2, db2, dA1 = layers.dense_backward_batch(A1, Z2, D, W2, reference.identity_derivative)
    dW1, db1, _ = layers.dense_backward_batch(X, Z1, dA1, W1, reference.tanh_derivative)
    gradient = np.concatenate([dW1.ravel(), db1, dW2.ravel(), db2])
    history = ours.fit(X, y, 1)
    np.testing.assert_allclose(before - net.parameters, gradient, rtol=1e-10, atol=1e-13)
    assert history["loss"][0] == pytest.approx(losses.mse(y, A2), rel=1e-12)


@pytest.mark.compiled
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dtype", "loss"), [("float64", "mse"), ("float64", "cross_entropy"), ("float32", "mse")])
def test_l2_per_batch(dtype: str, loss: str, weighted: bool, rng: np.random.Generator) -> None:
    """By hand, a batch at a time: each divides it by its weight, and counts its mean loss and penalty by its rows."""
    sizes, batch, l2, cap = (17, 30, 3), 8, 0.3, 1.5
    X, y = random_data(21, sizes, dtype)  # the last batch holds 5 rows
    truth = y if loss == "mse" else y.argmax(axis=1)
    weights = rng.uniform(0.5, 2, 21) if weighted else None
    start = (rng.standard_normal(plan.parameter_count(sizes)) * 0.3).astype(dtype)
    codes = [NAMES.index("tanh"), NAMES.index("identity")]

    found = {}
    for name, make, threads in (
        ("numpy", NumpyEngine, 1),
        ("one", engine.CpuEngine, 1),
        ("three", engine.CpuEngine, 3),
    ):
        parameters = start.copy()
        with limit_threads(threads):
            state = OptimizerState(
                OPTIMIZERS["sgd"].code, np.zeros((0, start.size), dtype), l2_per_batch=l2, max_row_loss=cap
            )
            at_work: Any = make(parameters, sizes, codes, loss, batch, state)
            at_work.train(X, truth, weights, rates=np.array([0.1]))
        found[name] = (parameters, [float(at_work.objective[term]) for term in ("mean_loss", "penalty")])

    expected, mean_loss, penalty = start.copy(), 0.0, 0.0
    for top in range(0, 21, batch):
        rows = slice(top, min(top + batch, 21))
        count = rows.stop - rows.start
        w = np.ones(count) if weights is None else weights[rows]
        one = engine.CpuEngine(expected, sizes, codes, loss, count)
        each = [one.evaluate([(X[i : i + 1], truth[i : i + 1], None, 0)], 1)["loss"] for i in range(top, rows.stop)]
        each = np.minimum(np.array(each) * (sizes[-1] if loss == "mse" else 1), cap)
        mean_loss += count * np.sum(w * each) / np.sum(w)
        one.train(X[rows], truth[rows], None if weights is None else weights[rows])
        step = one.plan.gradient.copy()
        for (W, _), (dW, _) in zip(plan.layer_views(expected, sizes), plan.layer_views(step, sizes), strict=True):
            penalty += count * l2 / 2 * np.sum(np.square(W, dtype=np.float64)) / np.sum(w)
            dW += dW.dtype.type(l2 / np.sum(w)) * W
        expected -= step.dtype.type(0.1) * step
    for parameters, terms in found.values():
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(parameters, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(terms, [mean_loss, penalty], rtol=tolerance)
    assert found["one"][0].tobytes() == found["three"][0].tobytes()
    assert found["one"][1] == found["three"][1]


@jit
def _pack(W: Any, packed: Any, begin: int, end: int, streams: bool) -> None:
    w, to = address_and_strides(W)[0], address_and_strides(packed)[0]
    pack_weights(W.dtype, w, to, W.shape[1], begin, end, streams)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_packed_weights_are_the_transpose_from_any_vector_on(dtype: str) -> None:
    """Stored past the caches or not; a rank's part of W may begin in the middle of a micro-panel."""
    lanes, n = VECTOR // np.dtype(dtype).itemsize, 13
    k, height, nr = 5 * NV * lanes, padded(n, lanes), NV * lanes
    W = np.random.default_rng(0).standard_normal((k, n)).astype(dtype)
    for begin in range(0, k, lanes):
        for end in {min(begin + lanes, k), min(begin + 3 * lanes, k), k}:
            packed = aligned(k * height, np.dtype(dtype))
            packed[:] = np.nan
            _pack(W, packed, begin, end, True)
            found = packed.reshape(-1, height, nr).transpose(0, 2, 1).reshape(k, height)
            assert np.array_equal(found[begin:end, :n], W[begin:end])
            assert np.isnan(found[:begin]).all()
            assert np.isnan(found[end:]).all()


@pytest.mark.parametrize(
    "rate", [Fraction(1, 20), np.float32(0.05), np.longdouble(0.05)], ids=lambda r: type(r).__name__
)
def test_learning_rate_of_any_number_type(rate: Any) -> None:
    X, y = random_data(50, (3, 2), "float64")
    runs = []
    for number in (rate, 0.05):
        ours = Trainer(Network((3, 2), dtype="float64"), optimizer=SGD(StepDecay(number, Fraction(2))), batch_size=9)
        runs.append(ours.fit(X, y, 5)["loss"])
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- one compilation


@pytest.mark.compiled
def test_step_is_compiled_once_for_all_networks() -> None:
    def train(sizes: tuple[int, ...], hidden: Any, optimizer: Any, loss: str) -> None:
        X, y = random_data(70, sizes, "float32")
        y = y if loss == "mse" else (y > 0).astype("float32")
        Trainer(Network(sizes, hidden=hidden), loss, optimizer, 16).fit(X, y, 2, validation_split=0.2)

    train((3, 4, 2), "tanh", SGD(0.01), "mse")
    train((3, 4, 2), "tanh", Adam(), "mse")
    compiled = [len(f.signatures) for f in (training_step.run, training_step.rows_task, training_step.weights_task)]  # type: ignore[attr-defined]
    train((7, 5, 6, 4, 9, 1), ["relu", "gelu", "sigmoid", "tanh"], SGD(0.01, momentum=0.5), "binary_cross_entropy")
    train((2, 1), "relu", Adam(), "huber")
    assert compiled == [
        len(f.signatures) for f in (training_step.run, training_step.rows_task, training_step.weights_task)
    ]  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------ mutants


def without_l2(real: Any) -> Any:
    def update(self: Any, rate: float, rows: int) -> None:
        self._optimizer.l2 = 0.0
        real(self, rate, rows)

    return update


def without_clipping(real: Any) -> Any:
    def update(self: Any, rate: float, rows: int) -> None:
        self._optimizer.clip_norm = 1e9
        real(self, rate, rows)

    return update


def of_the_next_step(real: Any) -> Any:
    def update(self: Any, rate: float, rows: int) -> None:
        self._optimizer.progress["step"] += 1
        real(self, rate, rows)
        self._optimizer.progress["step"] -= 1

    return update


MUTANTS: dict[str, Any] = {
    "forgets l2": without_l2,
    "half the rate": lambda real: lambda self, rate, rows: real(self, rate / 2, rows),
    "never clips": without_clipping,
    "counts steps from 2": of_the_next_step,
}


@pytest.mark.compiled
@pytest.mark.parametrize("mutant", MUTANTS)
def test_comparison_of_backends_rejects_wrong_updates(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"loss": "mse", "optimizer": Adam(0.01), "l2": 0.1, "clip_norm": 0.3}
    assert_backends_agree(options, {})
    monkeypatch.setattr(NumpyEngine, "_update", MUTANTS[mutant](NumpyEngine._update))
    with pytest.raises(AssertionError):
        assert_backends_agree(options, {})
