"""What was in force while a check ran: versions, device, precision."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxlstm._version import __version__
from jaxlstm.check import torch_runner
from jaxlstm.check.port import default_device


def environment(precision: str | None, *, with_torch: bool) -> dict[str, str]:
    """Names and values, as read back from the libraries themselves.

    ``jax_default_matmul_precision`` is the caller's, ``jax matmul precision`` that of the products checked.
    """
    config: Any = jax.config
    device = default_device()
    found = {
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
        "NVIDIA_TF32_OVERRIDE": os.environ.get(
            "NVIDIA_TF32_OVERRIDE", ""
        ),  # of both, over all settings
    }
    return found | (torch_runner.environment() if with_torch else {})
