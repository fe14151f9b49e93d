"""The parts of a report that are not verdicts: notes, heat maps, and the environment of a check."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxlstm._shared.version import __version__
from jaxlstm.check.reference import torch_lstm
from jaxlstm.check.report.item import Heatmap
from jaxlstm.check.subjects.jax_settings import default_device, lacks_float64
from jaxlstm.check.subjects.port import PortSubject
from jaxlstm.check.verification import Verification


def port_notes(verification: Verification, port: PortSubject, against: Sequence[str]) -> Iterator[str]:
    """Yield the facts that limit the verdict. ``against`` are the requested references."""
    if "torch" in against and "torch" not in [reference.name for reference in verification.references]:
        yield "torch is not installed; the only reference is the oracle"
    if bad := [name for name, a in port.params.items() if not np.isfinite(a).all()]:
        yield (
            f"parameters with NaN or infinity: {', '.join(bad)}; the port must return NaN and infinity "
            "where the references do"
        )
    if lacks_float64(default_device()):
        yield "the float64 runs were on the CPU, because this device emulates float64"
    for case, amplification in verification.chaotic.items():
        yield (
            f"{case}: "
            * bool(case)
            + f"one ulp grows {amplification:.0e} times with these weights, so its RMS "
            "errors are a matter of chance and were not compared; the step residual covers its steps"
        )
    yield from tolerance_note(verification)


def tolerance_note(verification: Verification) -> Iterator[str]:
    """Name the tolerances of the caller."""
    if verification.tolerance is not None:
        rtol, atol = verification.tolerance
        yield f"tolerances set by the caller: rtol={rtol:g}, atol={atol:g}"


def heatmaps(verification: Verification, port: PortSubject) -> Iterator[Heatmap]:
    """Yield the error of the outputs over time and units, of the first and of the longest case."""
    config, cases = port.config, verification.tried
    shown = (cases[0].name, max(cases, key=lambda case: len(case.inputs)).name)
    for entry in verification.evidence["working"]:
        case, theirs = entry.case, entry.truth.outputs["outputs"]
        ours = entry.results.outputs.get("outputs")
        if case.name not in shown or ours is None or ours.shape != theirs.shape:
            continue
        error = np.abs(ours.astype(np.float64) - theirs).max(axis=1)
        title = f"{case.name}: largest error of the outputs over the batch"
        if config.bidirectional:
            title += f"; units from {config.h_size} on are the reverse direction"
        rounding = float(ml_dtypes.finfo(verification.dtype).eps)
        yield Heatmap(title, "time", "unit", error.T.tolist(), floor=rounding / 10)


def environment(precision: str | None, *, with_torch: bool) -> dict[str, str]:
    """Return names and values, read back from the libraries.

    ``jax_default_matmul_precision`` is the caller's setting. ``jax matmul precision`` applies during the
    check.
    """
    config: Any = jax.config
    device = default_device()
    values = {
        "jaxlstm": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "numpy": np.__version__,
        "ml_dtypes": ml_dtypes.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": f"{device.platform}: {device.device_kind}",
        "jax_default_matmul_precision": str(config.jax_default_matmul_precision),
        "jax matmul precision": precision or str(config.jax_default_matmul_precision),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        # It overrides the settings of both libraries.
        "NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE", ""),
    }
    return values | (torch_lstm.environment() if with_torch else {})
