"""Faults of single operations: each gives the result of a port with that fault."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from jaxlstm.check.model.results import ModelCase
from jaxlstm.check.reference.torch_faults.catalogue import KNOWN, variants
from jaxlstm.check.reference.torch_faults.operation import run_planted
from jaxlstm.check.reference.torch_model import TorchModel

X = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(1))


class Function(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def with_fault(module, x, cause):
    """Return the module's output with the only fault of its last operation whose cause contains a text."""
    model, case = TorchModel(module), ModelCase.of("x", (x,), {})
    operation = run_planted(model, case, np.float32, KNOWN, {}).operations[-1]
    (variant,) = (v for v in variants(operation) if cause in v.cause)
    return torch.as_tensor(variant.apply(operation))


def same_weights(module, other):
    other.load_state_dict(module.state_dict())
    return other


CONV = nn.Conv1d(6, 4, 3, padding=2, dilation=2)
PRELU = nn.PReLU(6)
with torch.no_grad():
    PRELU.weight.uniform_(0.1, 0.9)


@pytest.mark.parametrize(
    ("module", "x", "cause", "wrong"),
    [
        (
            CONV,
            X,
            "circularly",
            same_weights(CONV, nn.Conv1d(6, 4, 3, padding=2, dilation=2, padding_mode="circular")),
        ),
        (CONV, X, "dilation of 1 and pads", same_weights(CONV, nn.Conv1d(6, 4, 3, padding=1))),
        (
            CONV,
            X,
            "causal",
            lambda x: functional.conv1d(functional.pad(x, (4, 0)), CONV.weight, CONV.bias, dilation=2),
        ),
        (nn.GroupNorm(2, 6), X, "num_groups=3", nn.GroupNorm(3, 6)),
        (PRELU, X, "one slope", lambda x: functional.prelu(x, PRELU.weight[:1])),
        (nn.Sigmoid(), X, "softmax", nn.Softmax(-1)),
        (Function(lambda x: x.sum(1)), X, "is mean", lambda x: x.mean(1)),
        (
            Function(lambda x: x.mean((1, 2), keepdim=True)),
            X,
            "is amax",
            lambda x: x.amax((1, 2), keepdim=True),
        ),
        (Function(lambda x: x / 8**0.5), X, "division by 2.82843", lambda x: x),
        (
            nn.Upsample(scale_factor=1.5),
            X,
            "nearest-exact",
            nn.Upsample(scale_factor=1.5, mode="nearest-exact"),
        ),
        (
            nn.Upsample(scale_factor=2, mode="bilinear"),
            IMAGE,
            "align_corners=True",
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        ),
        (
            nn.Upsample(size=(4, 3), mode="bilinear"),
            IMAGE,
            "antialias",
            lambda x: functional.interpolate(x, size=(4, 3), mode="bilinear", antialias=True),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fault(module, x, cause, wrong):
    with torch.no_grad():
        torch.testing.assert_close(with_fault(module, x, cause), wrong(x))
        assert wrong(x).shape != module(x).shape or not torch.allclose(wrong(x), module(x))
