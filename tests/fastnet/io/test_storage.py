"""Files: what is written is read back, nothing else is read, and no interruption leaves half a file."""

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fastnet.io import storage

MODEL = {"kind": "model", "note": 'naïve "quotes"\nand lines'}

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and signals are others there")
not_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")


def arrays() -> dict[str, Any]:
    return {
        "layers.0.weight": np.arange(6, dtype="float32").reshape(2, 3),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4)),
        "nothing": np.array([], dtype="int64"),
        "steps": np.array([1, -2], dtype="int64"),
        "flags": np.array([True, False, True]),
        "bytes": np.array([255], dtype="uint8"),
        "order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "strided": np.arange(20, dtype="float32")[::-3],
        "big endian": np.arange(3, dtype=">f4"),
        "nan": np.array([np.nan, np.inf, -0.0]),
    }


def test_storage_round_trip(tmp_path: Path) -> None:
    storage.write(tmp_path / "a.safetensors", arrays(), MODEL)
    found, metadata = storage.read(tmp_path / "a.safetensors", "model")
    assert metadata.pop("checksum").startswith("crc32:")
    assert metadata == {**MODEL, "format": "fastnet", "format_version": "1"}
    assert sorted(found) == sorted(arrays())
    for name, array in arrays().items():
        assert found[name].shape == array.shape, name
        assert found[name].dtype == array.dtype.newbyteorder("="), name
        assert found[name].dtype.isnative
        np.testing.assert_array_equal(found[name], array)
        found[name][...] = 0  # writable, and of its own
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_storage_is_read_by_safetensors(tmp_path: Path) -> None:
    storage.write(tmp_path / "a", arrays(), MODEL)
    for name, array in safetensors.numpy.load_file(tmp_path / "a").items():
        np.testing.assert_array_equal(array, arrays()[name])
    with safetensors.safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata()["note"] == MODEL["note"]


def test_storage_is_deterministic(tmp_path: Path) -> None:
    storage.write(tmp_path / "a", arrays(), MODEL)
    storage.write(tmp_path / "b", dict(reversed(arrays().items())), dict(reversed(MODEL.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    header = json.loads((tmp_path / "a").read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert all(
        entry["data_offsets"][0] % arrays()[name].itemsize == 0
        for name, entry in header.items()
        if name != "__metadata__"
    )


@pytest.mark.parametrize(
    ("error", "message", "arrays", "metadata"),
    [
        (safetensors.SafetensorError, 'dtype "object"', {"a": np.array([None])}, MODEL),
        (safetensors.SafetensorError, 'dtype "complex128"', {"a": np.ones(1, complex)}, MODEL),
        (TypeError, "'int' object", {"a": np.ones(1)}, {**MODEL, "epoch": 3}),
        (TypeError, "'int' object", {1: np.ones(1)}, MODEL),
    ],
)
def test_storage_failed_write_changes_nothing(
    error: type[Exception], message: str, arrays: Any, metadata: Any, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(error, match=message):
        storage.write(tmp_path / "a", arrays, metadata)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


# ------------------------------------------------------------------------------------------------ targets


def test_storage_errors_name_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^cannot write .*/no/a: there is no folder .*/no$"):
        storage.write(tmp_path / "no" / "a", {}, MODEL)
    with pytest.raises(IsADirectoryError, match=r"it is a folder; name a file in it$"):
        storage.write(tmp_path, {}, MODEL)
    with pytest.raises(IsADirectoryError):
        storage.write(f"{tmp_path}/new/", {}, MODEL)
    with pytest.raises(OSError, match=r"cannot read .*: it is a folder, not a file"):
        storage.read(tmp_path, "model")
    with pytest.raises(FileNotFoundError, match=r"^cannot read .*/a: no such file or directory$"):
        storage.read(tmp_path / "a", "model")


@pytest.mark.parametrize("path", ["/proc/model.safetensors", "/proc/sys/model.safetensors"])
@pytest.mark.skipif(not os.path.isdir("/proc/sys"), reason="Linux has it, a folder in which nobody can make files")
def test_storage_names_a_folder_that_takes_no_files(path: str) -> None:
    folder = os.path.dirname(path)
    message = f"cannot write {path}: no (file can be made|permission to write) in {folder}( |$)"
    for write in (lambda: storage.check_target(path), lambda: storage.write(path, {}, MODEL)):
        with pytest.raises(OSError, match=message):
            write()


def test_storage_names_that_are_too_long_are_found_before_the_work(tmp_path: Path) -> None:
    for write in (storage.check_target, lambda path: storage.write(path, {}, MODEL)):
        with pytest.raises(OSError, match=r"^cannot write .*aaa: file name too long$"):
            write(tmp_path / ("a" * 300))


def test_storage_check_of_a_target_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    storage.check_target(tmp_path / "a")
    assert os.listdir(tmp_path) == []


@posix
def test_storage_refuses_devices_and_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", tmp_path / "pipe"):
        with pytest.raises(OSError, match="it is a device or a pipe, not a file"):
            storage.write(path, {}, MODEL)
        with pytest.raises(OSError, match="it is a device or a pipe, not a file"):
            storage.read(path, "model")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@posix
@not_root
def test_storage_checks_permissions_first(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o444)
    with pytest.raises(PermissionError, match="no permission to change it"):
        storage.write(tmp_path / "a", {}, MODEL)
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match="no permission to write in"):
        storage.write(tmp_path / "b", {}, MODEL)
    tmp_path.chmod(0o755)


@posix
def test_storage_keeps_permissions_and_links(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        storage.write(tmp_path / "new", {}, MODEL)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    (tmp_path / "link").symlink_to("new")
    storage.write(tmp_path / "link", arrays(), MODEL)
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o604
    assert sorted(storage.read(tmp_path / "new", "model")[0]) == sorted(arrays())


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_storage_interrupted_write_keeps_the_old_file(
    interruption: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write(tmp_path / "a", arrays(), MODEL)
    before = (tmp_path / "a").read_bytes()

    def interrupted(descriptor: int) -> None:
        raise interruption

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(type(interruption)) as caught:
        storage.write(tmp_path / "a", {}, MODEL)
    if isinstance(interruption, OSError):
        assert str(caught.value) == f"cannot write {tmp_path / 'a'}: no space left on device"
        assert caught.value.errno == errno.ENOSPC  # type: ignore[attr-defined]
    assert (tmp_path / "a").read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


@posix
def test_storage_reports_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from fastnet.io import storage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try: storage.write(sys.argv[1], {'a': np.zeros(1 << 16)}, {'kind': 'model'})\n"
        "except OSError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"cannot write {tmp_path / 'a'}: file too large\n"
    assert os.listdir(tmp_path) == []


KILLED = """
import sys, numpy as np
from fastnet.io import storage
for i in range(10**9):
    storage.write(sys.argv[1], {"a": np.full(200_000, i, "float32")}, {"kind": "checkpoint", "i": str(i)})
    if i == 0:
        print("started", flush=True)
"""


@pytest.mark.exhaustive
@posix
def test_storage_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    for moment in range(8):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"started\n"
            time.sleep(0.003 + 0.0137 * moment)
            process.send_signal(signal.SIGKILL)
        found, metadata = storage.read(path, "checkpoint")
        assert (found["a"] == int(metadata["i"])).all()
        assert found["a"].shape == (200_000,)


def test_storage_reads_headers_of_any_length(tmp_path: Path) -> None:
    """Of 1152 bytes, say, whose count begins as a pickle does."""
    for length in range(300):
        storage.write(tmp_path / "a", {}, {**MODEL, "text": "x" * 8 * length})
        assert storage.read(tmp_path / "a", "model")[1]["text"] == "x" * 8 * length


# ------------------------------------------------------------------------------------------ hostile files


def whole(tmp_path: Path) -> bytes:
    storage.write(tmp_path / "whole", arrays(), MODEL)
    return (tmp_path / "whole").read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:  # one line
        storage.read(path, "model")
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 600
    return str(caught.value)


def safetensors_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


OURS = {"__metadata__": {"format": "fastnet", "format_version": "1", "kind": "model"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a file that fastnet wrote"),
        (b"\x10\0\0", "is neither a model nor a checkpoint"),
        (b"a,b,c\n1,2,3\n4,5,6\n", "is neither a model nor a checkpoint"),
        (b"PK\x03\x04" + bytes(60), "a ZIP archive, as .npz"),
        (b"\x80\x04cos\nsystem\n(S'touch /tmp/fastnet-hostile'\ntR.", "a pickle, which fastnet never opens"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file, as Keras writes"),
        (safetensors_file(b"{}", length=2**63), "not a complete safetensors file .*header too large"),
        (safetensors_file(b"{}", length=2**25), "not a complete safetensors file .*it may be cut short"),
        (safetensors_file(b"{" * 100_000), "not a complete safetensors file"),
        (safetensors_file(b'{"a":' * 1000 + b"0" + b"}" * 1000), "not a complete safetensors file"),
        (safetensors_file(b'{"a\xff": 1}'), "not a complete safetensors file"),
        (safetensors_file({}), "fastnet did not write it"),
        (safetensors_file({"__metadata__": {"format": "pt"}}), "fastnet did not write it"),
        (safetensors_file({"__metadata__": {"format": "fastnet"}}), "format version ''; this fastnet reads 1"),
        (
            safetensors_file({"__metadata__": {**OURS["__metadata__"], "format_version": "2"}}),
            "has format version '2'; this fastnet reads 1: use a newer one",
        ),
        (
            safetensors_file({"__metadata__": {**OURS["__metadata__"], "kind": "checkpoint"}}),
            r"holds a checkpoint; expected a model; use fastnet.Trainer.resume\(path\)",
        ),
        (safetensors_file({"__metadata__": {**OURS["__metadata__"], "kind": "x" * 10**6}}), "holds a xxx"),
        (
            safetensors_file({**OURS, "a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)),
            "not a complete safetensors file",
        ),
        (
            safetensors_file({**OURS, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(9)),
            "not a complete safetensors file",
        ),
        (
            safetensors_file({**OURS, "a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, bytes(2)),
            "not a complete safetensors file .*float8",
        ),
        (
            safetensors_file(
                {**OURS, "a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}, bytes(8)
            ),
            "not a complete safetensors file",
        ),
        (safetensors_file({**OURS, "a": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}}), "a"),
        (
            safetensors_file({**OURS, "a": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}}, bytes(4)),
            "not a complete safetensors file .*dimension",
        ),
    ],
)
def test_storage_rejects_hostile_files_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    said = refused(tmp_path / "hostile", content)
    assert re.search(message, said), said
    assert not os.path.exists("/tmp/fastnet-hostile")


def test_storage_rejects_every_truncation(tmp_path: Path) -> None:
    content = whole(tmp_path)
    header = 8 + int.from_bytes(content[:8], "little")
    for end in {
        *range(12),
        *range(12, header, 37),
        header - 1,
        header,
        header + 1,
        *range(header, len(content), 29),
    }:
        refused(tmp_path / "cut", content[:end])
    refused(tmp_path / "longer", content + b"\0")


def test_storage_flipped_bits_are_rejected(tmp_path: Path) -> None:
    """In the header or in the data; only of a file in which the checksum's own name is damaged none is asked."""
    content, expected = whole(tmp_path), arrays()
    random = np.random.default_rng(0)
    path, said, loaded = tmp_path / "flipped", set(), 0
    for _ in range(1500):
        flipped = bytearray(content)
        flipped[random.integers(0, len(content))] ^= 1 << random.integers(0, 8)
        path.write_bytes(flipped)
        try:
            found, metadata = storage.read(path, "model")
        except ValueError as refusal:
            said.add(str(refusal))
        else:
            loaded += 1
            assert "checksum" not in metadata
            assert all(np.array_equal(found[name], array, equal_nan=True) for name, array in expected.items())
    assert loaded < 20
    assert any("is damaged: its checksum does not fit what it holds" in message for message in said)
    assert not any("\n" in message for message in said)


def test_storage_asks_no_checksum_of_files_that_have_none(tmp_path: Path) -> None:
    """As earlier versions and other programs write them."""
    content = whole(tmp_path)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    del header["__metadata__"]["checksum"]
    start = json.dumps(header).encode()
    start += b" " * (-len(start) % 8)
    path = tmp_path / "without"
    path.write_bytes(len(start).to_bytes(8, "little") + start + content[end:])
    found, _ = storage.read(path, "model")
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for name, array in arrays().items()
    }
