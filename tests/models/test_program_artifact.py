"""Artifacts of whole programs, at other sizes than the export had."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm.inference.program_artifact import export_program
from tests.support.exported import AUTO

pytestmark = pytest.mark.usefixtures("fast_compilation")


class Slices(nn.Module):
    """Slices of a free axis, whose bounds depend on its size."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x[:, 1:], x[:, :-1], x[1:] * 2, x[:, -1]


def test_slices_of_free_axes(tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
    module = Slices()
    shapes = ({0: AUTO, 1: AUTO},)
    program = jaxlstm.from_module(module, (torch.randn(4, 6, 3),), dynamic_shapes=shapes)
    path = tmp_path / "slices.stablehlo"
    export_program(path, program, platforms=["cpu"])
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    for batch, time in ((4, 6), (2, 9), (7, 3)):
        x = torch.randn(batch, time, 3)
        for ours, theirs in zip(exported.call(x.numpy()), module(x), strict=True):
            np.testing.assert_array_equal(ours, theirs.numpy())
