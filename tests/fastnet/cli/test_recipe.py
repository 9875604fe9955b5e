"""The recipe by which `fastnet train FILE` makes and trains a network, and the options in its place."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import QUICK, run

from fastnet import CosineDecay, recipe, table_model
from fastnet.cli import main as cli


def made_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[int], str, str]:
    told = json.loads(run(capsys, "train", *arguments, "--epochs", "1", "--backend", "numpy", "--json"))
    return told["layer_sizes"], told["optimizer"], told["loss"]


def test_tables_are_learnt_by_the_recipe_of_the_estimators(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes, optimizer, _ = made_of(capsys, "houses.csv", "--target", "price")
    assert sizes == [2, 256, 256, 256, 1]
    assert re.match(r"Adam\(learning_rate=CosineDecay\(learning_rate=0\.004, epochs=1.*beta2=0\.95", optimizer)
    sizes, optimizer, loss = made_of(capsys, "insects.csv", "--target", "kind")
    assert (sizes, loss) == ([2, 256, 256, 256, 3], "cross_entropy")
    assert "0.0025" in optimizer
    assert made_of(capsys)[0] == [64, 128, 10], "the digits keep their own"
    assert "learning_rate=0.001, beta1=0.9, beta2=0.999" in made_of(capsys)[1]
    arguments = ["insects.csv", "--target", "kind", "--epochs", "1", "--backend", "numpy", "--out", "m"]
    output = run(capsys, "train", *arguments)
    assert "batch size 120, seed 0, labels smoothed by 0.1\n" in output
    assert "refit     at the end, on all 160 rows, for about as much training as the best took, while" in output
    assert re.search(r"dense 1 +2 +256  relu ", output)
    assert table_model.load("m").members[0][1].activations[0] == "relu"


def test_each_part_of_the_recipe_can_be_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--hidden", "8", "--activation", "tanh", "--schedule", "step", "--batch-size", "50"]
    arguments = ["train", "insects.csv", "--target", "kind", "--epochs", "3", "--backend", "numpy", *options]
    output = run(capsys, *arguments, "--optimizer", "sgd", "--label-smoothing", "0")
    assert re.search(
        r"^training  cross_entropy, SGD\(.*StepDecay\(learning_rate=0.1,.*, batch size 50, seed 0$", output, re.M
    )
    assert re.search(r"dense 1 +2 +8  tanh ", output)
    assert "for as many epochs as the best took\n" in output
    output = run(capsys, *arguments, "--lr", "0.5", "--loss", "mse")
    assert re.search(r"^training  mse, Adam\(.*StepDecay\(learning_rate=0.5,.*, batch size 50, seed 0$", output, re.M)
    for table_of, loss in (
        (["insects.csv", "--target", "kind"], ["--loss", "mse"]),
        (["houses.csv", "--target", "price"], []),
    ):
        assert cli.main(["train", *table_of, *loss, "--label-smoothing", "0.1"]) == 1
        said = "fastnet train: --label-smoothing is for the loss cross_entropy, but it is mse; leave it out\n"
        assert capsys.readouterr().err == said


def test_smoothed_labels_make_probabilities_less_sure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sure = []
    for share in ("0", "0.3"):
        arguments = ["insects.csv", "--target", "kind", "--label-smoothing", share, "--epochs", "60", "--out", "m"]
        output = run(capsys, "train", *arguments, *QUICK)
        assert "Converged" in output or "Still" in output or "Overfitting" in output, "beside a baseline of soft labels"
        found = json.loads(run(capsys, "predict", "m", "insects.csv", "--json"))["probabilities"]
        sure.append(np.max(found, axis=1).mean())
    assert sure[0] > sure[1] + 0.05


def test_a_rate_that_falls_sooner_sums_up_to_the_same() -> None:
    for epochs in (1, 5, 30, 63, 64):
        times = np.arange(64 * 100) / 100
        learnt = CosineDecay(1.0, 64).rates(times)[: epochs * 100].sum() / 100
        found = recipe.annealed(epochs, 64)
        assert abs(CosineDecay(1.0, found).rates(times)[: found * 100].sum() / 100 - learnt) < 0.27
    assert recipe.annealed(1, 64) == 2
    assert recipe.annealed(64, 64) == 64
    assert recipe.even_batch(300) == 300
    assert recipe.even_batch(1000) == 250
