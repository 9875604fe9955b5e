"""Model files: arrays and metadata in safetensors files, which replace an older file atomically.

A file holds named arrays, and metadata that map text to text. The metadata of every file that fastnet writes hold
"format", "format_version", "kind" (a key of `KINDS`) and "checksum", which detects damage by a disk or a transfer;
files without a checksum are accepted. Equal arrays and metadata give equal bytes.
Reading a file never executes anything in it: no pickle is involved.
"""

import errno
import json
import os
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy

from ..kernels.specs.base import Array

Path = str | os.PathLike[str]

FORMAT = "fastnet"
FORMAT_VERSION = "1"
"""Must change whenever an older fastnet would misread a newer file."""

KINDS = {
    "model": "fastnet.load(path)",
    "ensemble": "fastnet.load(path)",
    "checkpoint": "fastnet.Trainer.resume(path)",
}
"""The kinds of files, and the function that reads each."""

_SIGNATURES = {
    b"PK\x03\x04": "a ZIP archive, as .npz, .keras and PyTorch's .pt files are; a table's model, .skops, is opened by "
    "fastnet.table_model.load and by fastnet predict",
    b"\x93NUMPY": "a NumPy .npy file",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x80": "a pickle, which fastnet never opens",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "a PNG image",
    b"": "neither a model nor a checkpoint",
}

_FORMATS = {
    ".safetensors": "safetensors (Network.save writes that)",
    ".skops": "skops (TableModel.save writes that)",
    ".onnx": "ONNX (to_onnx, and fastnet export MODEL FILE.onnx, write that)",
    ".csv": "CSV",
    ".json": "JSON",
    ".html": "a web page",
    ".gz": "gzip",
    **dict.fromkeys((".npy", ".npz"), "arrays of NumPy"),
    **dict.fromkeys((".parquet", ".feather", ".xlsx"), "a table"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), "pickle (fastnet never writes that)"),
    **dict.fromkeys((".pt", ".pth"), "a file of PyTorch"),
    **dict.fromkeys((".h5", ".keras"), "a file of Keras"),
    **dict.fromkeys((".png", ".svg", ".pdf"), "an image"),
}
"""The content that a file's suffix promises."""

# ------------------------------------------------------------------------------------------ safetensors


def _checksum(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Return a CRC-32 of names, dtypes, shapes, values and metadata."""
    shapes = {name: (array.dtype.newbyteorder("<").str, array.shape) for name, array in arrays.items()}
    text = {name: value for name, value in metadata.items() if name != "checksum"}
    found = zlib.crc32(json.dumps([shapes, text], sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        found = zlib.crc32(little_endian.reshape(-1).view(np.uint8).data, found)
    return f"crc32:{found:08x}"


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to a safetensors file, atomically.

    After an interruption of any kind, the file at ``path`` is the complete old one or the complete new one.

    Parameters
    ----------
    path : str or path-like
        An existing file is replaced and keeps its permissions; a symbolic link is followed, not replaced.
    arrays : mapping of str to ndarray
        Of any shape, and of any dtype that both safetensors and NumPy support.
    metadata : mapping of str to str
        With ``"kind"``, a key of `KINDS`. ``"format"``, ``"format_version"`` and ``"checksum"`` are added.

    Raises
    ------
    TypeError, safetensors.SafetensorError
        If an array has another dtype, or a name or text is not a str; nothing is written.
    OSError
        If the file cannot be written. The message names it and the reason; an existing file is unchanged.
    ValueError
        If its suffix is that of another format.
    """
    check_suffix(path, ".safetensors")
    text = {**metadata, "format": FORMAT, "format_version": FORMAT_VERSION}
    # safetensors copies an array's memory as if the array were contiguous.
    contiguous = {name: np.asarray(array, array.dtype.newbyteorder("<"), "C") for name, array in arrays.items()}
    encoded = safetensors.numpy.save(contiguous, text)
    text["checksum"] = _checksum(contiguous, text)
    end = 8 + int.from_bytes(encoded[:8], "little")
    # safetensors writes the metadata in an arbitrary order.
    header = json.loads(encoded[8:end]) | {"__metadata__": dict(sorted(text.items()))}
    start = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    start += b" " * (-len(start) % 8)  # the data begin at a multiple of 8 bytes
    with replacing(path) as file:
        file.writelines((len(start).to_bytes(8, "little"), start, memoryview(encoded)[end:]))


def read(path: Path, *kinds: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a file that `write` wrote.

    Parameters
    ----------
    path : str or path-like
    *kinds : str
        Keys of `KINDS`; the file must be of one of these kinds.

    Returns
    -------
    arrays : dict of str to ndarray
        Writable copies. Their values are not checked: they may be NaN.
    metadata : dict of str to str

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is not a complete safetensors file of these kinds and a known version, or damaged. The message is one line
        that names the file and says what is wrong with it.
    """
    shown_path = display_path(path)
    with reading(path) as file:
        start = file.read(9)
    if start[8:] != b"{":  # checked first, because the file of a header of 1152 bytes begins like a pickle
        what = next(what for signature, what in _SIGNATURES.items() if start.startswith(signature))
        raise ValueError(f"{shown_path} is {what if start else 'empty'}; expected a file that fastnet wrote")
    try:
        with safetensors.safe_open(path, framework="numpy") as content:
            metadata = content.metadata() or {}
            is_ours = metadata.get("format") == FORMAT  # other files may hold dtypes that NumPy lacks
            arrays = {name: content.get_tensor(name) for name in content.keys() if is_ours}  # noqa: SIM118
    except (safetensors.SafetensorError, AttributeError, OverflowError, TypeError, ValueError) as error:
        reason = printable(" ".join(str(error).split())[:200])
        raise ValueError(f"{shown_path} is not a complete safetensors file ({reason}); it may be cut short") from None
    _check_kind(shown_path, metadata, kinds)
    if "checksum" in metadata and metadata["checksum"] != _checksum(arrays, metadata):
        raise ValueError(
            f"{shown_path} is damaged: its checksum does not fit what it holds; take another copy. If a program has "
            'changed it on purpose, have it leave "checksum" out of the metadata'
        )
    return arrays, metadata


def _check_kind(shown_path: str, metadata: Mapping[str, str], kinds: tuple[str, ...]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{shown_path} is a safetensors file, but fastnet did not write it: its metadata has no format={FORMAT!r}; "
            "build a Network of these sizes and copy the weights into net.weights and net.biases"
        )
    version, found = metadata.get("format_version", ""), metadata.get("kind", "")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{shown_path} has format version {version[:40]!r}; this fastnet reads {FORMAT_VERSION}: use a newer one"
        )
    if found not in kinds:
        what = f"a{'n' * (found == 'ensemble')} {printable(found[:40]) or 'thing without a kind'}"
        use = f"; use {KINDS[found]}" if found in KINDS else ""
        raise ValueError(f"{shown_path} holds {what}; expected a {' or '.join(kinds)}{use}")


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Turn errors about the content of a file into a ValueError of one line that begins with the file's name."""
    try:
        yield
    except KeyError as missing:
        raise ValueError(f"{display_path(path)} lacks {missing}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{display_path(path)}: {printable(str(error))}") from None


def parse(metadata: Mapping[str, str], name: str) -> Any:
    """Parse an entry of the metadata as JSON."""
    try:
        return json.loads(metadata[name])
    except (ValueError, RecursionError):
        raise ValueError(f"its {name!r} is not as fastnet writes it") from None


# --------------------------------------------------------------------------------- opening and replacing


def display_path(path: Path) -> str:
    """Return the path as one line of text.

    Raises
    ------
    TypeError
        If it is not a path, such as None, or a number, which would be taken for a file descriptor.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path is {path!r}; expected the name of a file, a str or pathlib.Path")
    return printable(os.fspath(path))


def printable(text: str) -> str:
    """Return text from a file, or its name, as one line without terminal control characters."""
    return text if text.isprintable() else ascii(text)[1:-1]


def reading(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises
    ------
    OSError
        If it does not exist, is a folder or a device, or may not be read; the message is one line.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would block, and a device may have no end
        what = "a folder" if os.path.isdir(path) else "a device or a pipe"
        raise _refusal("read", path, errno.EINVAL, f"it is {what}, not a file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise _refusal("read", path, error.errno, os.strerror(error.errno or 0)) from None


def check_suffix(path: Path, own: str) -> None:
    """Reject a path whose suffix is that of another format than ``own``, such as ".csv".

    Raises
    ------
    TypeError
        If the path is neither text nor path-like.
    ValueError
        If its suffix is that of another format; unknown suffixes are allowed.
    """
    shown = display_path(path)
    suffix = str(os.path.splitext(path)[1]).lower()
    said = _FORMATS.get(suffix)
    if said is not None and suffix != own:
        ours = _FORMATS[own].partition(" (")[0]
        raise ValueError(f"cannot write {shown}: it would hold {ours}, but its name says {said}; end it in {own}")


def check_target(path: Path) -> None:
    """Check that a path can be written, by creating a file in its folder and deleting it at once.

    Raises
    ------
    OSError
        If the path is a folder or a device, its folder is missing, or one of them may not be written.
    """
    target = _target(path)
    try:
        os.lstat(target)
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long
        raise _refusal("write", path, error.errno, os.strerror(error.errno or 0)) from None
    temporary = _name_beside(target)
    try:
        _new_file(temporary, path).close()
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _target(path: Path) -> str:
    """Return the file that would be replaced or created, with links resolved; raise as `check_target`."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if os.path.isdir(target) or os.fspath(path).endswith(os.sep):
        raise _refusal("write", path, errno.EISDIR, "it is a folder; name a file in it")
    if not os.path.isdir(folder):
        raise _refusal("write", path, errno.ENOENT, f"there is no folder {display_path(folder)}")
    if os.path.exists(target) and not os.path.isfile(target):
        raise _refusal("write", path, errno.EINVAL, "it is a device or a pipe, not a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refusal("write", path, errno.EACCES, f"no permission to write in {display_path(folder)}")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise _refusal("write", path, errno.EACCES, "no permission to change it")
    return target


def _name_beside(target: str) -> str:
    """Return a name for a new temporary file in the folder of ``target``."""
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name[:40]}.{os.getpid()}-{secrets.token_hex(8)}.tmp")


def _new_file(temporary: str, path: Path) -> BinaryIO:
    """Create and open a temporary file that will replace ``path``; error messages name ``path``."""
    try:  # not tempfile, whose files only the owner may read: open() applies the umask, as for any new file
        return open(temporary, "xb")
    except OSError as error:
        folder, reason = display_path(os.path.dirname(temporary)), os.strerror(error.errno or 0).lower()
        raise _refusal("write", path, error.errno, f"no file can be made in {folder} ({reason})") from None


def _refusal(verb: str, path: Path, code: int | None, why: str) -> OSError:
    """Make an OSError of the class for the error code, with a sentence as its message."""
    error = type(OSError(code, ""))(f"cannot {verb} {display_path(path)}: {why[:1].lower() + why[1:]}")
    error.errno = code
    return error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside ``path`` that replaces it when the block ends, and is deleted if the block raises.

    Yields
    ------
    BinaryIO

    Raises
    ------
    OSError
        If it cannot be written; the message names ``path``.
    """
    target = _target(path)
    temporary = _name_beside(target)
    try:
        with _new_file(temporary, path) as file:
            with suppress(OSError):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:  # Ctrl-C too
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.strerror:
            raise _refusal("write", path, error.errno, error.strerror) from error
        raise
    with suppress(OSError):  # so that the new name survives a power failure; Windows cannot open folders
        descriptor = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
