"""The machine and the versions behind a measurement.

Imports of JAX are lazy: `benchmarks.checkpoint` measures memory and must stay small itself.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.settings import Settings


def threads() -> int:
    """Return the number of threads of each library: as many as XLA uses."""
    from jaxlstm.kernels.cpu.threads import available_threads

    return available_threads()


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, jaxlstm and the given distributions."""
    found = {name: metadata.version(name) for name in distributions}
    return {"python": platform.python_version(), "jaxlstm": metadata.version("jaxlstm"), **found}


def describe(distributions: Iterable[str], settings: Settings) -> dict[str, Any]:
    """Return versions, device, CPU, threads, load average and the native kernel in use."""
    import jax

    from jaxlstm import kernels

    kernel = kernels.info()
    if kernel["native"]:
        del kernel["reason"]  # a path on this machine
    device = jax.devices(settings.device)[0]
    return {
        "versions": versions(dict.fromkeys(("jax", "jaxlib", "numpy", *distributions))),
        "device": settings.device,
        "device_name": cpu_name() if settings.device == "cpu" else str(device.device_kind),
        "platform_version": device.client.platform_version,
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": settings.threads,
        "precision": settings.precision,
        "arithmetic": settings.arithmetic,
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "kernels": kernel,
    }


def cpu_name() -> str:
    """Return the CPU's model name on Linux, elsewhere its family."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
