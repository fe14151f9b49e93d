"""The machine, the commit and the versions behind a measurement.

Imports of JAX are lazy, because they would add to the memory of the children of `benchmarks.processes`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, version

ROOT = Path(__file__).parents[1]


def threads() -> int:
    """Return the number of threads of each library: as many as XLA uses."""
    from jaxlstm.kernels.cpu.threads import available_threads

    return available_threads()


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory, and take memory from one arena; do nothing without glibc.

    A training step takes hundreds of megabytes. Some virtual machines give free memory back to the host, and
    getting it again can take longer than the step, at random and for every library.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8  # from malloc.h
    for option, value in ((m_trim_threshold, 2**31 - 1), (m_mmap_threshold, 2**31 - 1), (m_arena_max, 1)):
        ctypes.CDLL(None).mallopt(option, value)


def identity() -> dict[str, Any]:
    """Return the commit, or None outside of a clone, and the processor."""
    return {"commit": _git("rev-parse", "HEAD"), "cpu": cpu_name(), "cpus": os.cpu_count()}


def is_dirty() -> bool:
    """Return True if files differ from the commit, other than results and pages."""
    return bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs", ":!README.md"))


def details() -> dict[str, Any]:
    """Return devices, threads, the native kernel in use, and versions of all libraries."""
    import jax

    from jaxlstm import kernels

    kernel = kernels.info()
    if kernel["native"]:
        del kernel["reason"]  # a path on this machine
    names = dict.fromkeys(name for peer in PEERS.values() for name in peer.distributions)
    versions = {name: version(name) for name in ("jaxlstm", "jax", "jaxlib", "numpy", *names, "safetensors")}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "devices": [device.device_kind for device in jax.devices()],
        "threads": threads(),
        "kernels": kernel,
        "versions": {"python": platform.python_version()} | {n: v for n, v in versions.items() if v},
    }


def cpu_name() -> str:
    """Return the CPU's model name on Linux, elsewhere its family.

    A virtual machine may hide the number of the model, as in "AMD EPYC"; family and model follow such a name.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            fields = [[part.strip() for part in line.partition(":")[::2]] for line in lines]
    except OSError:
        return platform.processor() or platform.machine()
    cpu = dict(reversed(fields))  # of several CPUs, the first
    name = cpu.get("model name") or platform.machine()
    if any(map(str.isdigit, name)) or "cpu family" not in cpu:
        return name
    return f"{name} (family {cpu['cpu family']}, model {cpu['model']})"


def load_average() -> float | None:
    """Return the load average of the last minute, or None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _git(*arguments: str) -> str | None:
    """Return the output of git, or None outside of a clone."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
