"""A kind of layers is one row of the table."""

from pathlib import Path

import pytest
import torch
from torch import nn

from jaxlstm_converters.layer_kinds import KINDS, LayerKind
from jaxlstm_converters.layers import types
from jaxlstm_converters.pt2 import layer_settings
from testing.command import jaxlstm_command
from testing.exported import save
from testing.modules import module_of

ROW = LayerKind("Bilinear", "weight=O,A,B bias?=O", "in1_features=A in2_features=B out_features=O")


def test_a_row_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes fit a convolution too. A program records the operator."""
    model = module_of(lambda self, x, y: self.both(x, y), both=nn.Bilinear(3, 4, 5))
    save(tmp_path / "a.pt2", model, torch.randn(2, 3), torch.randn(2, 4))
    assert "Bilinear" not in jaxlstm_command("inspect", tmp_path / "a.pt2", "--all").out
    for module in (types, layer_settings):
        monkeypatch.setattr(module, "KINDS", [*KINDS, ROW])
    listed = jaxlstm_command("inspect", tmp_path / "a.pt2", "--all").out
    assert "both   Bilinear  5, in1_features=3, in2_features=4 " in listed
