"""The environment of a report: every setting with the value that the library itself reports."""

from __future__ import annotations

import platform
from importlib import metadata

import jax
import ml_dtypes
import numpy as np

import jaxlstm
from jaxlstm.check.notes import environment
from jaxlstm.check.reference import torch_lstm
from testing.verification import needs_torch


def test_all_settings(monkeypatch):
    # Initialize XLA first: it would reject the unknown flag.
    device = jax.devices()[0]
    monkeypatch.setenv("XLA_FLAGS", "--a_flag")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with jax.default_matmul_precision("tensorfloat32"):
        found = environment(None, with_torch=False)
    assert found == {
        "jaxlstm": jaxlstm.__version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "numpy": np.__version__,
        "ml_dtypes": ml_dtypes.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": f"{device.platform}: {device.device_kind}",
        "jax_default_matmul_precision": "tensorfloat32",
        "jax matmul precision": "tensorfloat32",
        "XLA_FLAGS": "--a_flag",
        "NVIDIA_TF32_OVERRIDE": "0",
    }


def test_unset_settings_are_empty(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    found = environment("highest", with_torch=False)
    assert found["XLA_FLAGS"] == found["NVIDIA_TF32_OVERRIDE"] == ""
    assert found["jax matmul precision"] == "highest"
    assert found["jax_default_matmul_precision"] == "None"


@needs_torch
def test_torch_settings():
    without_torch = environment(None, with_torch=False)
    assert environment(None, with_torch=True) == without_torch | torch_lstm.environment()
