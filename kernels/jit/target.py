"""target."""

import platform

import numba
from numba.core.registry import cpu_target

COMPILES = not numba.config.DISABLE_JIT
"""False where ``NUMBA_DISABLE_JIT`` asks for plain Python, as coverage and debuggers do."""


# ------------------------------------------------------------------------------- the CPU compiled for


def _target() -> tuple[str, str, str]:
    """Numba's own answer (triple, CPU, features): the host, or what NUMBA_CPU_NAME and its like ask for."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return str(triple), str(cpu), str(features)


def target_cpu() -> str:
    """Name of the CPU that Numba compiles for."""
    return _target()[1]


def target_features() -> frozenset[str]:
    """Features of the CPU that Numba compiles for, such as "avx2"."""
    return frozenset(flag[1:] for flag in _target()[2].split(",") if flag.startswith("+"))


def vector_bytes() -> int:
    """Width in bytes of the widest vector register of the CPU compiled for: 64, 32 or 16."""
    features = target_features()
    if "avx512f" in features:
        return 64
    return 32 if "avx" in features else 16


def registers() -> int:
    """Count of vector registers of the CPU compiled for: 32 with AVX-512 and on ARM, else 16."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return 32 if arm or "avx512f" in target_features() else 16
