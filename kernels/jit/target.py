"""The CPU that Numba compiles for: its name, its features and its vector registers."""

import platform

import llvmlite.binding as llvm
import numba

from .numba_internals import target_triple

COMPILES = not numba.config.DISABLE_JIT
"""False if ``NUMBA_DISABLE_JIT`` asks for plain Python, as for coverage and debuggers."""

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
IS_ARM = platform.machine().lower() in ("arm64", "aarch64")


def target_cpu() -> str:
    """Return LLVM's name of the target CPU, such as "znver4"."""
    return target_triple()[1]


def is_host() -> bool:
    """Return whether this machine has all features of the target CPU, so that it can run compiled code."""
    found: bool = target_features() <= {name for name, has in llvm.get_host_cpu_features().items() if has}
    return found


def target_features() -> frozenset[str]:
    """Return LLVM's names of the target CPU's features, such as "avx2"."""
    return frozenset(flag[1:] for flag in target_triple()[2].split(",") if flag.startswith("+"))


def vector_bytes() -> int:
    """Return the width in bytes of the target CPU's widest vector registers: 64, 32 or 16."""
    features = target_features()
    if "avx512f" in features:
        return 64
    return 32 if "avx" in features else 16


def registers() -> int:
    """Return the number of the target CPU's vector registers: 32 with AVX-512 and on ARM, else 16."""
    return 32 if IS_ARM or "avx512f" in target_features() else 16
