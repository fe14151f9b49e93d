"""The report on a verification, with notes and the environment of the check."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxlstm._shared.version import __version__
from jaxlstm.check.diagnosis.search import Diagnosis
from jaxlstm.check.reference import torch_lstm
from jaxlstm.check.reference.jax_runs import default_device, lacks_float64
from jaxlstm.check.report.item import Item
from jaxlstm.check.report.report import Report
from jaxlstm.check.subjects.port import Port
from jaxlstm.check.verification import Verification


def report_on(
    verification: Verification,
    diagnose: Callable[[Sequence[Item]], Diagnosis],
    names: Mapping[str, Any],
    *,
    name: str,
    notes: Iterable[str],
) -> Report:
    """Return the report on the cases tried, with a diagnosis if an item failed.

    ``names`` are settings that the verification does not hold. ``name`` is the name of the subject.
    """
    items = tuple(verification.items())
    failures = [item for item in items if item.ok is False]
    diagnosis = diagnose(failures) if failures else Diagnosis()
    rtol, atol = verification.tolerance or (None, None)
    against = [reference.name for reference in verification.references]
    options = {
        "dtype": str(verification.dtype),
        "seed": verification.seed,
        "gradients": verification.gradients,
        "against": ", ".join(against),
        "rtol": rtol,
        "atol": atol,
        "precision": verification.subject.precision,
    }
    if verification.tolerance is not None:
        notes = [*notes, f"tolerances set by the caller: rtol={rtol:g}, atol={atol:g}"]
    return Report(
        title=f"{name} in {verification.dtype}",
        items=items,
        diagnosis=diagnosis.lines,
        notes=tuple(notes),
        settings={**names, **options},
        environment=environment(verification.subject.precision, with_torch="torch" in against),
        difference=diagnosis.difference,
        layers=diagnosis.layers,
    )


def port_notes(verification: Verification, port: Port, against: Sequence[str]) -> Iterator[str]:
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
        start = f"{case}: " if case else ""
        yield (
            f"{start}one ulp grows {amplification:.0e} times with these weights, so its RMS errors are a "
            "matter of chance and were not compared; the step residual covers its steps"
        )


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
