"""Faults of single operations: each gives the result of a port with that fault."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import rnn

from jaxlstm.check.cases.case import Case
from jaxlstm.check.reference.torch_faults.planted import run_planted, variants
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
    model, case = TorchModel(module), Case.of_model("x", (x,), {})
    operation = run_planted(model, case, np.float32, {}).operations[-1]
    (variant,) = (v for v in variants(operation) if cause in v.cause)
    result = variant.apply(operation)
    return result[0] if isinstance(result, tuple) else torch.as_tensor(result)


def lstm_operation(module):
    planted = run_planted(TorchModel(module), Case.of_model("x", (X,), {}), np.float32, {})
    (operation,) = (operation for operation in planted.operations if operation.name in ("lstm", "gru"))
    return operation


def same_weights(module, other):
    other.load_state_dict(module.state_dict())
    return other


GRU = nn.GRU(9, 4, bidirectional=True)
RNN = nn.RNN(9, 4, nonlinearity="relu", bias=False)
STATE = torch.ones(2, 6, 4)


def gru_with(change):
    """Return the outputs of the GRU as a function of x, after a change of its state dict."""
    changed = copy.deepcopy(GRU)
    state_dict = {name: value.clone() for name, value in changed.state_dict().items()}
    changed.load_state_dict(state_dict | change(state_dict))
    return lambda x: changed(x)[0]


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
        (nn.Softplus(), X, "is relu", nn.ReLU()),
        (Function(lambda x: x.sum(1)), X, "is mean", lambda x: x.mean(1)),
        (
            Function(lambda x: x.mean((1, 2), keepdim=True)),
            X,
            "is amax",
            lambda x: x.amax((1, 2), keepdim=True),
        ),
        (Function(lambda x: x.max(1).values), X, "is mean", lambda x: x.mean(1)),
        (Function(lambda x: x.mean(1, keepdim=True)), X, "the last element of axis 1", lambda x: x[:, -1:]),
        (Function(lambda x: torch.max(x, dim=2)[0]), X, "the first element of axis 2", lambda x: x[..., 0]),
        (Function(lambda x: x[:, -1]), X, "is [:, 0] instead of [:, -1]", lambda x: x[:, 0]),
        (Function(lambda x: x[:1, ..., 0]), X, "is [:1, ..., -1] instead", lambda x: x[:1, ..., -1]),
        (Function(lambda x: x[:, -1]), X, "is amax over axis 1", lambda x: x.amax(1)),
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
            Function(lambda x: GRU(x)[0]),
            X,
            "gates r and z of weight_hh_l0 are swapped",
            gru_with(lambda p: {"weight_hh_l0": p["weight_hh_l0"].view(3, 4, 4)[[1, 0, 2]].view(12, 4)}),
        ),
        (
            Function(lambda x: GRU(x)[0]),
            X,
            "bias_ih and bias_hh of l0_reverse are swapped",
            gru_with(
                lambda p: {
                    "bias_ih_l0_reverse": p["bias_hh_l0_reverse"],
                    "bias_hh_l0_reverse": p["bias_ih_l0_reverse"],
                }
            ),
        ),
        (Function(lambda x: GRU(x)[0]), X, "outputs come first", lambda x: GRU(x)[0].roll(4, -1)),
        (Function(lambda x: GRU(x, STATE)[0]), X, "the initial state is ignored", lambda x: GRU(x)[0]),
        (
            Function(lambda x: GRU(x)[0]),
            X,
            "batch_first=True",
            lambda x: GRU(x.swapaxes(0, 1))[0].swapaxes(0, 1),
        ),
        (
            Function(lambda x: RNN(x)[0]),
            X,
            "rnn_tanh",
            lambda x: same_weights(RNN, nn.RNN(9, 4, bias=False))(x)[0],
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


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("read", "cause"),
    [
        (lambda y: y[-1], "the last step of the outputs is read instead of h_n"),
        (lambda y: y.mean(0), "the mean of the outputs is read instead of h_n"),
        (lambda y: y.amax(0), "the maximum of the outputs is read instead of h_n"),
    ],
)
def test_outputs_instead_of_h_n(read, cause, packed, bidirectional, kind):
    """The fault replaces h_n of the last layer. Outputs are zero where a sequence has ended."""
    lstm = kind(9, 4, num_layers=2, bidirectional=bidirectional)
    pack = partial(rnn.pack_padded_sequence, lengths=torch.tensor([2, 2, 2, 2, 1, 1]))
    operation = lstm_operation(Function(lambda x: lstm(pack(x) if packed else x)[1]))
    (variant,) = (v for v in variants(operation) if cause in v.cause)
    with torch.no_grad():
        outputs, final = lstm(pack(X) if packed else X)
        h_n, *c_n = final if kind is nn.LSTM else (final,)
        faulty = variant.apply(operation)
    torch.testing.assert_close(faulty[0], outputs.data if packed else outputs)
    y = rnn.pad_packed_sequence(outputs)[0] if packed else outputs
    last = torch.stack(read(y).chunk(2 if bidirectional else 1, -1))
    torch.testing.assert_close(faulty[1], torch.cat((h_n[: -len(last)], last)))
    torch.testing.assert_close(list(faulty[2:]), c_n)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("end", "which"), [(-1, "last"), (0, "first")])
def test_h_n_instead_of_outputs(end, which, batch_first):
    lstm = nn.LSTM(9, 4, bidirectional=True, batch_first=batch_first)
    operation = lstm_operation(lstm)
    cause = f"h_n is read instead of the {which} step of the outputs"
    (variant,) = (v for v in variants(operation) if cause in v.cause)
    with torch.no_grad():
        outputs, (h_n, _) = lstm(X)
        faulty, *_ = variant.apply(operation)
    (outputs.swapaxes(0, 1) if batch_first else outputs)[end] = torch.cat(tuple(h_n), -1)
    torch.testing.assert_close(faulty, outputs)


def test_faults_change_the_arguments():
    """A convolution without padding cannot lack it; one of two sizes equals (1, 1) only if both are 1."""
    conv = nn.Conv2d(3, 4, 3, stride=(1, 2), padding=0, dilation=1, bias=False)
    (operation,) = run_planted(TorchModel(conv), Case.of_model("x", (IMAGE,), {}), np.float32, {}).operations
    causes = {variant.cause for variant in variants(operation)}
    assert "{where} has a stride of 1" in causes
    absent = ("{where} has no padding", "{where} has no bias", "{where} has a dilation of 1")
    assert causes.isdisjoint(absent)
