"""Facts about the CPU, as the operating system tells them."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

#: Linux's file about the processors.
INFORMATION = Path("/proc/cpuinfo")
#: Instruction sets that matter for matrix products and for int8, by their names in that file.
FEATURES = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
)
#: Those that multiply and add bytes.
INT8_FEATURES = frozenset(("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"))


def name() -> str:
    """Returns the processor's name, or its architecture where the system does not tell the name."""
    found = re.search(r"^model name\s*: (.+)", _information(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def features() -> list[str]:
    """Returns those of `FEATURES` that the processor has; none where the system does not tell."""
    flags = _flags()
    return [feature for feature in FEATURES if feature in flags]


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_amd_with_avx2() -> bool:
    """Returns whether this is an AMD processor with AVX2."""
    return "AuthenticAMD" in _information() and "avx2" in _flags()


def multiplies_bytes() -> bool | None:
    """Returns whether the processor has int8 instructions, without which int8 saves size only; None if unknown."""
    flags = _flags()
    if flags:
        return not INT8_FEATURES.isdisjoint(flags)
    return True if platform.machine() == "arm64" else None  # all of Apple's own chips have them


def _flags() -> set[str]:
    return set(" ".join(re.findall(r"^(?:flags|Features)\s*: (.+)", _information(), re.MULTILINE)).split())


def _information() -> str:
    try:
        return INFORMATION.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
