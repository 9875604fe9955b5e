"""Training over the ranks of an MPI communicator: the bits of one process, errors, and processes that die."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks

from fastnet import Adam, Trainer
from fastnet.cli.main import main

pytest.importorskip("mpi4py")

pytestmark = [pytest.mark.compiled, pytest.mark.skipif(sys.platform != "linux", reason="mpiexec and signals of Linux")]

LIMIT_S = 300
"""Nothing here takes a tenth of this; a run that hangs fails."""


def mpiexec(count: int, *arguments: Any) -> "subprocess.CompletedProcess[str]":
    """Run Python on some ranks, until it ends or takes too long."""
    launcher = shutil.which("mpiexec", path=sysconfig.get_path("scripts")) or "mpiexec"
    command = [launcher, "-n", str(count), sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL)


def launch(count: int, *arguments: Any) -> "subprocess.CompletedProcess[str]":
    """Run a function of helpers/ranks.py on some ranks."""
    return mpiexec(count, ranks.__file__, *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data that are read as a memory map."""
    made = tmp_path_factory.mktemp("ranks")
    np.save(made / "X.npy", ranks.X)
    return made


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    """The results of one process, which has also compiled all that the ranks need."""
    return ranks.bits(None, folder)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bits_are_those_of_one_process(count: int, folder: Path, expected: dict[str, Any]) -> None:
    done = launch(count, "bits", folder)
    assert done.returncode == 0, done.stderr
    for rank in range(count):
        found = np.load(folder / f"bits-{rank}.npz")
        assert set(found) == set(expected)
        different = [name for name, value in expected.items() if found[name].tobytes() != np.asarray(value).tobytes()]
        assert not different


@pytest.mark.parametrize("count", [2, 3])
def test_each_rank_reads_its_share_of_a_memory_map(count: int, folder: Path) -> None:
    done = launch(count, "rows_read", folder)
    assert done.returncode == 0, done.stderr
    alone = ranks.rows_read(None, folder)["rows"]
    found = [int(np.load(folder / f"rows_read-{rank}.npz")["rows"]) for rank in range(count)]
    assert alone == 3 * 203
    assert (
        sum(found) == alone + count * 203
    )  # all of these few rows are the sample by which the ranks compare their data
    assert max(found) <= 3 * (203 // count + 1) + 203


# ----------------------------------------------------------------------------------------------- errors

ERRORS = {
    "no communicator": "TypeError: comm is 'world'",
    "no ranks": "TypeError: comm is <mpi4py.MPI.Comm ",
    "an intercommunicator": "TypeError: comm is <mpi4py.MPI.Intercomm ",
    "numpy": "ValueError: comm has 2 ranks",
    "fit_many": "ValueError: trainers[0] has a comm of 2 ranks",
    "rows": "ValueError: the ranks differ in the number of rows: 203 on rank 0, 200 on rank 1",
    "columns": "ValueError: X has 19 columns",
    "other data": "ValueError: the ranks differ in the data (CRC-32 of some rows)",
    "NaN": "ValueError: X holds NaN at row 7",
    "another memory map": "ValueError: the ranks differ in the data (CRC-32 of some rows)",
    "NaN in a memory map": "ValueError: X holds NaN at row 7",
    "no weight": "ValueError: sample_weight is 0 in every row",
    "a rank's weights": "ValueError: sample_weight holds -1.0 in row 0",
    "dtypes of shards": "ValueError: the ranks differ in the network: (20, 37, 24, 5) float32 on rank 0, ",
    "sizes": "ValueError: the ranks differ in layer_sizes: (20, 8, 5) on rank 0, (20, 9, 5) on rank 1",
    "a split of shards": "ValueError: the ranks differ in the rows that they train on, by seed or validation_split",
    "seeds of shards": "ValueError: the ranks differ in the rows that they train on, by seed or validation_split",
    "a shorter file": "ValueError: X is a memory map of ",
    "seed": "ValueError: the ranks differ in seed: 0 on rank 0, 1 on rank 1",
    "optimizer": "ValueError: the ranks differ in optimizer: Adam(",
    "epochs": "ValueError: the ranks differ in epochs: 1 on rank 0, 2 on rank 1",
    "an argument": "TypeError: patience is 'many'",
    "version": "ValueError: the ranks differ in fastnet's version",
    "shards": "RuntimeError: the ranks run apart: rank 0 is at",
    "places": "RuntimeError: the ranks run apart: rank 0 is at the data, rank 1 at a checkpoint",
    "a callback": "LookupError: a callback's",
    "no folder": "FileNotFoundError: cannot write",
    "no file": "FileNotFoundError: cannot read",
}
"""How the error of each call of `ranks.errors` begins, on every rank."""


def test_every_rank_raises_the_error_of_one(folder: Path) -> None:
    done = launch(2, "errors", folder)
    assert done.returncode == 0, done.stderr
    found = [{name: str(text) for name, text in np.load(folder / f"errors-{rank}.npz").items()} for rank in range(2)]
    for name, begins in ERRORS.items():
        for each in found:
            assert each[name].startswith(begins), (name, each[name])
    assert set(found[0]) == set(ERRORS)
    whole = Trainer.resume(folder / "errors.safetensors")
    straight = ranks.make()
    straight.fit(ranks.X, ranks.Y, 2)
    assert whole.network.parameters.tobytes() == straight.network.parameters.tobytes()


@pytest.mark.parametrize(
    ("how", "rank", "after"),
    [
        ("fails", 1, 0.0),
        ("killed", 0, 0.1),
        *(pytest.param("killed", i % 2, 0.037 * i, marks=[] if i == 5 else pytest.mark.exhaustive) for i in range(10)),
    ],
)
def test_a_rank_that_dies_ends_all_and_leaves_a_whole_checkpoint(
    how: str, rank: int, after: float, tmp_path: Path, expected: dict[str, Any]
) -> None:
    done = launch(2, "doomed", tmp_path, how, rank, after)
    assert done.returncode != 0
    if how == "fails":
        assert done.stderr.count("fastnet: rank 1 of 2 failed (MemoryError: made up), which ends all ranks") == 1
    whole = Trainer.resume(tmp_path / "doomed.safetensors")
    straight = ranks.make(optimizer=Adam(0.01))
    straight.fit(ranks.X, ranks.Y, whole.history.epochs)
    assert whole.network.parameters.tobytes() == straight.network.parameters.tobytes()


# ------------------------------------------------------------------------- interruptions, checkpoints


def test_training_goes_on_with_other_numbers_of_ranks(folder: Path) -> None:
    done = launch(3, "resumed", folder)
    assert done.returncode == 0, done.stderr
    straight = ranks.make(optimizer=Adam(0.01))
    straight.fit(ranks.X, ranks.Y, 6)
    assert np.load(folder / "resumed-0.npz")["parameters"].tobytes() == straight.network.parameters.tobytes()


def test_ctrl_c_on_any_rank_ends_training_after_the_same_step(folder: Path) -> None:
    done = launch(2, "interrupted", folder)
    assert done.returncode == 0, done.stderr
    found = [np.load(folder / f"interrupted-{rank}.npz") for rank in range(2)]
    assert len(found[0]["steps"]) > 0
    assert found[0]["steps"].tolist() == found[1]["steps"].tolist()
    straight = ranks.make(optimizer=Adam(0.01), batch_size=16)
    straight.fit(ranks.X, ranks.Y, ranks.INTERRUPTED_EPOCHS)
    assert found[0]["parameters"].tobytes() == straight.network.parameters.tobytes()


def test_ctrl_c_on_one_rank_ends_all_wherever_they_are(folder: Path) -> None:
    done = launch(2, "stopped", folder)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        found = {name: str(text) for name, text in np.load(folder / f"stopped-{rank}.npz").items()}
        assert found.pop("after the end of fit") == ("interrupted" if rank == 1 else "trained")
        assert found == {"the end of fit": "interrupted", "resume": "interrupted", "the command line": "130"}


# ------------------------------------------------------------------------------------ the command line


def test_the_command_line_trains_one_network_and_prints_once(tmp_path: Path) -> None:
    arguments = ["train", "--hidden", "16", "--epochs", "2", "--checkpoint", tmp_path / "run", "--out"]
    done = mpiexec(2, "-m", "fastnet", *arguments, tmp_path / "two.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy") == 1
    assert "backend cpu on 2 ranks" in done.stdout
    (tmp_path / "run").unlink()
    assert main([*map(str, arguments), str(tmp_path / "one.safetensors")]) == 0
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.parametrize("arguments", [["nofile.csv", "--target", "y"], ["--ensemble", "2"]])
def test_the_command_line_reports_an_error_once(arguments: list[str]) -> None:
    done = mpiexec(2, "-m", "fastnet", "train", *arguments)
    assert done.returncode != 0
    assert done.stderr.count("fastnet train: ") == 1
    assert not done.stdout


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["train", "--epochs", "x"], "fastnet train: argument --epochs", 2),
        (["train", "--cv", "1"], "fastnet train: --cv needs a FILE to train on", 2),
        (["train", "--help"], "usage: fastnet train", 0),
    ],
)
def test_the_command_line_reports_wrong_usage_once(arguments: list[str], said: str, status: int) -> None:
    done = mpiexec(3, "-m", "fastnet", *arguments)
    assert (done.stdout + done.stderr).count(said) == 1
    assert (done.returncode != 0) == (status != 0)
    if said.startswith("fastnet train: arg"):
        command, later = [sys.executable, "-m", "fastnet", *arguments], os.environ | {"PMI_RANK": "1"}
        alone = subprocess.run(command, env=later, capture_output=True, text=True, timeout=LIMIT_S)
        assert (alone.returncode, alone.stdout, alone.stderr) == (status, "", "")


def test_other_commands_print_in_whatever_inherits_a_rank() -> None:
    command, later = [sys.executable, "-m", "fastnet", "predict"], os.environ | {"PMI_RANK": "1"}
    done = subprocess.run(command, env=later, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert "fastnet predict: " in done.stderr


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD", "PMI"])
def test_the_command_line_refuses_to_train_alone_under_another_launcher(name: str) -> None:
    started = os.environ | {f"{name}_RANK": "1", f"{name}_SIZE": "4"}
    command = [sys.executable, "-m", "fastnet", "train"]
    done = subprocess.run(command, env=started, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1
    assert f"fastnet train: the launcher has started 4 processes ({name}_SIZE), but mpi4py" in done.stderr
    assert not done.stdout
