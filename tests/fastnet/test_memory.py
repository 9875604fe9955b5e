"""What describes memory cannot be changed, and compiled code never reads or writes beyond the arrays that there are."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastnet import SGD, Adam, Network, RMSprop, Trainer, checks, fit_many, training_state
from fastnet.kernels.engine import engine
from fastnet.kernels.engine.bounds import check_network
from fastnet.kernels.engine.optimizer_state import OptimizerState
from fastnet.kernels.engine.synced import SyncedArray
from fastnet.kernels.specs.optimizers import OPTIMIZERS
from fastnet.optimizers import Optimizer

X, Y = np.ones((20, 400), "float32"), np.ones((20, 200), "float32")


def trainer(**options: Any) -> Trainer:
    return Trainer(Network([400, 300, 200]), optimizer=Adam(), **options)


@pytest.mark.parametrize("name", ["layer_sizes", "activations", "dtype", "seed", "parameters", "weights", "biases"])
def test_what_describes_a_network_is_read_only(name: str) -> None:
    net = Network([4, 3, 2])
    before = getattr(net, name)
    with pytest.raises(AttributeError):
        setattr(net, name, (4000, 3000, 2000))
    assert repr(getattr(net, name)) == repr(before)


def test_epochs_of_a_history_are_read_only() -> None:
    with pytest.raises(AttributeError):
        Trainer(Network([4, 2])).history.epochs = -5  # type: ignore[misc]


def test_loss_of_a_network_is_checked() -> None:
    net = Network([4, 3, 2])
    with pytest.raises(ValueError, match="unknown loss 'mean'"):
        net.loss = "mean"
    net.loss = "cross_entropy"
    net.loss = None


def assign(attribute: str, value: Any) -> Callable[[Trainer], None]:
    return lambda ours: setattr(ours._state, attribute, value)


def in_dict(name: str, value: Any) -> Callable[[Trainer], None]:
    return lambda ours: ours.network.__dict__.__setitem__(name, value)


DAMAGE: dict[str, Callable[[Trainer], None]] = {
    "layer sizes": in_dict("layer_sizes", (4000, 3000, 2000)),
    "dtype": in_dict("dtype", np.dtype("float64")),
    "activations": in_dict("activations", ("relu",)),
    "fewer parameters": in_dict("_synced", SyncedArray(np.zeros(3, "float32"))),
    "parameters of integers": in_dict("_synced", SyncedArray(np.zeros(180_500, "int32"))),
    "wider parameters": in_dict("_synced", SyncedArray(np.zeros(180_500, "float64"))),
    "strided parameters": in_dict("_synced", SyncedArray(np.zeros(2 * 180_500, "float32")[::2])),
    "another network's parameters": lambda ours: ours.network.__dict__.update(Network([4000, 300, 200]).__dict__),
    "another network": lambda ours: ours.__dict__.update(network=Network([4000, 300, 200])),
    "fewer state vectors": assign("synced", SyncedArray(np.zeros((1, 180_500), "float32"))),
    "shorter state vectors": assign("synced", SyncedArray(np.zeros((2, 2), "float32"))),
    "wider state vectors": assign("synced", SyncedArray(np.zeros((2, 180_500), "float64"))),
    "hyper": assign("hyper", np.zeros(1)),
    "narrow hyper": assign("hyper", np.zeros(8, "float32")),
    "progress": assign("progress", np.zeros((), [("epoch", "i1"), ("rows", "i1"), ("row", "i1"), ("step", "i1")])),
    "totals": assign("totals", np.zeros(1)),
}


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_fit_refuses_arrays_that_do_not_fit(damage: str, backend: str) -> None:
    ours = trainer(backend=backend)
    if (damage, backend) == ("dtype", "numpy"):
        pytest.skip("NumPy promotes")
    DAMAGE[damage](ours)
    n, k = ours.network.layer_sizes[0], ours.network.layer_sizes[-1]
    with pytest.raises((ValueError, KeyError)):
        ours.fit(np.ones((20, n)), np.ones((20, k)), 1)


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGE if "parameters" in name or name in ("layer sizes", "dtype")]
)
def test_gradient_and_predictions_refuse_arrays_that_do_not_fit(damage: str) -> None:
    net = Network([400, 300, 200])
    ours = Trainer(net)
    DAMAGE[damage](ours)
    n, k = net.layer_sizes[0], net.layer_sizes[-1]
    if damage not in ("another network's parameters", "wider parameters"):
        with pytest.raises(ValueError, match=r"expected|do not fit"):
            net.loss_and_gradient(np.ones((2, n)), np.ones((2, k)))
        with pytest.raises(ValueError, match=r"expected|do not fit|layer sizes"):
            net.predict(np.ones((2, n)))


def test_pickles_that_contradict_themselves_are_refused() -> None:
    state = Network([4, 3, 2]).__getstate__()
    for name, value in (("layer_sizes", (4000, 3000, 2000)), ("_synced", np.zeros(3, "float32"))):
        with pytest.raises(ValueError, match="a pickle holds"):
            Network.__new__(Network).__setstate__({**state, name: value})
    net = Network([4, 3, 2])
    for twin in (copy.deepcopy(net), copy.copy(net), pickle.loads(pickle.dumps(net))):
        assert twin.parameters.tobytes() == net.parameters.tobytes()
        assert not np.may_share_memory(twin.parameters, net.parameters)


def test_memory_in_use_cannot_be_resized() -> None:
    """A callback that frees what compiled code reads: NumPy refuses, even without its count of references."""
    ours, mine = trainer(batch_size=5), X.copy()

    def resize(row: dict[str, float]) -> None:
        for array in (mine, ours.network.parameters.base):
            with pytest.raises(ValueError, match="cannot resize"):
                array.resize((1, 1), refcheck=False)

    ours.fit(mine, Y, 2, callbacks=[resize])
    mine.resize((1, 400), refcheck=False)


def test_callbacks_may_reshape_their_own_arrays() -> None:
    mine = X.copy()
    first, second = (trainer(batch_size=5, shuffle=False) for _ in "ab")

    def reshape(row: dict[str, float]) -> None:
        with warnings.catch_warnings(action="ignore"):  # newer versions of NumPy deprecate it
            mine.shape = (800, 10)

    first.fit(mine, Y, 3, callbacks=[reshape])
    second.fit(X, Y, 3)
    assert first.network.parameters.tobytes() == second.network.parameters.tobytes()


@pytest.mark.compiled
@pytest.mark.parametrize("value", [-1, 3])
def test_a_replaced_shuffle_does_not_change_the_size_of_the_workspace(value: int) -> None:
    layers: Any = np.zeros(4 * 3 + 3, "float32"), (4, 3), (0,)
    as_true, as_value = (engine.CpuEngine(*layers, uses_order=given) for given in (True, value))
    assert as_value.nbytes == as_true.nbytes
    ours, twin = trainer(batch_size=5), trainer(batch_size=5)
    ours.__dict__["shuffle"] = value
    ours.fit(X, Y, 1)
    twin.fit(X, Y, 1)
    assert ours.network.parameters.tobytes() == twin.network.parameters.tobytes()


def test_state_vectors_are_those_that_were_checked() -> None:
    state = trainer()._state
    with pytest.raises(AttributeError):
        state.vectors = np.zeros((1, 1), "float32")  # type: ignore[misc]
    for twin in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert twin.vectors is twin.state


@pytest.mark.compiled
def test_engine_checks_the_data_of_every_call() -> None:
    parameters = np.ones(4 * 3 + 3, "float32")
    ours = engine.CpuEngine(parameters, (4, 3), (0,), batch_rows=10)
    x, y = np.ones((10, 4), "float32"), np.ones((10, 3), "float32")
    ours.loss_and_gradient(x, y)
    order = np.arange(10)
    for arguments in (
        (x[:, :3].copy(), y),
        (x, y[:9]),
        (x, y[:, :2].copy()),
        (x.astype("float64"), y),
        (x, y.astype("float64")),
        (np.ones((20, 4), "float32")[::2], y),
        (x, y, np.ones(9)),
        (x, y, np.ones(10, "float32")),
        (x, y, None, order),  # of an engine that has no memory for gathered rows
        (x, y, None, None, None, 5),
        (x, y, None, None, None, 0, 5),
    ):
        with pytest.raises(ValueError, match="expected"):
            ours.train(*arguments)  # type: ignore[arg-type]
    sorted_engine = engine.CpuEngine(parameters, (4, 3), (0,), batch_rows=10, uses_order=True)
    for wrong in (order[:9], order.astype("int32"), np.arange(20)):
        with pytest.raises(ValueError, match="expected"):
            sorted_engine.train(x, y, None, wrong)


# ------------------------------------------------------------------------------------ optimizers


@dataclass(frozen=True)
class Misspelt(Optimizer):
    """Adam, but for its hyperparameters' names."""

    rule = "adam"
    beta_one: float = 0.9


@dataclass(frozen=True)
class Own(SGD):
    """An optimizer that fastnet does not know."""


def test_misspelt_hyperparameters_are_named() -> None:
    with pytest.raises(TypeError, match="Misspelt has no field beta1, beta2, epsilon; its update rule 'adam' takes"):
        Misspelt(0.1)


def test_third_state_vector_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnet.kernels.engine import bounds

    code = OPTIMIZERS["adam"].code
    monkeypatch.setitem(bounds._VECTORS, code, 3)
    with pytest.raises(ValueError, match="has 3 state vectors; compiled steps hold 2"):
        check_network(np.zeros(5), (4, 1), (0,), OptimizerState(code, np.zeros((3, 5))))


def test_checkpoint_of_an_own_optimizer_is_refused_before_training(tmp_path: Any) -> None:
    ours = Trainer(Network([400, 200]), optimizer=Own(0.1))
    before = ours.network.parameters.copy()
    with pytest.raises(TypeError, match="Own is a class of your own"):
        ours.fit(X, Y, 1, checkpoint=tmp_path / "run.safetensors")
    assert (ours.network.parameters == before).all()
    ours.fit(X, Y, 1)


# ------------------------------------------------------------------------------------ several trainers


def test_two_trainers_of_one_network_do_not_train_at_once() -> None:
    net = Network([400, 200])
    one, other = Trainer(net), Trainer(net)
    said: list[str] = []

    def fit(row: dict[str, float]) -> None:
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()

    def attempt() -> None:
        with pytest.raises(RuntimeError, match="another Trainer is training this network") as error:
            other.fit(X, Y, 1)
        said.append(str(error.value))
        Trainer(copy.deepcopy(net)).fit(X, Y, 1)

    one.fit(X, Y, 1, callbacks=[fit])
    assert len(said) == 1
    assert other.fit(X, Y, 1).epochs == 1


FORKED = """
import faulthandler, os, threading
import numpy as np
from fastnet import Network, Trainer

X, Y = np.ones((20, 4)), np.ones((20, 2))
here, go, check = threading.Event(), threading.Event(), Trainer._check_ready

def slow(*arguments):
    if threading.current_thread() is not threading.main_thread():
        here.set()
        go.wait()
    check(*arguments)

Trainer._check_ready = slow
thread = threading.Thread(target=Trainer(Network([4, 2]), backend="numpy").fit, args=(X, Y, 1))
thread.start()
here.wait()
if not (child := os.fork()):
    faulthandler.dump_traceback_later(60, exit=True)
    Trainer(Network([4, 2]), backend="numpy").fit(X, Y, 1)
    os._exit(0)
go.set()
thread.join()
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_trains_whatever_another_thread_was_at() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------ lack of memory

SHORT_OF_MEMORY = """
import resource
import numpy as np
from fastnet import Adam, Network, Trainer
from fastnet.kernels.engine import engine

engine.THREAD_FLOPS = engine.SURE_FLOPS = 0
rng = np.random.default_rng(0)
rows = 1024 + {short}
X, y = rng.random((rows, 784), dtype="f4"), rng.random((rows, 10), dtype="f4")
limits = {limits}
parameters = []
for limited in limits:
    trainer = Trainer(Network([784, 800, 10]), optimizer=Adam(), batch_size={batch}, shuffle=False)
    def limit(row):
        if limited:
            import gc; gc.collect()
            size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    try:
        trainer.fit(X, y, 3, callbacks=[limit])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    parameters.append(trainer.network.parameters.tobytes())
assert parameters[0] == parameters[1]
"""


def test_training_that_takes_more_than_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its arrays are allocated, by whichever call would do that; the network itself fits."""
    net = Network([400, 300, 200])
    monkeypatch.setattr(checks, "SURELY_FITS", 0)

    def limit(networks: float) -> None:
        monkeypatch.setattr(checks, "memory_total", lambda: networks * net.parameters.nbytes)

    limit(2.9)
    with monkeypatch.context() as patched:
        patched.setattr(training_state, "aligned_zeros", lambda *shape: pytest.fail("the state is allocated"))
        with pytest.raises(MemoryError, match=r"^training a network of the sizes \[400, 300, 200\] takes 0.0 GiB \("):
            Trainer(net, optimizer=Adam())
    for optimizer, backend, networks in (
        (Adam(), "cpu", 11),
        (SGD(), "cpu", 5),
        (SGD(momentum=0.9), "cpu", 8),
        (Adam(), "numpy", 10),
    ):
        limit(networks)
        ours = Trainer(net, optimizer=optimizer, backend=backend)
        ours.fit(X, Y, 1)
        limit(networks - 0.1)
        with monkeypatch.context() as patched:
            patched.setattr("fastnet.trainer.FitSession", lambda *session: pytest.fail("the gradient is allocated"))
            with pytest.raises(MemoryError, match=r"gradient 0\.0 GiB"):
                ours.fit(X, Y, 1)
            with pytest.raises(MemoryError, match=r"gradient 0\.0 GiB"):
                fit_many([ours], X, Y, 1)
        ours.evaluate(X, Y)
    limit(3)
    training_state.check_memory(net, Adam(), "cuda")  # where the rest is in the GPU's memory


def test_the_bytes_of_each_part_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    large: Any = SimpleNamespace(layer_sizes=(1023, 1 << 20), dtype=np.dtype("float32"))
    monkeypatch.setattr(checks, "memory_total", lambda: 2.0**34)
    with pytest.raises(MemoryError) as caught:
        training_state.check_memory(large, RMSprop(), "cpu")
    assert str(caught.value) == (
        "training a network of the sizes [1023, 1048576] takes 32.0 GiB (parameters 4.0 GiB, the state of RMSprop 4.0 "
        "GiB, gradient 4.0 GiB, packed weights 4.0 GiB, two copies to find the best epoch 16.0 GiB); expected at most "
        "16.0 GiB, the memory that this process may use: choose smaller layers, or SGD without momentum, which has no "
        "state"
    )
    with pytest.raises(MemoryError, match=r"may use: choose smaller layers$"):
        training_state.check_memory(large, SGD(), "cpu")


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
@pytest.mark.parametrize(("short", "batch"), [(0, 1024), (257, None), (608, 1024)])
def test_training_steps_allocate_nothing(short: int, batch: int | None) -> None:
    """So that no lack of memory can leave a step half applied: with no address space left, the bits are the same."""
    code = SHORT_OF_MEMORY.format(short=short, batch=batch, limits=[False, True])
    # Without a threshold malloc would serve from what it has kept.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
