"""Faults of models: planted in Flax ports of three models, and in ports of modules with packed sequences."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn.utils import rnn

import jaxlstm
from jaxlstm.check import Report, verify_model
from testing.model_ports import FAULTS, model_and_port
from testing.modules import arrays, module_of


@pytest.mark.usefixtures("random_texts")
@pytest.mark.quick("crnn, flatten order")
@pytest.mark.parametrize(("model", "fault"), FAULTS, ids=map(", ".join, FAULTS))
def test_planted_fault(model, fault):
    torch.manual_seed(0)
    theirs, ours, args = model_and_port(model, fault)
    # A slow machine must not end the search of causes.
    report = verify_model(ours, theirs, args, gradients=False, seconds=300)
    assert not report.ok
    assert re.search(FAULTS[model, fault].cause, report.diagnosis[0]), "\n".join(report.diagnosis)
    assert any("differ" in line for line in report.diagnosis)
    assert not any("every conv2d" in line for line in report.diagnosis)  # one of them is enough
    assert any(not layer.ok for layer in report.layers) or fault == "log_softmax"


class Classifier(nn.Module):
    """The final states of both directions of the last layer, and the outputs, as padded arrays.

    Without ``pads``, the outputs end at the longest sequence.
    """

    def __init__(self, *, pads: bool = True) -> None:
        super().__init__()
        self.pads = pads
        self.dense = nn.Linear(3, 4)
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 2)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        packed = rnn.pack_padded_sequence(self.dense(x), lengths, batch_first=True, enforce_sorted=False)
        outputs, (h_n, _) = self.lstm(packed)
        length = x.shape[1] if self.pads else None
        outputs, _ = rnn.pad_packed_sequence(outputs, batch_first=True, total_length=length)
        return self.head(torch.cat((h_n[-2], h_n[-1]), 1)), outputs


class ClassifierPort(nnx.Module):
    """The port of :class:`Classifier`, with a fault."""

    def __init__(self, fault: str) -> None:
        rngs = nnx.Rngs(0)
        self.dense, self.head = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(10, 2, rngs=rngs)
        self.lstm = jaxlstm.nnx.LSTM(4, 5, 2, batch_first=True, bidirectional=True, rngs=rngs)
        self.fault = fault

    def __call__(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.fault == "lengths":
            lengths = jnp.full_like(lengths, x.shape[1])
        outputs, (h_n, _) = self.lstm(self.dense(x), seq_lengths=lengths)
        if self.fault == "layers":
            h_n = jnp.concatenate([h_n[2:], h_n[:2]])
        if self.fault == "join":
            outputs = jnp.roll(outputs, 5, -1)
        if self.fault == "head":
            h_n = 2 * h_n
        return self.head(jnp.concatenate((h_n[-2], h_n[-1]), 1)), outputs


def verify_classifier(fault: str, *, pads: bool = True, **options: Any) -> Report:
    """No sequence has the length of the batch, so that torch's arrays are shorter inside of the LSTM."""
    theirs, ours = Classifier(pads=pads).eval(), ClassifierPort(fault)
    jaxlstm.load_state_dict(ours, theirs)
    return verify_model(ours, theirs, (torch.randn(3, 7, 3), torch.tensor([2, 5, 4])), **options)


@pytest.mark.parametrize(
    ("fault", "cause", "place"),
    [
        (
            "lengths",
            "pack_padded_sequence in forward ignores the lengths",
            "in lstm, an LSTM whose inputs agree",
        ),
        ("layers", "in lstm (lstm), h_n and c_n have the layers in reverse order", "between lstm and head"),
        (
            "join",
            "in lstm (lstm), the reverse direction's outputs come first in the last layer",
            "after head",
        ),
        ("head", "no known fault of the operations", "between lstm and head"),
    ],
)
def test_cause_and_place(fault, cause, place):
    report = verify_classifier(fault, gradients=False, seconds=60)
    assert cause in report.diagnosis[0]
    assert place in report.diagnosis[-1]
    assert all(layer.ok for layer in report.layers if layer.theirs == "dense")
    (lstm,) = (layer for layer in report.layers if layer.theirs == "lstm")
    assert lstm.ok == (fault != "lengths")


@pytest.mark.parametrize("pads", [True, False])
def test_right_port(pads):
    report = verify_classifier("", pads=pads)
    assert report.ok, str(report)
    notes = [note for note in report.notes if "ends at the longest sequence" in note]
    assert [note.partition(":")[0] for note in notes] == [] if pads else ["outputs[1]"]


def test_shorter_outputs_do_not_hide_a_fault():
    report = verify_classifier("join", pads=False, gradients=False)
    assert "the reverse direction's outputs come first" in report.diagnosis[0]


def test_longer_outputs_without_packing():
    theirs = nn.Conv1d(1, 1, 3, bias=False)
    weight = jnp.asarray(arrays(theirs)["weight"])

    def port(x):
        return jax.lax.conv_general_dilated(x, weight, (1,), [(1, 1)])

    assert verify_model(port, theirs, (torch.randn(2, 1, 9),)).failures[0].id == "form"


def test_an_example_that_does_not_show_the_fault():
    """SAME pads as torch does at size 1."""
    theirs = nn.Sequential(nn.Conv1d(3, 4, 3, stride=2, padding=1)).eval()
    ours = nnx.Sequential(nnx.Conv(3, 4, (3,), strides=2, padding="SAME", rngs=nnx.Rngs(0)))
    ours.eval()
    with pytest.warns(jaxlstm.PortingWarning, match="depends on the size of the input"):
        jaxlstm.load_state_dict(ours, theirs)
    report = verify_model(
        ours, theirs, (torch.randn(2, 3, 1),), call=lambda model, x: model(x.mT).mT, gradients=False
    )
    assert "0 (conv1d) pads as SAME does" in report.diagnosis[0]
    assert "equals Sequential on the example" in report.diagnosis[1]


@pytest.mark.usefixtures("random_texts")
def test_a_gradient_that_torch_cuts():
    """Some layers get no gradient, and one gets half of it."""

    def forward(m, x):
        with torch.no_grad():
            y = m.b(x)
        return m.a(m.c(x).detach()) + m.c(x) + y

    theirs = module_of(forward, a=nn.Linear(3, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 3))
    args, params = (torch.randn(4, 3),), arrays(theirs)

    def port(params, x, cut=lambda y: y):
        def layer(name, x):
            return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]

        return layer("a", cut(layer("c", x))) + layer("c", x) + cut(layer("b", x))

    right = partial(port, cut=jax.lax.stop_gradient)
    assert verify_model(right, theirs, args, params=params).ok
    report = verify_model(port, theirs, args, params=params)
    assert not report.ok
    first, *gradients = report.diagnosis
    assert first.startswith("the model keeps the gradient where Model detaches or computes under no_grad")
    assert "the gradient of b.weight, b.bias is not zero" in gradients
