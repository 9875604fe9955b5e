"""Files: arrays and text in safetensors files, written so that a reader finds the old file or the new one, whole.

Imports NumPy and safetensors. Nothing that is read is ever executed: there is no pickle here.

A file holds arrays by name and a mapping from text to text. Every file of fastnet's says so there, under
"format", and holds a "format_version" and a "kind" ("model" or "checkpoint"). The same arrays and text give
the same bytes.
"""

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors
from numpy.typing import NDArray

Array = NDArray[Any]
Path = str | os.PathLike[str]

FORMAT = "fastnet"
FORMAT_VERSION = 1
"""Raised whenever an older fastnet would read a newer file wrongly."""

KINDS = {"model": "fastnet.load(path)", "checkpoint": "fastnet.Trainer.resume(path)"}
"""What a file may be, and what reads it."""

_LARGEST_HEADER = 1 << 26  # bytes: column names of a few million inputs; safetensors itself allows 100 MB
_TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4", "U8": "|u1"}
_TYPES["BOOL"] = "|b1"
_NAMES = {name: dtype for dtype, name in _TYPES.items()}

_BEGINNINGS = {
    b"PK\x03\x04": "a ZIP archive, as .npz, .keras and PyTorch's .pt files are",
    b"\x93NUMPY": "a NumPy .npy file",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x80\x02": "a pickle, which fastnet never opens",
    b"\x80\x03": "a pickle, which fastnet never opens",
    b"\x80\x04": "a pickle, which fastnet never opens",
    b"\x80\x05": "a pickle, which fastnet never opens",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "a PNG image",
}

# ------------------------------------------------------------------------------------------ safetensors


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and text to a safetensors file, atomically.

    Whatever interrupts it, the file at ``path`` is afterwards the old one or the new one, whole.

    Parameters
    ----------
    path : str or path-like
        An existing file is replaced and keeps its permissions; a symbolic link keeps pointing where it did.
    arrays : mapping of str to ndarray
        Of any shape, of float64, float32, int64, uint64, int32, uint32, uint8 or bool.
    metadata : mapping of str to str
        With ``"kind"``: ``"model"`` or ``"checkpoint"``. ``"format"`` and ``"format_version"`` are added.

    Raises
    ------
    TypeError, ValueError
        If an array is of another dtype, a name or text is not a str, or the kind is unknown; nothing is written.
    OSError
        If the file cannot be written. The message names it and says why; what was there is untouched.
    """
    if metadata.get("kind") not in KINDS:
        raise ValueError(f"metadata has kind {metadata.get('kind')!r}; expected one of: {', '.join(KINDS)}")
    text = {**metadata, "format": FORMAT, "format_version": str(FORMAT_VERSION)}
    header: dict[str, Any] = {"__metadata__": {name: text[name] for name in sorted(text)}}
    if not all(isinstance(part, str) for part in (*arrays, *text, *text.values())):
        raise TypeError("names of arrays, and metadata, must be of type str")
    # Widest elements first, so that every array starts at a multiple of its element's size.
    stored = sorted(((name, _stored(name, array)) for name, array in arrays.items()), key=_by_width)
    end = 0
    for name, array in stored:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype.str], "shape": list(array.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > _LARGEST_HEADER:
        raise ValueError(f"cannot write {os.fspath(path)}: its names and metadata take more than 64 MiB")
    with replacing(path) as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for _, array in stored:
            file.write(array.data if array.size else b"")


def _by_width(item: tuple[str, Array]) -> tuple[int, str]:
    return -item[1].itemsize, item[0]


def _stored(name: str, array: Array) -> Array:
    """The array, contiguous and little-endian."""
    if name == "__metadata__":
        raise ValueError("an array cannot be called __metadata__: safetensors keeps its text there")
    little = array.dtype.newbyteorder("<")
    if little.str not in _NAMES:
        raise TypeError(f"array {name!r} has dtype {array.dtype}; a file holds {', '.join(map(_spelled, _NAMES))}")
    return np.asarray(array, dtype=little, order="C")


def _spelled(dtype: str) -> str:
    return np.dtype(dtype).name


def read(path: Path, kind: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a file that `write` wrote.

    Parameters
    ----------
    path : str or path-like
    kind : str
        "model" or "checkpoint": what the file must be.

    Returns
    -------
    arrays : dict of str to ndarray
        Writable arrays of their own. Their values are not looked at: they may hold NaN.
    metadata : dict of str to str

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is anything but a whole safetensors file of this kind and a known version. The message names
        the file, says what is wrong with it, and is one line.
    """
    shown_path = display_path(path)
    raw = _raw(path, shown_path)
    parse: Any = safetensors.deserialize  # which has no types
    try:
        found = parse(raw)
    except MemoryError:
        raise
    except Exception as error:  # SafetensorError has no narrower base
        reason = " ".join(str(error).split()).removeprefix("Error while deserializing: ")
        raise ValueError(f"{shown_path} is no whole safetensors file ({reason[:200]}); it may be cut short") from None
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    _check_kind(shown_path, metadata, kind)
    return {name: _restored(shown_path, name, entry) for name, entry in found}, metadata


def _raw(path: Path, shown_path: str) -> bytes:
    """The file's bytes, once its beginning has been found plausible."""
    with reading(path) as file:
        start = file.read(8)
        size = os.fstat(file.fileno()).st_size
        if not start:
            raise ValueError(f"{shown_path} is empty; expected a safetensors file")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or file.read(1) != b"{":
            # Looked for only now: a header of 1152 bytes begins like a pickle.
            for beginning, what in _BEGINNINGS.items():
                if start.startswith(beginning):
                    raise ValueError(f"{shown_path} is {what}; expected a safetensors file that fastnet wrote")
            raise ValueError(f"{shown_path} is not a safetensors file")
        if length > _LARGEST_HEADER:
            raise ValueError(f"{shown_path} is not a safetensors file: its header would take {length:,} bytes")
        if 8 + length > size:
            raise ValueError(f"{shown_path} is cut short: it has {size:,} bytes, and its header alone {8 + length:,}")
        file.seek(0)
        return file.read()


def _check_kind(shown_path: str, metadata: Mapping[str, str], kind: str) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{shown_path} is a safetensors file, but fastnet did not write it: its metadata has no format={FORMAT!r}; "
            "build a Network of these sizes and copy the weights into net.weights and net.biases"
        )
    version = metadata.get("format_version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 10 and int(version) > 0):
        raise ValueError(f"{shown_path} has format version {version[:40]!r}; expected a whole number")
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"{shown_path} has format version {version}; this fastnet reads up to {FORMAT_VERSION}: use a newer one"
        )
    found = metadata.get("kind", "")
    if found != kind:
        use = f"; use {KINDS[found]}" if found in KINDS else ""
        raise ValueError(f"{shown_path} holds a {found[:40] or 'thing without a kind'}; expected a {kind}{use}")


def _restored(shown_path: str, name: str, entry: Mapping[str, Any]) -> Array:
    if entry["dtype"] not in _TYPES:
        raise ValueError(f"{shown_path}: array {name[:80]!r} is of type {entry['dtype']}; expected {', '.join(_TYPES)}")
    little = np.frombuffer(entry["data"], _TYPES[entry["dtype"]])
    try:
        array = little.reshape(entry["shape"])
    except (ValueError, OverflowError):
        raise ValueError(f"{shown_path}: array {name[:80]!r} cannot have shape {entry['shape']}") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


# ---------------------------------------------------------------------------------------------- networks


class NetworkDescription(NamedTuple):
    """What a file says of a network; its arrays have been found to fit."""

    layer_sizes: list[int]
    activations: list[str]
    dtype: str
    seed: int
    loss: str | None
    preparation: str | None


def state_dict(
    network: NetworkDescription, weights: Sequence[Array], biases: Sequence[Array]
) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays and metadata of a network, for `write`; a checkpoint adds its own to them.

    Weights are ``layers.0.weight`` (k, n) and ``layers.0.bias`` (k,), as PyTorch's ``nn.Linear`` holds them.
    """
    arrays = {}
    for i, (W, b) in enumerate(zip(weights, biases, strict=True)):
        arrays[f"layers.{i}.weight"], arrays[f"layers.{i}.bias"] = W, b
    metadata = {
        "layer_sizes": json.dumps(network.layer_sizes),
        "activations": json.dumps(network.activations),
        "dtype": network.dtype,
        "seed": str(network.seed),
        "loss": network.loss or "",
    }
    if network.preparation is not None:
        metadata["preparation"] = network.preparation
    return arrays, metadata


def description(shown_path: str, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> NetworkDescription:
    """What `state_dict` wrote, once the arrays' names, shapes and dtypes have been found to fit.

    Nothing as large as the layer sizes claim is allocated before.

    Raises
    ------
    ValueError
        If anything is missing or does not fit; the message begins with ``named``.
    """
    try:
        sizes, activations = (json.loads(metadata[name]) for name in ("layer_sizes", "activations"))
        dtype, seed, loss = metadata["dtype"], int(metadata["seed"]), metadata["loss"]
    except KeyError as missing:
        raise ValueError(f"{shown_path} has no {missing} in its metadata") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{shown_path} describes its layers otherwise than fastnet does") from None
    if not isinstance(sizes, list) or len(sizes) < 2 or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"{shown_path} has layer sizes {str(sizes)[:80]}; expected at least two whole numbers above 0")
    if not isinstance(activations, list) or len(activations) != len(sizes) - 1:
        raise ValueError(
            f"{shown_path} names activations {str(activations)[:80]}; expected one for each of {len(sizes) - 1}"
        )
    for i, (n, k) in enumerate(pairwise(sizes)):
        for name, shape in ((f"layers.{i}.weight", (k, n)), (f"layers.{i}.bias", (k,))):
            if name not in arrays:
                raise ValueError(f"{shown_path} holds no array {name!r}")
            found = arrays[name]
            if found.shape != shape or found.dtype.name != dtype:
                raise ValueError(
                    f"{shown_path}: {name} has shape {found.shape} and dtype {found.dtype}; its metadata say "
                    f"{shape} and {dtype[:40]}"
                )
    return NetworkDescription(sizes, activations, dtype, seed, loss or None, metadata.get("preparation"))


# --------------------------------------------------------------------------------- opening and replacing


def display_path(path: Path) -> str:
    """The path as one line of text."""
    return ascii(os.fspath(path))[1:-1] if not os.fspath(path).isprintable() else os.fspath(path)


def reading(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises
    ------
    OSError
        If there is none, or it is a folder or a device, or may not be read; the message is one line.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # a pipe would be waited for, and a device may never end
            what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise _refusal("read", path, errno.EINVAL, f"it is {what}, not a file")
        return open(path, "rb")
    except OSError as error:
        if error.strerror is None:
            raise
        raise _refusal("read", path, error.errno, error.strerror) from None


def check_target(path: Path) -> str:
    """Refuse a path that could not be written; return the file that would be replaced or made, links followed.

    Raises
    ------
    OSError
        If the path is a folder or a device, its folder is missing, or one of them may not be written.
    """
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


def _refusal(verb: str, path: Path, code: int | None, why: str) -> OSError:
    """An error of the class that belongs to the code, whose text is a sentence."""
    error = type(OSError(code, ""))(f"cannot {verb} {display_path(path)}: {why[:1].lower() + why[1:]}")
    error.errno = code
    return error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside ``path`` that takes its place when the block ends, or vanishes if it raises.

    Yields
    ------
    BinaryIO

    Raises
    ------
    OSError
        If it cannot be written; the message names ``path``.
    """
    target = check_target(path)
    folder, name = os.path.split(target)
    # Not tempfile, whose files only their owner may read: open() applies the umask, as for any new file.
    temporary = os.path.join(folder, f".{name[:40]}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
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
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make the new name last through a power cut, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
