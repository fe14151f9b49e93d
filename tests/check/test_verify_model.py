"""verify_model: right models hold, wrong ones do not, and the report lists its tests."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

import jaxlstm
from jaxlstm.check import verify_model
from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.sizes import ELEMENTS, other_sizes
from testing.model_ports import CHANNELS_LAST, model_and_port
from testing.modules import arrays, module_of
from testing.verification import status

STATUS = dict.fromkeys(
    (
        *("runs", "shape and dtype", "NaN mask"),
        *("float64 semantics against torch", "float64 gradients against torch"),
        *("RMS error of results", "RMS error of results, worst array"),
        *("RMS error of gradients", "RMS error of gradients, worst array"),
    ),
    "ok",
)


LINEAR = nn.Linear(3, 2).eval()
PARAMS = arrays(LINEAR)
ARGS = (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),)


def linear(x, weight=PARAMS["weight"], bias=PARAMS["bias"]):
    return x @ weight.T + bias


def test_right_model_holds():
    theirs, ours, args = model_and_port("crnn", edits=CHANNELS_LAST)
    steps = []

    def call(model, x):
        return model(x.transpose(0, 2, 3, 1))

    report = verify_model(ours, theirs, args, call=call, progress=lambda *step: steps.append(step))
    assert report.ok, str(report)
    assert status(report) == STATUS
    cases = report.items[0].detail
    assert cases == "10 cases"
    assert [name for _, _, name in steps][:4] == ["example", "other values", "small values", "large values"]
    assert report.notes[0] == "sizes that torch refuses to change: axis 1 of args[0]"
    assert any("training mode" in note for note in report.notes)
    assert json.loads(report.to_json())["ok"]
    assert theirs.training


def test_a_result_without_axes():
    theirs = module_of(lambda _, x: (x, x.square().mean()))
    assert verify_model(lambda x: (x, jnp.square(x).mean()), theirs, (torch.randn(3, 4),)).ok


def test_function_with_params():
    x = np.random.default_rng(0).normal(size=(4, 3))
    report = verify_model(lambda params, x: linear(x, **params), LINEAR, (x,), params=PARAMS)
    assert report.ok, str(report)
    assert status(report) == STATUS
    data = next(i for i in report.items if i.name == "RMS error of gradients").data["arrays"]
    assert {"example, d args[0]", "example, d weight", "example, d bias"} <= data.keys()


def test_function_that_holds_its_weights():
    report = verify_model(linear, LINEAR, ARGS)
    assert report.ok, str(report)
    assert status(report) == STATUS | {"gradients of parameters": "untested"}


class LinenNet(linen.Module):
    epsilon: float

    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=True, epsilon=self.epsilon, name="norm")(linen.Dense(4)(x))
        return linen.Dense(2, name="head")(linen.relu(x))


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_linen_function(epsilon):
    theirs = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    weights = arrays(theirs)
    variables = {
        "params": {
            "Dense_0": {"kernel": weights["0.weight"].T, "bias": weights["0.bias"]},
            "norm": {"scale": weights["1.weight"], "bias": weights["1.bias"]},
            "head": {"kernel": weights["3.weight"].T, "bias": weights["3.bias"]},
        },
        "batch_stats": {"norm": {"mean": weights["1.running_mean"], "var": weights["1.running_var"]}},
    }
    report = verify_model(LinenNet(epsilon).apply, theirs, (torch.randn(5, 3),), params=variables)
    if epsilon == 1e-5:
        assert report.ok, str(report)
        assert status(report) == STATUS
    else:
        assert "the epsilon of 1 (batch_norm) is 0.001 instead of 1e-05" in report.diagnosis[0]
        assert report.diagnosis[1].startswith("first differs in norm (torch: 1), a BatchNorm1d whose inputs")


def test_linen_function_without_batch_statistics():
    theirs = nn.BatchNorm1d(3).eval()
    norm = linen.BatchNorm(use_running_average=True)
    params = {"params": norm.init(jax.random.key(0), jnp.ones((2, 3)))["params"]}
    report = verify_model(norm.apply, theirs, (torch.randn(5, 3),), params=params, gradients=False)
    assert report.title == "BatchNorm.apply in float32"
    assert status(report)["runs"] == "FAILED"
    assert "needs every collection that init returns, such as batch_stats: params={'params'" in str(report)
    assert "ScopeCollectionNotFound" in str(report)


def test_wrong_gradient():
    def stopped(params, x):
        return linear(x, params["weight"], jax.lax.stop_gradient(params["bias"]))

    report = verify_model(stopped, LINEAR, ARGS, params=PARAMS)
    assert status(report)["float64 semantics against torch"] == "ok"
    assert status(report)["float64 gradients against torch"] == "FAILED"
    assert report.diagnosis == ("the gradient of bias is zero, as after stop_gradient",)


def test_float32_inside_is_untested_in_float64():
    def softmax(x):
        return jax.nn.softmax(x.astype(jnp.float32)).astype(x.dtype)

    right = verify_model(softmax, nn.Softmax(-1), ARGS)
    assert right.ok, str(right)
    assert status(right)["float64 semantics"] == "untested"
    assert "converts float64 to float32 in test_verify_model.py" in str(right)
    assert not verify_model(lambda x: softmax(1.001 * x), nn.Softmax(-1), ARGS).ok


@pytest.mark.parametrize(("scale", "expected"), [(1.0, "untested"), (1 + 1e-5, "FAILED")])
def test_a_table_that_the_model_computes(scale, expected):
    """In float64, the model's encoding differs from torch's, which is a buffer in float32."""
    theirs = module_of(
        lambda m, x: m.fc(x + m.encoding[: x.shape[1]]),
        fc=nn.Linear(8, 4),
        encoding=torch.sin(torch.arange(20)[:, None] / 10 ** torch.linspace(0, 4, 8)),
    )
    weight, bias = (p.detach().numpy() for p in theirs.parameters())

    def ours(x):
        encoding = jnp.sin(jnp.arange(20)[:, None] / 10 ** jnp.linspace(0, 4, 8)).astype(x.dtype)
        return linear(x + encoding[: x.shape[1]], scale * weight, bias)

    report = verify_model(ours, theirs, (torch.randn(2, 7, 8),), gradients=False)
    found = status(report)
    assert found.get("float64 semantics", found.get("float64 semantics against torch")) == expected, report
    assert report.ok == (expected == "untested")


@pytest.mark.parametrize(
    ("ours", "item"),
    [
        (lambda x: linear(x, bias=PARAMS["bias"] * (1 + 1e-6)), "float64 semantics against torch"),
        (lambda x: linear(x)[:, :1], "shape and dtype"),
        (lambda x: linear(x).astype(jnp.float16), "shape and dtype"),
        (lambda x: (linear(x), x), "shape and dtype"),
        (lambda x: jnp.log(-jnp.abs(linear(x))), "NaN mask"),
        (lambda x: linear(x.astype(jnp.bfloat16)), "RMS error of results"),
        (lambda x: linear(x, PARAMS["weight"].T), "runs"),
    ],
)
def test_wrong_functions(ours, item):
    report = verify_model(ours, LINEAR, ARGS, gradients=False)
    assert status(report)[item] == "FAILED", str(report)


def test_longer_inputs_show_a_fault_after_pooling():
    """Faults beyond the length of the example are visible although pooling halves the axis."""

    def ours(x):
        pooled = x.reshape(*x.shape[:2], -1, 2).mean(-1) if x.shape[2] % 2 == 0 else without_last(x)
        return jnp.where(jnp.arange(pooled.shape[2]) < 6, pooled, 0)

    def without_last(x):
        return x[..., :-1].reshape(*x.shape[:2], -1, 2).mean(-1)

    report = verify_model(ours, nn.AvgPool1d(2), (np.random.default_rng(0).normal(size=(2, 3, 12)),))
    assert status(report)["float64 semantics against torch"] == "FAILED"


def test_large_sizes_of_many_axes_are_never_made():
    """Even 35 numbers along each of five axes would be 52 million: one axis alone becomes long."""
    example = Case.of_model("example", (np.ones((2, 3, 4, 5, 6), np.float32),), {})
    cases, _ = other_sizes(example, lambda case: "", None, 1, lambda case: True)
    smallest, largest = (case.shapes[0] for case in cases)
    assert smallest == (1,) * 5
    assert max(largest) > 35
    assert np.prod(largest) <= ELEMENTS


def test_sizes_and_dtypes_that_the_model_refuses():
    """They are untested, not wrong."""

    def ours(x):
        if x.shape[0] != 4:
            raise ValueError("four rows only")
        if x.dtype != jnp.float32:
            raise TypeError("float32 only")
        return linear(x)

    report = verify_model(ours, LINEAR, ARGS)
    details = {item.name: item.detail for item in report.items if item.status == "untested"}
    assert "float32 only" in details["float64 semantics"]
    assert any("torch takes this case, the model raised" in detail for detail in details.values())
    assert report.ok, str(report)


def test_wrong_arguments():
    with pytest.raises(
        TypeError, match=r"theirs must be a torch\.nn\.Module or .*ExportedProgram, got function"
    ):
        verify_model(linear, linear, ARGS)
    with pytest.raises(TypeError, match=r"args must be a tuple of arguments, got Tensor; write \(x,\)"):
        verify_model(linear, LINEAR, ARGS[0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"ours must be a flax\.nnx Module or a function of arrays, got int"):
        verify_model(3, LINEAR, ARGS)
    with pytest.raises(TypeError, match="names must map torch prefixes"):
        verify_model(linear, LINEAR, ARGS, names=["cnn"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="params must be None for an NNX module"):
        verify_model(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), LINEAR, ARGS, params={})
    with pytest.raises(TypeError, match="call must be None for a function"):
        verify_model(linear, LINEAR, ARGS, call=linear)
    program = jaxlstm.from_module(LINEAR, ARGS)
    with pytest.raises(TypeError, match="params must be None for a Program"):
        verify_model(program, LINEAR, ARGS, params={})
    with pytest.raises(ValueError, match="rtol was given without atol"):
        verify_model(linear, LINEAR, ARGS, rtol=1e-3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        verify_model(linear, LINEAR, (torch.randn(4, 2),))


def test_two_biases_of_zeros_are_told_apart_by_their_names():
    theirs, ours = nn.LSTMCell(3, 4), jaxlstm.nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0))
    for bias in (theirs.bias_ih, theirs.bias_hh):
        nn.init.zeros_(bias)
    jaxlstm.load_state_dict(ours, theirs)
    report = verify_model(ours, theirs, (torch.randn(2, 3),), call=lambda model, x: model(x))
    assert report.ok, str(report)


def test_a_mask_is_not_moved_to_measure_rounding():
    """After an ulp, ``mask == 1`` is false, and the limit in float64 would hide any error."""
    theirs = module_of(lambda m, x, mask: m.fc(x * (mask == 1)), fc=nn.Linear(3, 2))
    weight, bias = (p.detach().numpy() for p in theirs.parameters())
    args = torch.randn(5, 3), (torch.rand(5, 3) > 0.5).float()
    assert verify_model(lambda x, mask: linear(x * (mask == 1), weight, bias), theirs, args).ok
    report = verify_model(lambda x, mask: linear(x * (mask == 1), weight, bias) + 1e-3, theirs, args)
    assert status(report)["float64 semantics against torch"] == "FAILED"


def test_what_torch_refuses_is_not_tried():
    """A right port may give anything for an index out of range and for a negative number."""
    theirs = module_of(lambda m, i, x: m.e(i) + x.log(), e=nn.Embedding(6, 3))
    table = arrays(theirs)["e.weight"]

    def ours(params, i, x):
        return jnp.where(i[:, None] < 6, params["table"][i % 6], 0) + jnp.log(jnp.maximum(x, 1e-30))

    args = torch.tensor([0, 1, 2, 1]), torch.rand(4, 3) + 0.1
    report = verify_model(ours, theirs, args, params={"table": table})
    assert report.ok, str(report)
    varied = report.settings["varied"]
    assert {"large values", "other masks and integers", "other parameters"} <= {*varied.split(", ")}
    held = verify_model(lambda i, x: ours({"table": table}, i, x), theirs, args)
    assert any("other parameters were not tried" in note for note in held.notes)


@pytest.mark.quick("1.weight")
@pytest.mark.parametrize("forgotten", ["0.bias", "1.weight", "1.running_var"])
def test_parameters_that_a_port_forgot(forgotten):
    theirs = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    nn.init.zeros_(theirs[0].bias)  # type: ignore[arg-type]
    params = {name: a for name, a in arrays(theirs).items() if name != forgotten and a.ndim}
    default = {"0.bias": 0.0, "1.weight": 1.0, "1.running_var": 1.0}

    def ours(params, x):
        p = {**default, **params}
        y = x @ p["0.weight"].T + p["0.bias"] - p["1.running_mean"]
        return y / jnp.sqrt(p["1.running_var"] + 1e-5) * p["1.weight"] + p["1.bias"]

    assert verify_model(
        ours, theirs, (torch.randn(5, 3),), params={**params, forgotten: arrays(theirs)[forgotten]}
    ).ok
    report = verify_model(ours, theirs, (torch.randn(5, 3),), params=params)
    assert not report.ok
    assert report.diagnosis[0].endswith(f"nothing that corresponds to {forgotten}")
