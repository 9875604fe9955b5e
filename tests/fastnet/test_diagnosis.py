"""The diagnosis: curves made to show each verdict, with noise that must not flip it."""

import math
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest

from fastnet import SGD, CosineDecay, History, Network, Trainer, dataset, diagnosis
from fastnet.cli.fitting import Member
from fastnet.dataset import Dataset, constant_loss
from fastnet.diagnosis import diagnose

NAN, INF = math.nan, math.inf
Curve = list[float]


def decay(epochs: int, height: float, floor: float, time: float) -> Curve:
    return [floor + height * math.exp(-t / time) for t in range(epochs)]


def rising(curve: Curve, since: int, slope: float) -> Curve:
    return [value + slope * max(0, t - since) for t, value in enumerate(curve)]


CASES = [
    # kind, loss, val_loss
    ("falling", decay(60, 1, 0, 60), []),
    ("falling", decay(60, 1, 0.05, 50), decay(60, 1.1, 0.1, 50)),
    ("falling", [(t + 1) ** -0.5 for t in range(100)], []),
    ("falling", decay(10, 1, 0, 8), decay(10, 1, 0.05, 8)),
    ("falling", decay(10, 1, 0, 8), []),
    ("too short", [2.307, 1.942, 1.761, 1.661, 1.599], [2.251, 1.981, 1.831, 1.76, 1.714]),  # "converged" to 5's rules
    ("converged", decay(100, 1, 0.2, 8), []),
    ("converged", decay(60, 1, 0.2, 5), decay(60, 1, 0.3, 5)),
    ("converged", decay(400, 3, 0.2, 20), decay(400, 3, 0.25, 20)),
    ("converged", decay(20, 1, 0.2, 1.5), []),
    ("overfitting", decay(100, 1, 0.01, 15), rising(decay(100, 1, 0.3, 8), 25, 0.004)),
    ("overfitting", decay(40, 1, 0.05, 10), rising(decay(40, 1, 0.3, 5), 12, 0.01)),
    ("overfitting", decay(300, 1, 0.01, 60), rising(decay(300, 1, 0.3, 20), 80, 0.002)),
    ("overfitting", decay(782, 1, 0.01, 15), [0.15 - 0.04 * math.exp(-((t - 7) ** 2) / 30) for t in range(782)]),
    ("underfitting", [0.7] * 50, [0.71] * 50),
    ("underfitting", decay(50, 0.03, 0.69, 4), decay(50, 0.03, 0.69, 4)),
    ("underfitting", [2.3] * 20, []),
    ("diverged", [1.1**t for t in range(40)], []),
    ("diverged", [1.3**t for t in range(12)], [1.5**t for t in range(12)]),
]


@pytest.mark.parametrize(("kind", "loss", "validation"), CASES)
@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_diagnosis_of_typical_curves(kind: str, loss: Curve, validation: Curve, scale: float) -> None:
    found = diagnose([scale * value for value in loss], [scale * value for value in validation])
    assert found.kind == kind
    assert "\n" not in found.words
    assert found.words.endswith(".")


@pytest.mark.parametrize(("kind", "loss", "validation"), CASES)
def test_diagnosis_is_robust_to_noise(kind: str, loss: Curve, validation: Curve) -> None:
    for seed in range(100):
        noise = random.Random(seed)
        for size in (0.003, 0.01, 0.02):
            noisy = [[value * (1 + size * noise.gauss(0, 1)) for value in curve] for curve in (loss, validation)]
            found = diagnose(*noisy)
            assert found.kind == kind, (seed, size, found)


def test_diagnosis_is_robust_to_a_spike() -> None:
    loss, validation = decay(60, 1, 0.2, 5), decay(60, 1, 0.3, 5)
    for at in (20, 45, 59):
        spiked = [*validation]
        spiked[at] *= 3
        assert diagnose(loss, spiked).kind == "converged"


def test_diagnosis_of_pure_noise() -> None:
    for kind in ("overfitting", "falling"):
        found = 0
        for seed in range(300):
            noise = random.Random(seed)
            flat = [[1 + 0.1 * noise.gauss(0, 1) for _ in range(50)] for _ in range(2)]
            found += diagnose(*flat, baseline=5.0).kind == kind
        assert found <= 3, kind


def test_diagnosis_reports_epoch_and_amount() -> None:
    loss, validation = decay(100, 1, 0.01, 15), rising([0.5] * 100, 40, 0.01)
    validation[:40] = [0.5 + 0.02 * (40 - t) for t in range(40)]
    words = diagnose(loss, validation).words
    assert 38 <= int(words.removeprefix("Overfitting since epoch ").split(":")[0]) <= 42
    assert "patience" in words
    assert "l2, dropout" in words
    # From 0.5 to 1.09; medians over ten epochs, at the end and at the lowest, make it 0.54 to 1.05.
    assert 90 < float(words.split("risen by ")[1].split("%")[0]) < 112
    assert "since epoch 31" in diagnose([1 - 0.02 * t if t < 30 else 0.4 for t in range(90)], []).words


def test_diagnosis_of_losses_rising_together_is_not_overfitting() -> None:
    assert diagnose(rising([1.0] * 60, 20, 0.01), rising([1.2] * 60, 20, 0.01)).kind != "overfitting"


@pytest.mark.parametrize(
    ("loss", "validation", "words"),
    [
        ([], [], "No epoch has been trained yet"),
        ([1.0, 0.5], [], "Only 2 epochs: too few to judge by. Train for at least 10"),
        ([1.0, INF], [], "Diverged in epoch 2: the loss is no longer finite. Lower the learning rate"),
        ([NAN], [NAN], "Diverged in epoch 1"),
        ([1.0, 0.9], [1.0, NAN], "Diverged in epoch 2"),
        ([1.0, 0.9], [1.0, INF], "Diverged in epoch 2"),
        ([1.0, INF, 0.9, 0.8, 0.7], [], "Only 3 epochs"),
        ([1.0], [], "Only 1 epoch: too few"),
        ([0.0] * 10, [], "Underfitting: loss has levelled off at 0, not below"),
    ],
)
def test_diagnosis_of_unusual_curves(loss: Curve, validation: Curve, words: str) -> None:
    assert diagnose(loss, validation).words.startswith(words)


def test_diagnosis_ignores_gaps() -> None:
    loss = decay(60, 1, 0.2, 5)
    gaps = [value if t % 3 == 2 else NAN for t, value in enumerate(rising(decay(60, 1, 0.3, 5), 15, 0.01))]
    assert diagnose(loss, gaps).kind == "overfitting"
    assert diagnose(loss, [*gaps[:50], *[NAN] * 10]).kind == "converged", "validation stopped: the loss tells"


def test_an_epoch_without_validation_has_not_diverged(tmp_path: Path) -> None:
    """Where an earlier fit had validation, val_loss is NaN from then on."""
    path = tmp_path / "run.safetensors"
    X = np.linspace(-1, 1, 64)[:, None]
    trainer = Trainer(Network([1, 1]), optimizer=SGD(0.1), backend="numpy")
    trainer.fit(X, 2 * X, 12, validation_split=0.2)
    trainer.fit(X, 2 * X, 1, checkpoint=path)
    for history in (trainer.history, pickle.loads(pickle.dumps(trainer.history)), Trainer.resume(path).history):
        assert math.isnan(history["val_loss"][-1])
        assert "Diverged" not in history.diagnosis(), history.diagnosis()
    broken = History()
    broken.append({"loss": 1, "val_loss": 1})
    broken.append({"loss": 0.9, "val_loss": math.nan})
    assert broken.diagnosis().startswith("Diverged in epoch 2")
    broken.truncate(1)
    assert broken.diagnosis().startswith("Only 1 epoch")


def test_diagnosis_with_a_baseline_is_not_underfitting() -> None:
    loss = [0.30, *[0.29] * 20]
    assert diagnose(loss, []).kind == "underfitting"
    assert diagnose(loss, [], baseline=1.0).kind == "converged"
    found = diagnose([5, 2, *[0.97] * 20], [], baseline=1.0)
    assert found.words.startswith("Underfitting: loss has levelled off at 0.97, 3% below that of always predicting")


def test_diagnosis_does_not_advise_what_was_done() -> None:
    """To stop at the best epoch, where its parameters are kept."""
    loss, validation = decay(100, 1, 0.01, 15), rising(decay(100, 1, 0.3, 8), 25, 0.004)
    advice = "use more data, l2, dropout or a smaller network."
    assert diagnose(loss, validation).words.endswith(f"has not. Stop there (patience does), or {advice}")
    assert diagnose(loss, validation, kept="It is kept").words.endswith(f"has not. It is kept; to do better, {advice}")
    member = Member(Trainer(Network([1, 1])), (), (), baseline=None)
    for row in zip(loss, validation, strict=True):
        member.trainer.history.append(dict(zip(("loss", "val_loss"), row, strict=True)))
    assert member.diagnosis().endswith(f"has not. The best epoch is kept; to do better, {advice}")
    member.refitted = member.trainer
    said = "A new network was trained on all rows, for that long"
    assert member.diagnosis().endswith(f"has not. {said}; to do better, {advice}")
    assert "Stop there" in member.trainer.history.diagnosis()


def test_a_fit_with_patience_has_kept_the_best() -> None:
    random = np.random.default_rng(0)
    X, y = random.standard_normal((60, 20)), random.standard_normal((60, 1))
    for patience, said in ((200, "The network holds the best parameters of the last fit; to do"), (None, "Stop there")):
        trainer = Trainer(Network([20, 50, 1]), optimizer=SGD(0.02), backend="numpy")
        history = trainer.fit(X, y, 100, validation_split=0.5, patience=patience)
        assert f"while loss has not. {said}" in history.diagnosis(), history.diagnosis()


def test_diagnosis_of_no_more_than_a_constant_is_not_converged() -> None:
    """A wild first epoch is far above any loss that a network should be praised for."""
    loss = [3e15, 5e12, *[2e10] * 30]
    assert diagnose(loss, []).kind == "converged"
    for known, where in ((1.0, "not below"), (2e10, "not below"), (2.03e10, "1% below")):
        found = diagnose(loss, [], constant_loss=known)
        said = f"Underfitting: loss has levelled off at 2e+10, {where} that of always predicting the same"
        assert found.words.startswith(f"{said} ({known:.3g}). Use"), found
    assert diagnose(loss, [], constant_loss=2.1e10).kind == "converged"
    assert diagnose([9.0, *[1e-10] * 30], [], constant_loss=0.0).kind == "converged", "nothing is below 0"
    assert diagnose(loss, [1e10] * 32, constant_loss=1.5e10).kind == "converged"
    assert diagnose([1.0] * 20, [], constant_loss=9.0).kind == "underfitting", "its first epoch tells"
    assert diagnose([9.0, *[0.5] * 20], [], 0.6, constant_loss=0.1).kind == "converged", "the baseline given counts"


@pytest.mark.parametrize(
    ("loss", "outputs"), [("mse", 2), ("mae", 1), ("cross_entropy", 3), ("binary_cross_entropy", 2)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_knows_the_loss_of_always_predicting_the_same(loss: str, outputs: int, weighted: bool) -> None:
    random = np.random.default_rng(0)
    X, y = random.standard_normal((600, 1)), random.standard_normal((600, outputs))
    y = (y > 0.5).astype(float) if loss == "binary_cross_entropy" else y
    y = random.choice(3, 600, p=[0.6, 0.3, 0.1]) if loss == "cross_entropy" else y
    weights = random.uniform(0.5, 1.5, 600) if weighted and loss != "mae" else None
    rate = 0.2 if loss.startswith("m") else 1.0
    trainer = Trainer(Network([1, outputs], dtype="float64"), loss, SGD(rate), None, backend="numpy")
    trainer.network.biases[0][0] = 5
    history = trainer.fit(X, y, 200, sample_weight=weights)
    assert "below that of always predicting the same" in history.diagnosis(), history.diagnosis()
    assert "always" in pickle.loads(pickle.dumps(history)).diagnosis()
    rows = np.arange(0, 600, 2)
    chosen = Dataset(trainer.network, loss, X, y, weights).select(rows)
    flat = Trainer(Network([1, outputs], dtype="float64"), loss, SGD(rate), None, backend="numpy")
    zeros, of_rows = np.zeros((300, 1)), None if weights is None else weights[rows]
    best = min(flat.fit(zeros, y[rows], 500, sample_weight=of_rows)["loss"])
    assert chosen.constant_loss() == pytest.approx(best, rel=1e-2 if loss == "mae" else 1e-6)


def test_losses_of_constants_are_of_some_rows_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    net, y = Network([1, 2]), np.arange(20.0).reshape(10, 2)
    data = Dataset(net, "mse", np.ones((10, 1)), y, np.arange(10.0))
    whole = constant_loss("mse", y, np.arange(10.0))
    assert data.constant_loss() == whole
    monkeypatch.setattr(dataset, "_MOST_TARGETS", 10)
    assert data.constant_loss() == constant_loss("mse", y[::2], np.arange(10.0)[::2]) != whole
    assert constant_loss("huber", y) is None
    assert constant_loss("mae", y, np.ones(10)) is None
    assert constant_loss("cross_entropy", np.full((4, 2), 0.5)) is None, "their own entropy is all that is left"
    assert constant_loss("cross_entropy", np.eye(2)) == pytest.approx(np.log(2))
    assert constant_loss("mse", y, np.zeros(10)) is None


def test_diagnosis_with_dropout_heeds_the_whole_networks_loss() -> None:
    """The loss is the thinned network's; its distance from the baseline says little."""
    loss, validation = [1.2, *[0.97] * 30], [1.1, *[0.5] * 30]
    assert diagnose(loss, validation, baseline=1.0).kind == "converged"
    found = diagnose(loss, [1.1, *[0.95] * 30], baseline=1.0)
    assert found.words.startswith("Underfitting: val_loss has levelled off at 0.95, 5% below that of always")
    words = diagnose(loss, [1.1, *[1.0] * 30], baseline=1.0).words
    assert words.startswith("Underfitting: loss has levelled off at 0.97")


def test_diagnosis_exists_for_any_curve() -> None:
    noise = random.Random(0)
    for _ in range(2000):
        values = [0.0, 1.0, -1.0, 1e300, 1e-300, NAN, INF, -INF, noise.random()]
        loss, validation = ([noise.choice(values) for _ in range(noise.randrange(12))] for _ in range(2))
        assert diagnose(loss, validation[: len(loss)]).words


COSINE = [(1 + math.cos(math.pi * t / 30)) / 2 for t in range(31)]


def test_diagnosis_heeds_the_schedule() -> None:
    """A curve that stands still once the learning rate has fallen says nothing about more epochs."""
    late, early = [max(0.2, 1 - 0.04 * t) for t in range(30)], decay(30, 1, 0.2, 1.5)
    slow = "since epoch 21, but by then the schedule had lowered the learning rate to 25% of its highest (0% at"
    words = diagnose(late, [], rates=COSINE).words
    assert slow in words
    assert words.endswith("training anew, with a schedule over more epochs, may still help.")
    for curve, rates in ((late, []), (early, COSINE), (early, [0.0, *[1.0] * 30])):
        assert diagnose(curve, [], rates=rates).words.endswith("More epochs will hardly help.")
    falling = decay(30, 1, 0, 30)
    assert diagnose(falling, [], rates=COSINE[:21]).words.endswith("Train longer."), "the schedule goes on"
    words = diagnose(falling, [], rates=COSINE).words
    assert words.endswith("Train anew for longer: the schedule has lowered the learning rate to 0% of its highest.")
    levelled = "levelled off at 0.2, not below that of always predicting the same (0.1). But by then the schedule had"
    assert levelled in diagnose(late, [], 0.1, rates=COSINE).words
    assert "schedule" not in diagnose(early, [], 0.1, rates=COSINE).words


def test_history_knows_its_schedule() -> None:
    X, y = np.random.default_rng(0).standard_normal((64, 2)), np.zeros(64, int)
    y[X[:, 0] > 0] = 1
    for rate in (CosineDecay(0.3, 30), 0.3):
        trainer = Trainer(Network([2, 4, 2]), "cross_entropy", SGD(rate), backend="numpy")
        history = trainer.fit(X, y, 30, progress=False)
        for copy in (history, pickle.loads(pickle.dumps(history))):
            assert ("the schedule" in copy.diagnosis()) == isinstance(rate, CosineDecay), copy.diagnosis()


def test_history_diagnose() -> None:
    history = History()
    for value in decay(100, 1, 0.2, 8):
        history.append({"loss": value})
    assert history.diagnosis().startswith("Converged: loss has stayed near 0.2 since epoch ")
    assert History().diagnosis() == "No epoch has been trained yet."
    assert [name for name in dir(History) if name.startswith("diagnos")] == ["diagnosis"]


def test_diagnosis_of_the_command_line_says_nothing_of_the_data() -> None:
    trainer = Trainer(Network([1, 1]))
    for value in decay(100, 1, 0.2, 8):
        trainer.history.append({"loss": value})
    trainer.history.set_remarks("", "Column 1 is unscaled.")
    assert trainer.history.diagnosis().endswith("Column 1 is unscaled.")
    said = Member(trainer, (), (), baseline=0.2).diagnosis()
    assert said.startswith("Underfitting: loss has levelled off at 0.2, ")
    assert "unscaled" not in said
    assert trainer.history.diagnosis().endswith("Column 1 is unscaled."), "the history is as it was"


def test_diagnosis_of_a_fast_start_is_not_converged() -> None:
    """Fifteen epochs of a fall that the median over the first twenty hides."""
    noise = np.random.default_rng(0).normal(0, 1e-4, 200)
    curve = 0.0068 + 0.3 * np.exp(-np.arange(200) / 3) + noise
    found = diagnose((curve + 0.001).tolist(), curve.tolist())
    assert found.kind == "converged"
    since = re.search(r"since epoch (\d+)", found.words)
    assert since
    assert 8 <= int(since[1]) <= 25


def test_diagnosis_of_long_runs_uses_narrow_medians() -> None:
    """A tenth of 28 000 epochs at each of them took 8 s, after Ctrl-C too."""
    curve = (1 / np.arange(1, 30_001)).tolist()
    assert diagnosis._Curve(curve).width == diagnosis.MAX_WIDTH
    assert diagnose(curve, []).kind in ("falling", "converged")


@pytest.mark.parametrize(
    ("kind", "loss", "validation"),
    [
        ("converged", decay(100, 1, 0.2, 8), []),
        ("overfitting", decay(100, 1, 0.1, 10), [*decay(50, 1, 0.2, 8), *np.linspace(0.2, 0.9, 50)]),
        ("falling", [*np.linspace(1, 0.1, 60)], []),
        ("underfitting", [1.0] * 60, []),
        ("diverged", [1.0, math.nan], []),
    ],
)
def test_unscaled_columns_are_said_whatever_the_curves(kind: str, loss: list[float], validation: list[float]) -> None:
    found = diagnose(loss, validation, 1.0, ("", "Column 1 is unscaled."))
    assert found.kind == kind
    assert found.words.endswith("Column 1 is unscaled.")
