"""Ctrl-C in the middle of training: whole steps are kept, and the next call goes on from them."""

from typing import Any

import pytest
from backends import OPTIMIZERS, X, Y, trainer

from fastnet.kernels.engine import engine as engine_module
from fastnet.kernels.engine import numpy_engine, training_step, tuner


@pytest.mark.sampled(3)
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("calls", [1, 4, 7, 10])
def test_interruption_leaves_whole_steps(
    calls: int, optimizer: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after any call of the compiled loop: what ends later is what a straight run ends at, to the bit."""
    straight, ours = (trainer(optimizer=optimizer, batch_size=16, backend=backend) for _ in range(2))
    straight.fit(X, Y, epochs=5)
    module: Any = numpy_engine if backend == "numpy" else training_step
    name, left = "_count" if backend == "numpy" else "run", [calls]
    run = getattr(module, name)

    def interrupted(*arguments: Any) -> None:
        run(*arguments)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuner, "CALL_S", 1e-9)  # one step a call
        patch.setattr(engine_module, "_FIRST_CALL_FLOPS", 1)
        patch.setattr(module, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            ours.fit(X, Y, epochs=5)
    assert ours.history.epochs < 5
    assert ours.history["loss"] == straight.history["loss"][: ours.history.epochs] if ours.history else True
    ours.fit(X, Y, epochs=5 - ours.history.epochs)
    assert ours.network.parameters.tobytes() == straight.network.parameters.tobytes()
    assert ours.history == straight.history
