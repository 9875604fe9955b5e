"""Reads names and sizes of compiled functions from object files."""

import re
import struct

_SYMBOL_TABLE, _FUNCTION, _LOCAL = 2, 2, 0


def demangle(symbol: str) -> str:
    """Demangle a Numba symbol to modules and name, without types."""
    names, rest = [], symbol.removeprefix("_ZN")
    while rest != symbol and (length := re.match(r"\d+", rest)):
        end = length.end() + int(length[0])
        names.append(rest[length.end() : end])
        rest = rest[end:]
    return ".".join(names) or symbol


def function_sizes(code: bytes) -> dict[str, int]:
    """Return the size in bytes of each non-local function that an object file defines; empty if it is not ELF64."""
    if code[:5] != b"\x7fELF\x02":
        return {}
    (sections,) = struct.unpack_from("<Q", code, 0x28)
    entry_size, count = struct.unpack_from("<HH", code, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", code, sections + i * entry_size) for i in range(count)]
    found = {}
    for _, kind, _, _, offset, size, link, _, _, _ in headers:
        if kind == _SYMBOL_TABLE:
            names = headers[link][4]
            for name, info, _, section, _, length in struct.iter_unpack("<IBBHQQ", code[offset : offset + size]):
                if info & 15 == _FUNCTION and info >> 4 != _LOCAL and section and length:
                    begin = names + name
                    found[code[begin : code.index(b"\0", begin)].decode()] = length
    return found
