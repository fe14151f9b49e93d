"""Where a measurement was made: what a reader needs in order to compare."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import jax

from jaxlstm import kernels
from jaxlstm._version import __version__
from jaxlstm.bench.setting import Setting


def threads() -> int:
    """How many threads every side gets: as many as XLA takes, one for each CPU of this process."""
    told = os.environ.get("NPROC", "")  # XLA's own setting
    if told.isdecimal() and int(told) > 0:
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(distributions: Iterable[str], setting: Setting) -> dict[str, Any]:
    """Versions, the device and the CPU, threads, how busy the machine is, and the kernel in force."""
    kernel = kernels.info()
    if kernel["native"]:
        del kernel["reason"]  # the place of a file on this machine
    packages = dict.fromkeys(("jax", "jaxlib", "numpy", *distributions))
    return {
        "versions": {
            "python": platform.python_version(),
            "jaxlstm": __version__,
            **{name: metadata.version(name) for name in packages},
        },
        "device": setting.device,
        "device_name": device_name(setting.device),
        "platform_version": jax.devices(setting.device)[0].client.platform_version,
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": setting.threads,
        "precision": setting.precision,
        "arithmetic": setting.arithmetic,
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "kernels": kernel,
    }


def device_name(platform: str) -> str:
    """The name of the first device of a platform, as its maker has it."""
    return cpu_name() if platform == "cpu" else f"{jax.devices(platform)[0].device_kind}"


def cpu_name() -> str:
    """The CPU's name as Linux tells it, else its family."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
