"""The command line, run as a user runs it: in a process of its own, with pipes."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastnet import __version__, fit_session
from fastnet.cli import main as cli
from fastnet.cli import textplot


def errors(text: str) -> str:
    """Standard error, but for the line that a first compilation writes."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("fastnet: compiling"))


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastnet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.compiled
def test_train_without_arguments_learns_the_digits() -> None:
    result = run("train")
    assert result.returncode == 0, result.stderr
    assert "total 9,610 parameters" in result.stdout
    assert "* loss   o val_loss" in result.stdout
    accuracy = re.search(r"^accuracy +([\d.]+)% of 359 held-out images", result.stdout, re.M)
    assert accuracy
    assert float(accuracy[1]) > 94
    assert re.search(r"^time +[\d.]+ s for 30 epochs(, [\d.]+ s of it compiling)?; backend \w+$", result.stdout, re.M)
    assert "\r" not in result.stdout, "the bar belongs to standard error"
    assert result.stdout.isascii()


def strip_time(text: str) -> str:
    return re.sub(r"^time.*$", "", text, flags=re.M)


@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_train_with_options(backend: str, loss: str, optimizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--hidden", "32,16", "--epochs", "3", "--batch-size", "64", "--lr", "0.01", "--seed", "5"]
    arguments += ["--loss", loss, "--optimizer", optimizer, "--backend", backend]
    outputs = []
    for _ in range(2):
        assert cli.main(arguments) == 0
        outputs.append(strip_time(capsys.readouterr().out))
    assert outputs[0] == outputs[1]
    for expected in ("learning_rate=0.01", "batch size 64", "seed 5", loss, "dense 3"):
        assert expected in outputs[0]


def test_train_without_hidden_layer_in_full_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--hidden", "none", "--epochs", "2", "--batch-size", "full"]) == 0
    output = capsys.readouterr().out
    assert "total 650 parameters" in output
    assert "batch size full" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: command"),
        (("fly",), "invalid choice: 'fly'"),
        (("train", "--epochs", "0"), "argument --epochs: '0' is not a whole number of at least 1"),
        (("train", "--hidden", "8,x"), "argument --hidden: '8,x' is not a list of sizes such as 64,64, or none"),
        (
            ("train", "--batch-size", "-1"),
            "argument --batch-size: '-1' is not a whole number of at least 1, full, or auto",
        ),
        (("train", "--lr", "nan"), "argument --lr: 'nan' is not a number above 0"),
        (("train", "--dropout", "1"), "argument --dropout: '1' is not a number >= 0 and < 1"),
        (("train", "--loss", "mad"), "argument --loss: invalid choice: 'mad'"),
        (("train", "--seed", "1.5"), "argument --seed: '1.5' is not a whole number"),
        (("train", "--hidden", "64,,64"), "argument --hidden: '64,,64' is not a list of sizes"),
        (("train", "--epoch", "1"), "unrecognized arguments: --epoch (see fastnet train --help)"),
        (("info", "--hiden"), "unrecognized arguments: --hiden (see fastnet info --help)"),
        (
            ("train", "--seed", str(2**64)),
            "argument --seed: '18446744073709551616' is not a whole number from 0 to 2**64 - 1",
        ),
        (("train", "--target", "price"), "--target needs a FILE to train on"),
        (("train", "a.csv", "--target", "y", "--drop", "x,y"), "--drop cannot name 'y', the --target (see "),
        (("train", "a.csv", "--target", "y", "--id", "y"), "--id cannot name 'y', the --target (see "),
        (
            ("train", "a.csv", "--target", "y", "--category", "y"),
            "--category cannot name 'y', the --target; --task classification takes its numbers for names (see ",
        ),
        (("train", "a.csv", "b.csv"), "unrecognized arguments: b.csv"),
        (("train", "a.csv", "--task", "guess"), "argument --task: invalid choice: 'guess'"),
        (("predict", "model"), "the following arguments are required: FILE"),
    ],
)
def test_train_usage_errors_exit_with_status_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "--help" in captured.err


def test_train_divergence_exits_with_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--optimizer", "sgd", "--lr", "1e30", "--epochs", "3"]) == 1
    captured = capsys.readouterr()
    assert errors(captured.err).startswith("fastnet train: training diverged in epoch 1")
    assert errors(captured.err).count("\n") == 1
    assert "best      none" in captured.out


def test_train_reports_out_of_memory_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--hidden", "100000000000"]) == 1
    captured = capsys.readouterr()
    assert "has 27939.7 GiB of parameters; expected at most" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="shells close files differently there")
def test_train_survives_a_closed_standard_output() -> None:
    command = f"{sys.executable} -m fastnet train --epochs 1 --backend numpy >&-"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, errors(result.stderr)) == (0, "")


@pytest.mark.parametrize(("argument", "imports"), [("train", False), ("profile", True), ("--help", True)])
def test_a_command_imports_no_other(argument: str, imports: bool) -> None:
    code = "import sys; from fastnet.cli.main import main\ntry: main([sys.argv[1], '--help'])\n"
    code += "finally: print('fastnet.cli.profile' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, timeout=60)
    assert found.stdout.splitlines()[-1] == str(imports)


def test_help_is_complete() -> None:
    result = run("train", "--help")
    assert "default: []" not in result.stdout
    assert result.returncode == 0
    for option in ("--hidden", "--epochs", "--batch-size", "--lr", "--loss", "--optimizer", "--seed", "--backend"):
        assert option in result.stdout
    assert "(default: 0.1 for sgd, 0.001 for adam, 0.001 for adamw, 0.001 for rmsprop" in " ".join(
        result.stdout.split()
    )
    assert run("--version").stdout == f"fastnet {__version__}\n"
    examples = re.findall(r"^  fastnet (.*?)   ", run("--help").stdout, re.M)
    assert len(examples) == 3
    assert all(cli.make_parser().parse_args(example.split()).run for example in examples)


def test_a_variable_that_says_what_cannot_be_ends_in_one_line() -> None:
    result = run("info", env={**os.environ, "FASTNET_CACHES": "large"})
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("fastnet: FASTNET_CACHES is 'large'; expected")
    assert len(result.stderr.splitlines()) == 1


def test_info_lists_versions_and_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    output = capsys.readouterr().out
    names = ["fastnet", "python", "numpy", "numba", "llvmlite", "cpu", "features"]
    for name in (*names, "vector width", "caches", "compile cache"):
        assert re.search(rf"^{name}  +\S", output, re.M)


@pytest.mark.compiled
@pytest.mark.skipif(os.name != "posix", reason="pipes close differently there")
def test_train_survives_a_closed_pipe() -> None:
    command = f"{sys.executable} -m fastnet train --epochs 2 | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300, check=False)
    assert result.stdout.startswith("data ")
    assert errors(result.stderr) == ""


@pytest.mark.compiled
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent differently there")
def test_train_interrupted_shows_curves_and_exits_with_status_130() -> None:
    command = [sys.executable, "-m", "fastnet", "train", "--epochs", "1000000"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell that runs these tests in the background has had SIGINT ignored, which children inherit.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=heeding, **pipes) as process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("total"):
                break
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        output, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"fastnet train: interrupted after [\d,]+ whole epochs?; .* kept", said.splitlines()[-1])
    assert "Traceback" not in said
    assert "accuracy " in output or "interrupted after 0 " in said


INTERRUPTED_IMPORT = """
import signal, sys

class Finder:
    def find_spec(name, *rest):
        if name == {name!r}:
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder)
from fastnet.__main__ import main
sys.argv[1:] = ["train"]
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["numba.core.types", "fastnet.kernels.registry", "fastnet.cli.train"])
def test_an_interrupt_while_modules_are_imported_is_quiet(name: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT.format(name=name)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "fastnet: interrupted\n")


class _InterruptedDestructor:
    """Gets Ctrl-C where Python drops the exception."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_train_heeds_an_interrupt_that_python_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shuffle = fit_session.rng.shuffle

    def interrupted(order: Any, seed: int, epoch: int) -> None:
        shuffle(order, seed, epoch)
        if epoch == 2:
            _InterruptedDestructor()

    monkeypatch.setattr(fit_session.rng, "shuffle", interrupted)
    assert cli.main(["train", "--epochs", "1000"]) == 130
    assert "interrupted after 3 whole epochs" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ------------------------------------------------------------------------------------------- text plot


def test_textplot_is_to_scale() -> None:
    plot = textplot.curves({"loss": [3, 2, 1], "val_loss": [3, 3, 2]}, width=3, height=3)
    assert plot.splitlines() == ["3 +oo", "2 + *o", "1 +  *", "  +---", "   1 3  epoch", "   * loss   o val_loss"]


def test_textplot_logarithmic_scale_and_gaps() -> None:
    plot = textplot.curves({"loss": [100, float("nan"), 1]}, width=3, height=3)
    assert plot.splitlines()[:3] == ["100 +*", " 10 +", "  1 +  *"]
    assert "(log scale)" in plot
    assert textplot.curves({"loss": [float("nan")]}) == "(nothing to draw: no value is finite)"


def test_textplot_aligns_curves_of_different_lengths() -> None:
    plot = textplot.curves({"loss": [4, 3, 2, 1], "val_loss": [4, 3], "none": []}, width=4, height=4)
    assert plot.splitlines()[:4] == ["4 +o", "3 + o", "2 +  *", "1 +   *"]


@pytest.mark.parametrize("curve", [[1.0], [0.0, 0.0], [-1.0, -5.0], [5.0] * 1000])
def test_textplot_draws_any_curve(curve: list[float]) -> None:
    lines = textplot.curves({"loss": curve}, width=20, height=5).splitlines()
    assert len(lines) == 8
    assert any("*" in line for line in lines[:5])
    assert all(len(line) <= 20 + 20 for line in lines)


def test_textplot_is_not_squeezed_by_an_outlying_value() -> None:
    curve = [1.0 - 0.01 * t for t in range(60)]
    curve[30] = 1e6
    lines = textplot.curves({"loss": curve}).splitlines()
    assert "^" in lines[0]
    assert lines[0].lstrip().startswith("1 +"), "the scale ends at the largest of the others"
    assert len({line.index("*") for line in lines[:12]}) == 12, "the curve uses the whole height"
    assert lines[-1].endswith("* loss   ^ up to 1e+06")
    assert lines[-2].split() == ["1", "31", "60", "epoch"]


@pytest.mark.exhaustive
@pytest.mark.compiled
def test_info_compiles_what_training_and_predicting_take(tmp_path: Path) -> None:
    """Afterwards nothing that `fastnet train` runs is left to compile.

    In one process: two that save the same function at the same time may lose one's entry.
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "FASTNET_COMPILE_PROCESSES": "1"}
    train = ["train", "--epochs", "2", "--dropout", "0.1", "--out", str(tmp_path / "model.safetensors")]
    outputs = []
    for arguments in (["info", "--compile", "--losses", "cross_entropy", "--optimizers", "adam"], train):
        command = [sys.executable, "-m", "fastnet", *arguments]
        outputs.append(
            subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
        )
    assert "compile cache" in outputs[0].stdout
    assert "compiling kernels" in outputs[0].stderr
    assert "compiling" not in outputs[1].stderr + outputs[1].stdout


def test_info_refuses_names_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["info", "--compile", "--losses", "mse,hinge"])
    assert "'mse,hinge' is not a list of names from mse, mae" in capsys.readouterr().err
