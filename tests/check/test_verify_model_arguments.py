"""verify_model: the errors of wrong arguments name the argument and the fix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm.check import verify_model
from testing.model_ports import MODELS


def linear(x, weight, bias):
    return x @ weight.T + bias


def test_wrong_arguments():
    theirs = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    with pytest.raises(
        TypeError, match=r"theirs must be a torch\.nn\.Module or .*ExportedProgram, got function"
    ):
        verify_model(linear, linear, (x,))
    with pytest.raises(TypeError, match=r"args must be a tuple of arguments, got Tensor; write \(x,\)"):
        verify_model(linear, theirs, x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"ours must be a flax\.nnx Module or a function of arrays, got int"):
        verify_model(3, theirs, (x,))
    with pytest.raises(TypeError, match="names must map torch prefixes"):
        verify_model(linear, theirs, (x,), names=["cnn"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="params must be None for an NNX module"):
        verify_model(MODELS["crnn"]("")[1], theirs, (x,), params={})
    with pytest.raises(TypeError, match="call must be None for a function"):
        verify_model(linear, theirs, (x,), call=linear)
    program = jaxlstm.from_module(theirs.eval(), (x,))
    with pytest.raises(TypeError, match="call and params must be None for a Program"):
        verify_model(program, theirs, (x,), params={})
    with pytest.raises(ValueError, match="rtol was given without atol"):
        verify_model(linear, theirs, (x,), rtol=1e-3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        verify_model(linear, theirs, (torch.randn(4, 2),))
