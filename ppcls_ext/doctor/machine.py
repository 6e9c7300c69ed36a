"""The machine: processor, threads, memory, GPUs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ppcls_ext.doctor.finding import Finding
from ppcls_ext.hosts.threads import VARIABLE, usable_cores

#: What makes matrix products, or int8, fast, in /proc/cpuinfo's words.
FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm")
LEAST_MEMORY = 2.0  # GiB; a training of the smallest nets takes about one


def python() -> Finding:
    """The Python that runs."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    return Finding("Python", text, "" if sys.version_info >= (3, 9) else "expected 3.9 or newer")


def processor() -> Finding:
    """The processor's name, the cores that this process may use, and its instruction sets."""
    text = _read("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.+)", text, re.MULTILINE)
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*: (.+)", text, re.MULTILINE)).split())
    found = " ".join(feature for feature in FEATURES if feature in flags)
    model = name[1] if name else platform.processor() or platform.machine()
    return Finding("CPU", f"{model}, {usable_cores()} cores: {found or 'instruction sets unknown'}")


def threads() -> Finding:
    """How many threads Paddle computes with."""
    given, cores = os.environ.get(VARIABLE), usable_cores()
    if given is None:
        return Finding("threads", f"{cores}, all cores ({VARIABLE} is not set)")
    if not given.isdecimal() or int(given) < 1:
        return Finding("threads", f"{VARIABLE} is {given!r}", "expected a whole number from 1; unset it for all cores")
    more = f"; unset {VARIABLE} to use all {cores} cores" if int(given) < cores else ""
    return Finding("threads", f"{given} ({VARIABLE} is set{more})")


def memory() -> Finding:
    """Memory that is free, of all that this process may use."""
    known = {key: int(value) / 2**20 for key, value in re.findall(r"^(\w+): +(\d+) kB", _read("/proc/meminfo"), re.M)}
    if "MemTotal" not in known:
        return Finding("memory", "unknown on this system")
    total, free = known["MemTotal"], known.get("MemAvailable", known["MemTotal"])
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdecimal() and int(limit) / 2**30 < total:
        total = int(limit) / 2**30
        used = _read("/sys/fs/cgroup/memory.current").strip()
        free = min(free, total - int(used) / 2**30) if used.isdecimal() else min(free, total)
    text = f"{free:.1f} of {total:.1f} GiB free"
    return Finding("memory", text, "" if free >= LEAST_MEMORY else "close other programs, or train with small batches")


def gpu() -> Finding:
    """GPUs, and whether this Paddle can use them."""
    names = _nvidia()
    try:
        import paddle
    except ImportError:
        return Finding("GPU", ", ".join(names) or "none")
    if paddle.device.is_compiled_with_cuda():
        count = paddle.device.cuda.device_count()
        if count or not names:
            return Finding("GPU", f"{count} for Paddle: {', '.join(names) or 'none'}")
        text = f"{', '.join(names)}, which Paddle does not find"
        return Finding("GPU", text, "check the driver and CUDA_VISIBLE_DEVICES")
    if names:
        advice = "install paddlepaddle-gpu in its place, as Paddle's installation page says"
        return Finding("GPU", f"{', '.join(names)}, and this Paddle is for CPUs", advice)
    return Finding("GPU", "none: everything runs on the CPU")


def _nvidia() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
