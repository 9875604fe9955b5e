"""Prediction: bits, weights that change, snapshots, out=, threads, forks, memory, calls from compiled code and C."""

import copy
import ctypes
import os
import pickle
import resource
import subprocess
import sys
import threading
import warnings
from typing import Any

import numba
import numpy as np
import pytest

from fastnet import Network
from fastnet.kernels import matmul
from fastnet.kernels.cpu.threads.pool import limit_threads, num_threads
from fastnet.kernels.engine import forward as forward_pass
from fastnet.kernels.engine import inference
from fastnet.kernels.engine.inference import FEW_ROWS, FEW_ROWS_IN_PLACE
from fastnet.kernels.reference import activations as reference
from fastnet.kernels.reference import losses
from fastnet.kernels.specs.activations import ACTIVATIONS
from fastnet.predictor import Predictor

NAMES = tuple(ACTIVATIONS)
SHAPES = [(64, 128, 10), (37, 5, 3), (1500, 33, 1), (3, 1), (1, 1, 1), (5, 2100, 4), (5, 70, 41, 17), (300, 250, 1)]
compiled = pytest.mark.compiled


def network(sizes: tuple[int, ...], **options: Any) -> Network:
    net = Network(sizes, **options)
    net.parameters[:] = np.random.default_rng(1).standard_normal(net.parameters.size)
    return net


def inputs(rows: int, net: Network) -> Any:
    return np.random.default_rng(2).standard_normal((rows, net.layer_sizes[0])).astype(net.dtype)


# ----------------------------------------------------------------------------------------------- bits


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_bits_depend_on_neither_batch_nor_packing(sizes: tuple[int, ...], dtype: str) -> None:
    net = network(sizes, dtype=dtype)
    predictor, X = net.predictor(), inputs(500, net)
    whole = net.predict(X)
    assert whole.dtype == dtype
    for rows in (1, 2, 3, 4, 5, 7, 16, 63, 64, 65, 239, 240, 241, 481, 500):
        for predict in (net.predict, predictor):
            assert (predict(X[:rows]) == whole[:rows]).all(), rows
            assert (predict(X[500 - rows :]) == whole[500 - rows :]).all(), rows


@compiled
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_are_those_of_training(name: str, dtype: str) -> None:
    """The objective of one row and one output, whose square root is exact, tells the output."""
    net = network((9, 6, 5, 1), hidden=name, output=name, dtype=dtype)
    X = inputs(200, net)
    outputs = net.predict(X)[:, 0]
    for row in range(0, 200, 40):
        for shift in (0.0, 0.5):  # the gradient with respect to the last bias is 2 (output - y) times a slope
            objective, _ = net.loss_and_gradient(X[row : row + 1], [[shift]])
            difference = outputs[row] - net.dtype.type(shift)
            assert objective == difference * difference


@compiled
@pytest.mark.parametrize("sizes", [(64, 128, 10), (300, 200, 100, 7), (1200, 1201, 9), (2000, 9, 3)], ids=str)
def test_bits_do_not_depend_on_threads(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share out columns of large layers for few rows, rows otherwise."""
    if num_threads() < 2:
        pytest.skip("one thread")
    forward_pass.forward_of.cache_clear()
    monkeypatch.setattr(forward_pass, "THREAD_FLOPS", 1)
    net = network(sizes, hidden="tanh")
    net.loss = "cross_entropy"
    for rows in (1, 2, 5, FEW_ROWS, FEW_ROWS + 1, FEW_ROWS_IN_PLACE, FEW_ROWS_IN_PLACE + 1, 5000):
        X = inputs(rows, net)
        with limit_threads(1):
            alone = net.predict(X), net.predict_proba(X), net.predictor()(X)
        for one, other in zip(alone, (net.predict(X), net.predict_proba(X), net.predictor()(X)), strict=True):
            assert (one == other).all()
    forward_pass.forward_of.cache_clear()


@compiled
def test_work_is_divided_into_calls_between_which_ctrl_c_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network((7, 11, 3))
    X, out = inputs(1000, net), np.full((1000, 3), np.nan, np.float32)
    expected = net.predict(X)
    monkeypatch.setattr(forward_pass, "CALL_FLOPS", 60_000)
    forward = forward_pass.Forward(net.layer_sizes, net.activations, net.dtype, False)
    assert forward(net.parameters, X, out, True)
    assert (out == expected).all()


@pytest.mark.parametrize("outputs", [2, 10, 50])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probabilities(loss: str, outputs: int, dtype: str) -> None:
    net = network((20, 30, outputs), dtype=dtype)
    net.loss = loss
    X, out = inputs(700, net), np.empty((700, outputs), dtype)
    logits = net.predict(X).astype(float)
    expected = losses.softmax(logits) if loss == "cross_entropy" else reference.sigmoid(logits)
    found = net.predict_proba(X)
    np.testing.assert_allclose(found, expected, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-30)
    assert net.predict_proba(X, out=out) is out
    assert (out == found).all()
    for rows in (1, 2, 3, 17, 64, 65, 241):
        assert (net.predict_proba(X[:rows]) == found[:rows]).all(), rows
    with pytest.raises(ValueError, match=r'build it with output="identity"'):
        network((20, 30, outputs), output="tanh").loss = loss


# --------------------------------------------------------------------------------- weights and snapshots


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_read_only_inputs_compile_nothing_more(dtype: str) -> None:
    """As pandas gives them, and memory maps are; few rows, and so many that W is packed first."""
    net = Network((300, 200, 3), dtype=dtype)
    for rows in (2, 5000):
        X = np.random.default_rng(0).standard_normal((rows, 300)).astype(dtype)
        expected = net.predict(X).tobytes()
        X.flags.writeable = False
        assert net.predict(X).tobytes() == expected
        assert net.predictor()(X).tobytes() == expected
        assert not X.flags.writeable
    types = [kind for signature in inference.run.signatures for kind in signature]
    assert {kind.mutable for kind in types if isinstance(kind, numba.types.Array)} == {True}


def test_weights_are_read_at_every_call() -> None:
    net = network((4, 6, 2))
    X = inputs(3, net)
    first, predictor = net.predict(X), net.predictor()
    net.weights[0][0, 0] += 1
    assert not (net.predict(X) == first).all()
    assert (predictor(X) == first).all(), "a snapshot stays as it was"
    net.biases[-1][:] = np.nan
    assert np.isnan(net.predict(X)).all()


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_snapshots_are_pickled_and_copied(sizes: tuple[int, ...]) -> None:
    net = network(sizes)
    predictor, X = net.predictor(), inputs(9, net)
    assert repr(predictor).startswith(f"Predictor({list(sizes)}, activations=['"), repr(predictor)
    assert repr(predictor).endswith("dtype='float32')")
    for other in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor), copy.copy(predictor)):
        assert repr(other) == repr(predictor)
        assert isinstance(other, Predictor)
        assert (other.layer_sizes, other.activations, other.dtype) == (net.layer_sizes, net.activations, net.dtype)
        assert (other(X) == predictor(X)).all()
    assert predictor.nbytes >= net.parameters.nbytes
    again = pickle.loads(pickle.dumps(net))  # whose dtype is equal to float32, and not the same object
    assert (again.predict(X) == net.predict(X)).all()


def test_changed_attributes_raise_and_never_crash() -> None:
    X = np.ones((3, 4), np.float32)
    for name, value in (("layer_sizes", (4, 600, 2)), ("layer_sizes", [4, 600, 2]), ("dtype", np.dtype("float64"))):
        net = network((4, 6, 2))
        with pytest.raises(AttributeError, match=f"{name} cannot be changed"):
            setattr(net, name, value)
        net.__dict__[name] = value
        with pytest.raises(ValueError, match="do not fit its layer sizes"):
            net.predict(X)
    net = network((4, 6, 2))
    with warnings.catch_warnings(action="ignore"):  # NumPy 2.5 deprecates both
        net.parameters.shape = (2, 22)
        assert (net.predict(X) == network((4, 6, 2)).predict(X)).all()
        net.parameters.dtype = np.dtype("float64")
    with pytest.raises(ValueError, match="parameters of float64"):
        net.predict(X)
    predictor = network((4, 6, 2)).predictor()
    predictor._values = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        predictor(X)


# ------------------------------------------------------------------------------------------------- out=


def test_out_receives_the_outputs() -> None:
    net = network((4, 6, 2))
    for predict in (net.predict, net.predictor()):
        X, out = inputs(300, net), np.full((300, 2), np.nan, np.float32)
        assert predict(X, out=out) is out
        assert (out == net.predict(X)).all()
        assert predict(X.tolist(), out) is out


def test_out_that_cannot_receive_them_is_refused() -> None:
    net = network((4, 6, 2))
    frozen = np.zeros((300, 2), np.float32)
    frozen.flags.writeable = False
    X = np.zeros((300, 4), np.float32)
    cases: list[tuple[type[Exception], str, Any]] = [
        (TypeError, "out is a list; expected an array of float32", [[0, 0]]),
        (TypeError, "out is an array of float64", np.zeros((300, 2))),
        (TypeError, "out is a MaskedArray", np.ma.zeros((300, 2), np.float32)),
        (ValueError, r"out has shape \(300,\); expected", np.zeros(300, np.float32)),
        (ValueError, r"out has shape \(299, 2\)", np.zeros((299, 2), np.float32)),
        (ValueError, "read-only or not contiguous", frozen),
        (ValueError, "read-only or not contiguous", np.zeros((300, 4), np.float32)[:, ::2]),
        (ValueError, "out shares memory", X.reshape(-1)[:600].reshape(300, 2)),
    ]
    for predict in (net.predict, net.predictor()):
        for error, message, out in cases:
            with pytest.raises(error, match=message):
                predict(X, out=out)
    wide = Network([1, 40, 1])
    with pytest.raises(ValueError, match="out shares memory with X or with the parameters"):
        wide.predict(np.zeros((20, 1), np.float32), out=wide.parameters[:20].reshape(20, 1))


@pytest.mark.parametrize("place", [0, 299])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_leave_out_alone(value: float, place: int) -> None:
    net = network((4, 6, 2))
    X, out = inputs(300, net), np.full((300, 2), 7, np.float32)
    X[place, 3] = value
    for predict in (net.predict, net.predictor()):
        for arguments in ((X, out), (X,)):
            with pytest.raises(ValueError, match=f"at row {place}, column 3"):
                predict(*arguments)
        assert (out == 7).all()


# --------------------------------------------------------------------------------- threads, forks, memory


def test_threads_share_one_network() -> None:
    """Each predicts its own rows, large and small, while all have the same network."""
    net, failures = network((30, 300, 5)), []
    X = inputs(1200, net)
    expected = net.predict(X)

    def work(i: int) -> None:
        for rows in (1, 3, 17, 300) * 10:
            part = slice(300 * i, 300 * i + rows)
            if not (net.predict(X[part]) == expected[part]).all():
                failures.append((i, rows))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_predicts() -> None:
    net = network((30, 300, 5))
    X = inputs(3000, net)
    expected, one = net.predict(X), net.predict(X[:1])
    child = os.fork()
    if child == 0:
        same = (net.predict(X) == expected).all() and (net.predict(X[:1]) == one).all()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@compiled
@pytest.mark.parametrize("rows", [1, 300])
def test_no_byte_is_left_behind(rows: int) -> None:
    net = network((30, 300, 5), hidden="tanh")
    net.loss = "cross_entropy"
    predictor, X = net.predictor(), inputs(rows, net)

    def peak(count: int) -> int:
        for _ in range(count // rows):
            net.predict(X)
            net.predict_proba(X)
            predictor(X)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = peak(1000)
    assert peak(30_000) - before <= 256, "KiB"  # 8 bytes a call would be 700


OUT_OF_MEMORY = """
import resource
import numpy as np
from fastnet import Network
from fastnet.kernels import matmul

def size():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

def check(call):
    call()
    before, failures = size(), 0
    for spare in range(0, 16 << 20, 1 << 18):
        resource.setrlimit(resource.RLIMIT_AS, (size() + spare, -1))
        try:
            call()
        except MemoryError:
            failures += 1
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    assert failures > 1 and size() - before < 1 << 20, (failures, size() - before)

net, X, out = Network([300, 1500, 20]), np.ones((400, 300), np.float32), np.empty((400, 20), np.float32)
A, C = np.ones((600, 600), np.float32), np.empty((1200, 1200), np.float32)
check(lambda: net.predict(X, out))
check(lambda: matmul(A, A, C[::2, ::2], "simd"))
"""


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, and reads its size")
def test_exhausted_memory_raises_and_leaves_nothing_behind() -> None:
    wide = np.zeros((4, 4), np.float32)
    network((3, 4, 2)).predict(wide[:, :3].copy(), wide[:, :2].copy())
    matmul(wide, wide, wide.repeat(2, 0).repeat(2, 1)[::2, ::2], "simd")  # now cached: compiling would free much memory
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, (run.returncode, run.stderr[-2000:])


# --------------------------------------------------------------------------------- compiled code and C


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_address_is_a_c_function(dtype: str) -> None:
    net = network((30, 300, 5), dtype=dtype)
    predictor, X = net.predictor(), inputs(500, net)
    pointer = np.ctypeslib.ndpointer(dtype, 2, flags="C_CONTIGUOUS")
    f = ctypes.CFUNCTYPE(ctypes.c_int64, pointer, ctypes.c_int64, pointer)(predictor.address)
    for rows in (1, 500):
        out = np.full((rows, 5), np.nan, dtype)
        assert f(X[:rows], rows, out) == rows
        assert (out == net.predict(X[:rows])).all()
    X[400, 2] = np.nan
    assert f(X, 500, out) == 0
    out[:] = 7
    assert f(X, 0, out) == 0
    assert (out == 7).all()
    assert predictor.address == predictor.address


@compiled
def test_address_is_called_from_compiled_loops() -> None:
    net = network((3, 8, 3))
    predictor = net.predictor()
    f = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(predictor.address)

    @numba.njit
    def simulate(state: Any, steps: int) -> Any:
        action = np.empty_like(state)
        for _ in range(steps):
            f(state.ctypes, len(state), action.ctypes)
            state += np.float32(0.01) * action
        return state

    start = inputs(2, net)
    expected = start.copy()
    for _ in range(50):
        expected += np.float32(0.01) * net.predict(expected)
    np.testing.assert_allclose(simulate(start.copy(), 50), expected, rtol=1e-4)


@pytest.mark.skipif(forward_pass.COMPILES, reason="compiled")
def test_no_address_without_compilation() -> None:
    with pytest.raises(RuntimeError, match="NUMBA_DISABLE_JIT"):
        _ = network((3, 2)).predictor().address
