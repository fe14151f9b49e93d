"""verify_model of programs: right ones hold, and a fault in an operator is found at its node."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch import nn
from torch.nn import functional

import jaxlstm
from jaxlstm.check import verify_model
from jaxlstm.programs.operators import registry
from testing.exported import AUTO
from testing.modules import module_of, randomized
from testing.written import written_program


class Model(nn.Module):
    """A module that calls the twelve operators of ``FAULTS``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.batch_norm = nn.BatchNorm1d(8)
        self.group_norm = nn.GroupNorm(2, 8)
        self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Linear(8, 6), nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.leaky_relu(self.group_norm(self.batch_norm(self.conv(x))), 0.2)
        x = self.norm(self.lstm(functional.max_pool2d(x[:, :, None], (1, 2))[:, :, 0].transpose(1, 2))[0])
        x = self.head(x)
        x = torch.cat([x, functional.silu(x)], -1)
        return torch.softmax(x, -1).mean(1)


FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "aten.conv1d.default": ("conv", lambda f, **k: f(**{**k, "bias": None})),
    "aten.batch_norm.default": ("batch_norm", lambda f, **k: f(**{**k, "eps": 1e-3})),
    "aten.group_norm.default": ("group_norm", lambda f, **k: f(**{**k, "num_groups": 1})),
    "aten.leaky_relu.default": ("", lambda f, **k: f(**{**k, "negative_slope": 0.01})),
    "aten.max_pool2d.default": ("", lambda f, **k: -f(**{**k, "self": -k["self"]})),
    "aten.lstm.input": ("lstm", lambda f, **k: tuple(1.001 * a for a in f(**k))),
    "aten.layer_norm.default": ("norm", lambda f, **k: f(**{**k, "eps": 1e-6})),
    "aten.linear.default": ("head.0", lambda f, **k: f(**{**k, "bias": None})),
    "aten.gelu.default": ("head.1", lambda f, **k: f(**{**k, "approximate": "tanh"})),
    "aten.silu.default": ("", lambda f, **k: jnp.maximum(k["self"], 0)),
    "aten.cat.default": ("", lambda f, **k: f(**{**k, "tensors": k["tensors"][::-1]})),
    "aten.softmax.int": ("", lambda f, **k: f(**{**k, "dim": 1})),
}
"""By operator: the path of the module that calls it, and the wrong operator."""


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    model, x = randomized(Model()).eval(), torch.randn(3, 3, 10)
    return model, (x,), jaxlstm.from_module(model, (x,))


def test_right_program_holds(exported):
    model, args, program = exported
    report = verify_model(program, model, args)
    assert report.ok, str(report)
    assert {item.status for item in report.items} == {"ok"}
    assert report.title == "Program in float32"


def test_call_rearranges_the_arguments_of_a_program():
    model, x = nn.Conv1d(3, 4, 3).eval(), torch.randn(3, 3, 10)
    program, args = jaxlstm.from_module(model, (x,)), (x.mT.contiguous(),)
    module = module_of(lambda m, x: m.inner(x.mT), inner=model)
    report = verify_model(program, module, args, call=lambda run, x: run(x.mT), gradients=False)
    assert report.ok, str(report)
    report = verify_model(program, module, args, call=lambda run, x: run(2 * x.mT), gradients=False)
    assert not report.ok
    assert not any("node" in line for line in report.diagnosis)


def test_complex_inputs():
    model = module_of(lambda m, z: (m.linear(z.abs()), z * 2), linear=nn.Linear(3, 2))
    args = (torch.randn(4, 3, dtype=torch.complex64),)
    program = jaxlstm.from_module(model, args)
    for theirs in (model, program):
        report = verify_model(program, theirs, args)
        assert report.ok, str(report)
    wrong = verify_model(lambda z: (program(program.params, z)[0], z.real * 2 + 2.01j * z.imag), model, args)
    assert not wrong.ok
    assert "outputs[1].imag" in str(wrong)


def test_each_free_axis_changes_alone_and_all_together():
    """Axes of the same size as a fixed axis change too; an axis that torch fixed after all is named."""
    outer = module_of(lambda _, x, y: x[:, None] * y[None, :, 0, None])
    args = torch.randn(3, 4), torch.randn(5, 3)
    program = jaxlstm.from_module(outer, args, dynamic_shapes=({0: AUTO}, {0: AUTO}))
    report = verify_model(program, outer, args, gradients=False)
    assert report.ok, str(report)
    cases = next(item for item in report.items if item.id == "form").data["cases"]
    axes = "3 -> {} on axis 0 of args[0]", "5 -> {}"
    together = [f"sizes {axes[0].format(n)}, {axes[1].format(m)}" for n, m in ((1, 1), (134, 132))]
    alone = [f"sizes {axes[0].format(8)}", f"sizes {axes[1].format(12)}"]
    assert [name for name in cases if name.startswith("sizes")] == together + alone
    fixed = torch.export.export(outer, args, dynamic_shapes=({0: AUTO}, {}))
    report = verify_model(program, fixed, args, gradients=False)
    assert any("axis 0 of args[1]" in note and "free" in note for note in report.notes)
    assert "no other sizes" not in report.verdict


@pytest.mark.quick("aten.conv1d.default", "aten.max_pool2d.default", "aten.gelu.default")
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_at_its_node(exported, monkeypatch, name):
    model, args, program = exported
    path, wrong = FAULTS[name]
    right = registry.find_operator(name)
    assert right is not None
    names = list(right.signature.parameters)

    def function(*args, **kwargs):
        return wrong(right.function, **dict(zip(names, args, strict=False)), **kwargs)

    function.__signature__ = right.signature
    faulty = registry.Operator(name, function, right.write_back, right.may_alias)
    monkeypatch.setitem(registry._OPERATORS, name, faulty)
    program = type(program)(program.graph, {**program.params, **program.buffers, **program.constants})
    report = verify_model(program, model, args, gradients=False)
    assert not report.ok
    (node,) = [n for n in program.graph.nodes if n.op == name]
    where = f"node {node.name} in {path}" if path else f"node {node.name}, "
    assert report.diagnosis[0].startswith(f"first differs at {where}"), "\n".join(report.diagnosis)
    assert name in report.diagnosis[0]


def test_another_epsilon_than_the_module(exported):
    """Each node equals torch's operator, so the cause lies in the arguments that the graph holds."""
    model, args, program = exported
    theirs = copy.deepcopy(model)
    theirs.norm.eps = 1e-3
    report = verify_model(program, theirs, args, gradients=False, seconds=60)
    assert report.diagnosis[0].startswith(
        "matches Model if the epsilon of norm (layer_norm) is 1e-05 instead"
    )


class Scaled(nn.Module):
    """Tied layers, a buffer that float32 rounds, and one of integers."""

    table: torch.Tensor
    order: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 3)
        self.outer.weight = self.inner.weight
        self.register_buffer("table", torch.tensor([1 / 3]))
        self.register_buffer("order", torch.arange(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(x)))[:, self.order.clone()] * self.table


def scaled(params: dict[str, Any], x: Any, table: float = 1 / 3) -> Any:
    """Port of ``Scaled`` with the table in full precision."""
    x = jnp.tanh(x @ params["inner.weight"].T + params["inner.bias"])
    return (x @ params["inner.weight"].T + params["outer.bias"]) * table


def test_a_program_is_a_reference_without_torch():
    x = torch.randn(4, 3)
    program = jaxlstm.from_module(Scaled().eval(), (x,))
    report = verify_model(scaled, program, (x,), params=program.params)
    assert report.ok, str(report)
    assert report.settings["against"] == "program"
    assert "torch" not in report.environment
    (refusal,) = [item.detail for item in report.items if item.id == "float64"]
    assert "rounded table to float32" in refusal
    report = verify_model(partial(scaled, table=0.3), program, (x,), params=program.params)
    assert report.failures
    with pytest.raises(jaxlstm.ProgramError, match="x"):
        verify_model(scaled, program, (x[:, :2],), params=program.params)


def test_an_exported_program_with_tied_weights(tmp_path):
    x = torch.randn(4, 3)
    program = jaxlstm.from_module(Scaled().eval(), (x,))
    program.save(tmp_path / "a.pt2")
    report = verify_model(program, torch.export.load(tmp_path / "a.pt2"), (x,))
    assert report.ok, str(report)


@pytest.mark.slow
def test_a_program_that_cannot_be_traced_is_a_reference():
    args = torch.randn(4, 3), torch.tensor([True, False, True, True])
    program = jaxlstm.from_module(module_of(lambda _, x, mask: (x * x)[mask]), args)
    report = verify_model(lambda x, mask: x[mask] ** 2, program, args)
    assert report.ok, str(report)
    assert report.items[0].detail == "12 cases"
    assert not verify_model(lambda x, mask: x[mask] ** 3, program, args).ok


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_a_program_as_a_reference_refuses_values():
    x = torch.rand(4, 3) + 1
    program = jaxlstm.from_module(module_of(lambda _, x: x * 2 if x.min() > 0.5 else x), (x,))
    report = verify_model(lambda x: x * 2, program, (x,))
    assert report.ok, str(report)
    assert any("small values: skipped" in note for note in report.notes)


def test_indices_beyond_an_axis_of_another_size_are_skipped() -> None:
    """The program refuses them outside of jit."""
    args = torch.rand(3, 4), torch.tensor([2, 3, 0, 1, 2])
    program = jaxlstm.from_module(module_of(lambda _, x, index: x[:, index] * 2), args)
    report = verify_model(lambda x, index: jnp.take(x, index, axis=1, mode="clip") * 2, program, args)
    assert report.ok, str(report)


@pytest.mark.slow
def test_a_program_as_a_reference_locates_the_module(exported):
    _, args, program = exported

    port, reports = written_program(program).model, []
    for epsilon in (1e-5, 1e-2):
        port.batch_norm.epsilon = epsilon
        reports.append(verify_model(port, program, args))
    assert reports[0].ok, str(reports[0])
    (line,) = reports[1].diagnosis
    assert line.startswith("first differs in batch_norm, a BatchNorm1d whose inputs agree")


def test_softplus_of_large_numbers() -> None:
    """torch cuts softplus at 20, where float64 shows it and float32 does not."""
    module = module_of(lambda self, x: torch.log(functional.softplus(8 * x) + 1e-3))
    x = 3 * torch.randn(5, 4)
    program = jaxlstm.from_module(module, (x,))
    verify_model(lambda x: jnp.log(jax.nn.softplus(8 * x) + 1e-3), program, (x,)).raise_if_failed()
    verify_model(program, module, (x,)).raise_if_failed()
