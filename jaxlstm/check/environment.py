"""The environment of a check: versions, device and precision."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxlstm._shared.version import __version__
from jaxlstm.check.reference import torch_lstm
from jaxlstm.check.subjects.jax_settings import default_device


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
