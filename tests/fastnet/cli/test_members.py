"""Several networks of one `fastnet train`: folds, ensembles, their checkpoints, threads and interruptions."""

import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from commands import PEOPLE, QUICK, TRAIN, run

import fastnet
from fastnet import scores, table_model
from fastnet.cli import fitting, results
from fastnet.cli import main as cli


def test_folds_and_ensembles_are_fitted_side_by_side(
    people: pandas.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [json.loads(run(capsys, "train", "people.parquet", *PEOPLE, "--cv", "3", "--ensemble", "2", "--json"))]
    told += [json.loads(run(capsys, "train", "people.parquet", *PEOPLE, "--cv", "3", "--ensemble", "2", "--json"))]
    for one in told:
        one["seconds"] = one["baselines_seconds"] = 0
    assert told[0] == told[1]
    assert [network["fold"] for network in told[0]["networks"]] == [0, 0, 1, 1, 2, 2]
    assert told[0]["held_out"]["rows"] == 299, "each row once"
    assert told[0]["held_out"]["scores"]["this model"]["auc"] > 0.8
    folds = told[0]["held_out"]["folds"]["this model"]
    assert np.mean([fold["auc"] for fold in folds]) == pytest.approx(
        told[0]["held_out"]["scores"]["this model"]["auc"], abs=0.1
    )
    assert len(folds) == 3
    output = run(capsys, "train", "people.parquet", *PEOPLE, "--ensemble", "2", "--out", "m")
    assert re.search(r"^networks  2, side by side, each on one thread; the model is their mean$", output, re.M)
    assert re.search(r"^2 +1 +\d+ +epoch \d+ +[\d.]+$", output, re.M)
    assert len(table_model.load("m").members) == 2


def test_equal_scores_of_folds_spread_by_0() -> None:
    assert results._mean_and_spread([0.1 + 0.2, 0.3, 0.3]) == "0.3 +- 0", "not by the rounding of 1e-17"
    assert results._mean_and_spread([0.0, 0.0]) == "0 +- 0"
    assert results._mean_and_spread([1.0, 2.0]) == "1.5 +- 0.71"


def test_checkpoint_is_resumed_from_its_best_epoch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "houses.csv",
        "--target",
        "price",
        *QUICK,
        "--checkpoint",
        "run",
        "--schedule",
        "constant",
        "--l2",
        "1e-4",
        "--dropout",
        "0.2",
    ]
    output = run(capsys, "train", *arguments, "--epochs", "4")
    assert re.search(r"^training  mse, Adam\(.*, seed 0, dropout 0.2$", output, re.M)
    assert fastnet.Trainer.resume("run").dropout == 0.2
    output = run(capsys, "train", *arguments, "--epochs", "6")
    assert "resumed   from epoch 4 of run\n" in output
    assert re.search(r" of 6: val_loss .*; refitted on all rows for [1-6]\n", output)
    assert cli.main(["train", *arguments, "--seed", "1"]) == 1
    assert "run is the checkpoint of another network: its seed is 0, not 1; remove it" in capsys.readouterr().err
    for option, value, said in (
        ("--dropout", "0.3", "another dropout: 0.2, not 0.3; give the same options, remove it, or"),
        ("--l2", "0", "another l2: 0.0001, not 0.0"),
        ("--batch-size", "16", "another batch size: 32, not 16"),
        ("--loss", "mae", "another loss: mse, not mae"),
        ("--lr", "0.03", "another optimizer: Adam(learning_rate=0.02"),
        ("--optimizer", "adamw", "another optimizer: Adam(learning_rate=0.02"),
        ("--schedule", "cosine", "not Adam(learning_rate=CosineDecay("),
    ):
        assert cli.main(["train", *arguments, option, value]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_checkpoint_of_a_schedule_is_of_as_many_epochs(
    schedule: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["houses.csv", "--target", "price", "--hidden", "4", "--schedule", schedule, "--checkpoint", "run"]
    run(capsys, "train", *arguments, "--no-boosting", "--epochs", "3")
    assert "resumed   from epoch 3 of run\n" in run(capsys, "train", *arguments, "--no-boosting", "--epochs", "3")
    for epochs in ("2", "6"):
        assert cli.main(["train", *arguments, "--epochs", epochs]) == 1
        said = capsys.readouterr().err
        assert said.startswith("fastnet train: run was trained with another --epochs, for which its schedule is made: ")
        assert "give the same --epochs, remove it, or name another file (with --schedule constant" in said
    assert cli.main(["train", *arguments, "--epochs", "6", "--lr", "0.03"]) == 1
    assert "another optimizer: Adam(" in capsys.readouterr().err


def test_several_networks_have_checkpoints_and_curves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["train", "houses.csv", "--target", "price", *QUICK, "--checkpoint", "run.st", "--plot", "curves.svg"]
    arguments += ["--schedule", "constant"]
    output = run(capsys, *arguments, "--cv", "2", "--epochs", "4")
    assert re.search(
        r"^2 folds, mean \+- std .*\nthis model +[\de.+]+ \+- [\de.+]+ .*\nmean of the target ", output, re.M
    )
    assert {"run-1.st", "run-2.st"} <= {path.name for path in folder.iterdir()}
    assert (folder / "curves.svg").read_text().count("<path") > 4
    output = run(capsys, *arguments, "--cv", "2", "--epochs", "6")
    assert "resumed   from epoch 4 of run-1.st\nresumed   from epoch 4 of run-2.st\n" in output
    assert cli.main([*arguments, "--cv", "3", "--epochs", "9"]) == 1
    assert "run-1.st is the checkpoint of a run on other rows" in capsys.readouterr().err


def test_interruption_says_which_networks_are_kept() -> None:
    """Of three folds, one had not begun: "nothing is kept" was said, and a model of two written."""
    members = [fitting.Member(fastnet.Trainer(fastnet.Network([1, 1])), (), (), baseline=1.0) for _ in range(3)]
    assert fitting._kept(members) == "after 0 whole epochs; nothing is kept"
    for member in members[:2]:
        member.trainer.history.append({"loss": 1.0})
    some = "after 1 whole epoch; the best of them is kept, of 2 of 3 networks, since the others have no whole epoch"
    assert fitting._kept(members) == some
    assert fitting._kept(members[:2]) == "after 1 whole epoch; the best of them is kept"


@pytest.mark.parametrize("allowed", [0, 1])
def test_fewer_threads_than_wanted_cross_validate(
    allowed: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a limit of processes: "can't start new thread" was all that came of the command."""
    command = ["train", "houses.csv", "--target", "price", "--epochs", "3", "--cv", "4", "--json", *QUICK]
    expected = json.loads(run(capsys, *command))
    start, count = threading.Thread.start, itertools.count()

    def limited(thread: threading.Thread) -> None:
        if next(count) >= allowed:
            raise RuntimeError("can't start new thread")
        start(thread)

    def boosting(*_: Any, **__: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(fitting, "num_threads", lambda: 3)
    monkeypatch.setattr(threading.Thread, "start", limited)
    monkeypatch.setattr(scores, "boosting", boosting)
    assert cli.main(command) == 0
    output, errors = capsys.readouterr()
    found = json.loads(output)
    assert found["networks"] == expected["networks"]
    assert found["held_out"]["scores"]["this model"] == expected["held_out"]["scores"]["this model"]
    assert set(found["held_out"]["scores"]) == {"this model", "mean of the target"}
    assert "networks are trained on 1 of 3 threads, since the system starts no more (can't start new thr" in errors
    assert errors.count("HistGradientBoosting is not fitted beside it: can't start new thread") == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_error_of_a_fold_ends_the_others(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    began = list[int]()

    def fit(number: int, *_: Any) -> None:
        began.append(number)
        if number == 0:
            raise ValueError("of the first")
        time.sleep(0.05)

    members = [fitting.Member(fastnet.Trainer(fastnet.Network([1, 1])), (), (), baseline=1.0) for _ in range(20)]
    for number, member in enumerate(members):
        monkeypatch.setattr(member, "fit", partial(fit, number))
    monkeypatch.setattr(fitting, "num_threads", lambda: threads)
    with pytest.raises(ValueError, match="of the first"):
        fitting.fit(members, 1, 1)
    assert len(began) <= 2 * threads


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent differently there")
@pytest.mark.parametrize(("number", "said"), [("SIGINT", "interrupted"), ("SIGTERM", "stopped by SIGTERM")])
def test_train_interrupted_saves_the_best_epoch(number: str, said: str, folder: Path) -> None:
    command: list[Any] = [*TRAIN, "--epochs", "1000000", "--patience", "1000000", "--out", "m"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs ignore
    with subprocess.Popen(command, preexec_fn=heeding, **pipes) as process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("total"):
                break
        time.sleep(1.0)
        process.send_signal(getattr(signal, number))
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, number)
    pattern = rf"fastnet train: {said} after [\d,]+ whole epochs?; "
    pattern += r"(nothing is kept|the best of them is kept, not refitted on all rows)"
    assert re.fullmatch(pattern, errors.splitlines()[-1])
    if "after 0 " in errors:  # a busy machine may not have compiled by then
        assert sorted(os.listdir()) == ["houses.csv", "insects.csv"]
    else:
        assert output.endswith("model     m\n")
        assert " is kept: val_loss " in output
        assert table_model.load("m").members[0][1].loss == "mse"
        assert sorted(os.listdir()) == ["houses.csv", "insects.csv", "m"]
