"""The JSON file of one machine: the commit, the processor, versions, and the results of each part by name."""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from benchmarks.peers import PEERS, version
from jaxlstm import kernels
from jaxlstm.kernels.cpu.stack import available_threads

ROOT = Path(__file__).parents[1]
Document = dict[str, Any]


def load(path: Path) -> Document:
    """Read a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def check(path: Path) -> None:
    """Raise ValueError if a file exists and belongs to another commit or processor."""
    document, here = load(path) if path.exists() else {}, identity()
    different = (
        f"{k}: {document[k]}, here {here[k]}" for k in document if k in here and document[k] != here[k]
    )
    if reasons := "; ".join(different):
        raise ValueError(f"{path} is of another run ({reasons}). Delete it or name another file")


def save(path: Path, name: str, part: dict[str, Any], load_average: float | None) -> None:
    """Add a part to a file or replace it there; a new file gets the description of the machine."""
    if path.exists():
        document = load(path)
    else:
        about = {**identity(), "dirty": False, "load_average_before": load_average}
        document = {**about, **details(), "parts": {}}
    # Results and pages do not count.
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs", ":!README.md")
    document["dirty"] |= bool(changed)
    document["parts"][name] = part
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def identity() -> dict[str, Any]:
    """Return the commit, or None outside of a clone, and the processor."""
    return {"commit": _git("rev-parse", "HEAD"), "cpu": cpu_name(), "cpus": os.cpu_count()}


def details() -> dict[str, Any]:
    """Return devices, threads, the native kernel in use, and versions of all libraries."""
    kernel = kernels.info()
    if kernel["native"]:
        del kernel["reason"]  # a path on this machine
    names = dict.fromkeys(name for names in PEERS.values() for name in names)
    versions = {name: version(name) for name in ("jaxlstm", "jax", "jaxlib", "numpy", *names, "safetensors")}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "devices": [device.device_kind for device in jax.devices()],
        "threads": available_threads(),
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
