"""Model files: arrays and text in safetensors files, which replace an older file as a whole or not at all.

A file holds arrays by name and metadata, a mapping from text to text. The metadata of every file that fastnet writes
hold "format", "format_version" and "kind" ("model" or "checkpoint"). Equal arrays and metadata give equal bytes.
Reading a file never executes anything in it: no pickle is involved.
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
import safetensors.numpy
from numpy.typing import NDArray

Array = NDArray[Any]
Path = str | os.PathLike[str]

FORMAT = "fastnet"
FORMAT_VERSION = 1
"""Increased whenever an older fastnet would misread a newer file."""

KINDS = {"model": "fastnet.load(path)", "checkpoint": "fastnet.Trainer.resume(path)"}
"""The kinds of files, and the function that reads each."""

_MAX_HEADER_BYTES = 1 << 26  # column names of a few million inputs; safetensors itself allows 100 MB
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "I64": "<i8",
    "U64": "<u8",
    "I32": "<i4",
    "U32": "<u4",
    "U8": "|u1",
    "BOOL": "|b1",
}

_SIGNATURES = {
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
    """Write arrays and metadata to a safetensors file, atomically.

    After an interruption of any kind, the file at ``path`` is the complete old one or the complete new one.

    Parameters
    ----------
    path : str or path-like
        An existing file is replaced and keeps its permissions; a symbolic link is followed, not replaced.
    arrays : mapping of str to ndarray
        Of any shape, of float64, float32, int64, uint64, int32, uint32, uint8 or bool.
    metadata : mapping of str to str
        With ``"kind"``: ``"model"`` or ``"checkpoint"``. ``"format"`` and ``"format_version"`` are added.

    Raises
    ------
    TypeError, ValueError
        If an array has another dtype, a name or text is not a str, or the kind is unknown; nothing is written.
    OSError
        If the file cannot be written. The message names it and the reason; an existing file is unchanged.
    """
    if metadata.get("kind") not in KINDS:
        raise ValueError(f"metadata has kind {metadata.get('kind')!r}; expected one of: {', '.join(KINDS)}")
    text = {**metadata, "format": FORMAT, "format_version": str(FORMAT_VERSION)}
    if not all(isinstance(part, str) for part in (*arrays, *text, *text.values())):
        raise TypeError("names of arrays, and metadata, must be of type str")
    encoded = _sorted_metadata(safetensors.numpy.save({name: _storable(name, a) for name, a in arrays.items()}, text))
    if int.from_bytes(encoded[0][:8], "little") > _MAX_HEADER_BYTES:
        raise ValueError(f"cannot write {os.fspath(path)}: its names and metadata take more than 64 MiB")
    with replacing(path) as file:
        file.writelines(encoded)


def _sorted_metadata(encoded: bytes) -> tuple[bytes, memoryview]:
    """Sort the metadata of a safetensors file, which the library writes in an arbitrary order: header and data."""
    end = 8 + int.from_bytes(encoded[:8], "little")
    header = json.loads(encoded[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text, memoryview(encoded)[end:]


def _storable(name: str, array: Array) -> Array:
    """Convert an array to a contiguous little-endian one of a dtype that a file may hold."""
    if name == "__metadata__":
        raise ValueError("an array cannot be called __metadata__: safetensors keeps its text there")
    dtype = array.dtype.newbyteorder("<")
    if dtype.str not in _DTYPES.values():
        known = ", ".join(np.dtype(known).name for known in _DTYPES.values())
        raise TypeError(f"array {name!r} has dtype {array.dtype}; a file holds {known}")
    return np.asarray(array, dtype=dtype, order="C")


def read(path: Path, kind: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a file that `write` wrote.

    Parameters
    ----------
    path : str or path-like
    kind : str
        "model" or "checkpoint": the kind that the file must be of.

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
        If it is not a complete safetensors file of this kind and a known version. The message is one line that
        names the file and says what is wrong with it.
    """
    shown_path = display_path(path)
    raw = _file_bytes(path, shown_path)
    parse: Any = safetensors.deserialize  # has no type annotations
    try:
        found = parse(raw)
    except MemoryError:
        raise
    except Exception as error:  # SafetensorError has no narrower base
        reason = " ".join(str(error).split()).removeprefix("Error while deserializing: ")
        raise ValueError(
            f"{shown_path} is not a complete safetensors file ({reason[:200]}); it may be cut short"
        ) from None
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    _check_kind(shown_path, metadata, kind)
    return {name: _decoded(shown_path, name, entry) for name, entry in found}, metadata


def _file_bytes(path: Path, shown_path: str) -> bytes:
    """Read a file whose first bytes are those of a safetensors file."""
    with reading(path) as file:
        start = file.read(8)
        size = os.fstat(file.fileno()).st_size
        if not start:
            raise ValueError(f"{shown_path} is empty; expected a safetensors file")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or file.read(1) != b"{":
            # Checked only now, because a header of 1152 bytes begins with the same bytes as a pickle.
            for signature, what in _SIGNATURES.items():
                if start.startswith(signature):
                    raise ValueError(f"{shown_path} is {what}; expected a safetensors file that fastnet wrote")
            raise ValueError(f"{shown_path} is not a safetensors file")
        if length > _MAX_HEADER_BYTES:
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


def _decoded(shown_path: str, name: str, entry: Mapping[str, Any]) -> Array:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(
            f"{shown_path}: array {name[:80]!r} is of type {entry['dtype']}; expected {', '.join(_DTYPES)}"
        )
    little = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]])
    try:
        array = little.reshape(entry["shape"])
    except (ValueError, OverflowError):
        raise ValueError(f"{shown_path}: array {name[:80]!r} cannot have shape {entry['shape']}") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


# ---------------------------------------------------------------------------------------------- networks


class NetworkDescription(NamedTuple):
    """The metadata of a network, which its arrays are known to match."""

    layer_sizes: list[int]
    activations: list[str]
    dtype: str
    seed: int
    loss: str | None
    preparation: str | None


def state_dict(
    network: NetworkDescription, weights: Sequence[Array], biases: Sequence[Array]
) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and metadata of a network, for `write`; a checkpoint adds its own to them.

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
    """Read the metadata that `state_dict` returned, and check the arrays' names, shapes and dtypes against them.

    No array of the size that the metadata claim is allocated before they are checked.

    Raises
    ------
    ValueError
        If anything is missing or does not match; the message begins with ``shown_path``.
    """
    try:
        sizes, activations = (json.loads(metadata[name]) for name in ("layer_sizes", "activations"))
        dtype, seed, loss = metadata["dtype"], int(metadata["seed"]), metadata["loss"]
    except KeyError as missing:
        raise ValueError(f"{shown_path} has no {missing} in its metadata") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{shown_path} describes its layers in a way that fastnet does not write") from None
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
    """Return the path as one line of text."""
    return ascii(os.fspath(path))[1:-1] if not os.fspath(path).isprintable() else os.fspath(path)


def reading(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises
    ------
    OSError
        If it does not exist, is a folder or a device, or may not be read; the message is one line.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # reading a pipe would block, and a device may have no end
            what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise _refusal("read", path, errno.EINVAL, f"it is {what}, not a file")
        return open(path, "rb")
    except OSError as error:
        if error.strerror is None:
            raise
        raise _refusal("read", path, error.errno, error.strerror) from None


def check_target(path: Path) -> str:
    """Check that a path can be written; return the file that would be replaced or created, with links resolved.

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
    """Make an OSError of the class that belongs to the code, with a sentence as its message."""
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
    target = check_target(path)
    folder, name = os.path.split(target)
    # Not tempfile, whose files only the owner may read: open() applies the umask, as for any new file.
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
    """Make the new name survive a power failure, where the system allows it."""
    with suppress(OSError):  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
