"""verify_model: the cause that the report names, and where a model differs: case, layer, shape and names."""

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from torch import nn

import jaxlstm
from jaxlstm.check import verify_model
from testing.model_ports import CHANNELS_LAST, model_and_port
from testing.modules import module_of
from testing.written import write


@pytest.mark.quick("y[:, 0]-indexing in forward is [:, 0] instead of [:, -1]")
@pytest.mark.parametrize(
    ("last", "cause"),
    [
        ("y[:, 0]", "indexing in forward is [:, 0] instead of [:, -1]"),
        (
            "jnp.concatenate(tuple(_.h), -1)",
            "in lstm (lstm), h_n is read instead of the last step of the outputs",
        ),
    ],
)
def test_another_vector_of_a_sequence(last, cause):
    lstm = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    theirs, x = module_of(lambda m, x: m.lstm(x)[0][:, -1], lstm=lstm), torch.randn(4, 5, 3)
    ours = write(theirs, x, edits={r"return .*": f"return {last}"}).model
    report = verify_model(ours, theirs, (x,), gradients=False)
    assert report.diagnosis[0].startswith(f"matches Model if {cause}")


@pytest.mark.slow
def test_channels_first_for_a_model_with_channels_last():
    theirs, ours, args = model_and_port("crnn", edits=CHANNELS_LAST)
    report = verify_model(ours, theirs, args, gradients=False)
    assert (report.items[0].name, report.items[0].status) == ("runs", "FAILED")
    assert report.diagnosis[0] == (
        "the model matches TorchCRNN if the channels of args[0] are the last axis: pass "
        "call=lambda model, x: model(x.transpose(0, 2, 3, 1))"
    )


@pytest.mark.parametrize(
    ("ours", "seconds", "line"),
    [
        (lambda x: jax.nn.gelu(x).max((1, 2)), 60, "0 (relu) is gelu, in its tanh form, instead of relu"),
        (lambda x: jnp.sin(x).max((1, 2)), 60, "no known fault of the operations of torch's module explains"),
        (lambda x: jnp.sin(x).max((1, 2)), 0, "no cause was found in 0 s; a longer search may find one"),
    ],
)
def test_search_of_causes(ours, seconds, line):
    theirs = nn.Sequential(nn.ReLU(), nn.MaxPool2d((4, 5)), nn.Flatten(0))
    report = verify_model(ours, theirs, (torch.randn(3, 4, 5),), gradients=False, seconds=seconds)
    assert line in report.diagnosis[0]


def test_exception_after_right_layers():
    """No operation after the exception is a cause."""

    class Port(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(3, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.dense(x) @ jnp.ones((5, 2))

    dense, ours = nn.Linear(3, 4), Port()
    theirs = nn.Sequential(dense, nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    jaxlstm.load_state_dict(ours.dense, dense)
    report = verify_model(ours, theirs, (torch.randn(2, 3),), gradients=False)
    assert [layer.ok for layer in report.layers] == [True]
    assert report.diagnosis == ("the model raised an exception: see the item runs",)


def test_a_model_that_was_not_filled():
    """One line instead of one for each parameter."""
    ours = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    ours.bias = nnx.Param(jnp.ones(2))
    ours.kind = nnx.Variable("a state may hold text")  # type: ignore[attr-defined]
    report = verify_model(ours, nn.Linear(3, 2).eval(), (torch.randn(4, 3),), gradients=False)
    filling = [line for line in report.diagnosis if "torch's values" in line or "re-layout" in line]
    assert filling == [
        "no parameter of the model has torch's values: fill it with jaxlstm.load_state_dict first"
    ]


def test_fault_at_other_sizes_only():
    """The port keeps the last step of an odd number, which torch leaves out."""
    theirs = module_of(
        lambda m, x: m.head(m.dense(x)[:, : x.shape[1] // 2 * 2 : 2]).sum(1),
        dense=nn.Linear(3, 4),
        head=nn.Linear(4, 2),
    )
    x = torch.randn(2, 8, 3)
    ours = write(theirs, x, edits={r"\[:, : .* : 2\]": "[:, ::2]"}).model
    report = verify_model(ours, theirs, (x,), gradients=False)
    assert not report.ok
    _, case, layer = report.diagnosis
    assert case == "Model equals Model on the example; with sizes 2 -> 1, 8 -> 1 it does not"
    assert layer.startswith("first differs between dense and head, whose inputs already differ: ")
    assert layer.endswith("shape (1, 1, 2) instead of (1, 0, 2)")
    assert [layer.ok for layer in report.layers] == [True, False, False]


def test_dict_of_results():
    """``jax.jit`` sorts its keys."""
    x, theirs = torch.randn(3, 2), module_of(lambda _, x: {"y": 2 * x, "last": x[-1]})
    assert verify_model(lambda x: {"y": 2 * x, "last": x[-1]}, theirs, (x,)).ok
    missing = verify_model(lambda x: {"y": 2 * x}, theirs, (x,))
    (item,) = (item for item in missing.items if item.name == "shape and dtype")
    assert item.detail.startswith(
        "example: the model returns outputs['y'], expected outputs['y'], outputs['last']"
    )


def test_layers_whose_axes_torch_merges():
    """The port merges no axes, has the batch first, and a ReLU before the head."""
    layers = {"first": nn.Linear(3, 4), "second": nn.Linear(4, 4), "head": nn.Linear(4, 2)}

    def forward(m, x):
        y = m.second(m.first(x.reshape(-1, x.shape[2])))
        return m.head(y).view(x.shape[0], x.shape[1], -1)

    theirs, x = module_of(forward, **layers), torch.randn(5, 2, 3)
    edits = {
        r"x\.reshape\(-1, 3\)": "x.swapaxes(0, 1)",
        "return .*": "return self.head(nnx.relu(y)).swapaxes(0, 1)",
    }
    report = verify_model(write(theirs, x, edits=edits).model, theirs, (x,), gradients=False)
    assert report.diagnosis[-1].startswith("first differs between second and head, whose inputs already")
    assert [layer.ok for layer in report.layers] == [True, True, False, False]
