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
from jaxlstm.programs.errors import ProgramError
from testing.exported import AUTO

pytestmark = pytest.mark.usefixtures("fast_compilation")


class Slices(nn.Module):
    """Slices of a free axis, whose bounds depend on its size."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x[:, 1:], x[:, :-1], x[1:] * 2, x[:, -1]


class Ranges(nn.Module):
    """torch.arange of a free size, as positional encodings and masks use it."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        time = x.shape[1]
        places = torch.arange(time)
        return (
            x + places[:, None],
            torch.arange(2, time + 3, 2),
            torch.arange(time, dtype=x.dtype),
            places > 3,
        )


class End(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x[:, -2:],)


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[1] % 2 == 0 else x


class Longer(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[1] > x.shape[0] + 1 else x


def free_program(module: nn.Module, time: object = AUTO) -> jaxlstm.Program:
    return jaxlstm.from_module(module, (torch.randn(4, 6, 3),), dynamic_shapes=({0: AUTO, 1: time},))


@pytest.mark.parametrize(
    ("module", "time"),
    [(Slices(), AUTO), (Ranges(), AUTO), (End(), torch.export.Dim("time", min=3, max=50))],
    ids=["slices", "ranges", "end"],
)
def test_free_axes(module: nn.Module, time: object, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
    program = free_program(module, time)
    path = tmp_path / "slices.stablehlo"
    export_program(path, program, platforms=["cpu"])
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    for batch, time in ((4, 6), (2, 9), (7, 3)):
        x = torch.randn(batch, time, 3)
        for ours, theirs in zip(exported.call(x.numpy()), module(x), strict=True):
            np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize(
    ("module", "code", "message"),
    [
        (End(), "static-shape", r"axis 1 of its result has size 2 in the file.*Dim\('time', min=3\)"),
        (Branch(), "guard", r"does not hold for all sizes of the free axes.*% 2\) == 0"),
        (Longer(), "guard", r"does not hold for all sizes of the free axes.*size\(\)\[1\] > 1 \+"),
    ],
    ids=["end", "remainder", "inequality"],
)
def test_undecided_for_free_axes(module: nn.Module, code: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=message) as caught:
        export_program(tmp_path / "a.stablehlo", free_program(module), platforms=["cpu"])
    assert caught.value.code == code
