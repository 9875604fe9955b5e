"""The breakdown of a training step: its parts make the step, and a missing one is noticed."""

from itertools import pairwise
from typing import Any

import pytest

from fastnet.kernels.engine import step_breakdown as parts
from fastnet.kernels.verify import WrongKernelError
from fastnet.profiling import step_breakdown as stepprofile


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("sizes", "batch", "loss", "optimizer"),
    [
        ((37, 50, 33, 5), 45, "mse", "sgd"),
        ((20, 70, 10), 300, "cross_entropy", "adam"),
        ((5, 3), 1, "binary_cross_entropy", "adam"),
    ],
)
def test_step_breakdown_parts_reproduce_the_step(sizes: tuple[int, ...], batch: int, loss: str, optimizer: str) -> None:
    found = stepprofile.profile_step(sizes, batch, "float32", loss, optimizer, seconds=0.01)
    layers = len(sizes) - 1
    forward = [f"forward {i + 1}" for i in range(layers)]
    backward = [f"backward {i}" for i in range(layers, 1, -1)]
    assert [part.name for part in found.parts] == [
        *forward,
        "loss",
        *backward,
        *[f"weights {i + 1}" for i in range(layers)],
    ]
    products = sum(n * k for n, k in pairwise(sizes))
    assert sum(part.flops for part in found.parts) == 2 * batch * (3 * products - sizes[0] * sizes[1])
    assert found.remainder == pytest.approx(found.step.median - sum(part.seconds.median for part in found.parts))


@pytest.mark.compiled
@pytest.mark.parametrize("lost", [parts.FORWARD, parts.LOSS, parts.BACKWARD, "weights"])
def test_step_breakdown_notices_a_missing_part(lost: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    def repeat(dtype: Any, context: int, part: int, *arguments: Any) -> None:
        if part != lost:
            repeat_rows(dtype, context, part, *arguments)

    repeat_rows = parts.repeat_rows
    monkeypatch.setattr(parts, "repeat_rows", repeat)
    if lost == "weights":
        monkeypatch.setattr(parts, "repeat_weights", lambda *arguments: None)
    monkeypatch.setattr(stepprofile, "interleave", lambda *arguments: pytest.fail("timed"))
    with pytest.raises(WrongKernelError, match=r"a step's parts do not make the step: \d+ of \d+ parameters differ"):
        stepprofile.profile_step((20, 33, 10), 16)


def test_step_breakdown_rejects_batches_beyond_a_micro_batch() -> None:
    with pytest.raises(ValueError, match="the batch size is 1025; a step is profiled on 1 to 1024 rows"):
        stepprofile.profile_step((20, 10), 1025)
