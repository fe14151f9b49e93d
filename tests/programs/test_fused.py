"""Convolutions joined with their norms and activations, in programs that are compiled for inference."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm.inference import compile
from jaxlstm.programs.operators.inference import CONVOLUTION


class Branches(nn.Module):
    """Convolutions with all that may follow them, a skip, and a result before a norm that is used twice."""

    def __init__(self, nd: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if nd == 1 else (nn.Conv2d, nn.BatchNorm2d)
        self.first = nn.Sequential(conv(3, 20, 3, 2, 1, bias=False), norm(20, affine=False), nn.Hardswish())
        self.depthwise = nn.Sequential(
            conv(20, 20, 3, padding=2, dilation=2, groups=20), norm(20), nn.ReLU6()
        )
        self.narrow = nn.Sequential(conv(20, 8, 1), nn.SiLU(), conv(8, 20, 3, padding="same"), nn.ReLU())
        self.twice, self.norm = conv(20, 12, 3, groups=4), norm(12)
        self.last = nn.Sequential(norm(12), nn.GELU(), conv(12, 2, 1), nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.first(x))
        y = self.twice(x + self.narrow(x))
        return self.last(self.norm(y) + y)


@pytest.mark.parametrize("nd", [1, 2])
def test_values(nd: int) -> None:
    """Compiled programs give torch's results, and a program keeps its own operators."""
    module = Branches(nd).eval()
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
        norm.running_mean, norm.running_var = (
            torch.randn(norm.num_features),
            torch.rand(norm.num_features) + 0.5,
        )
    x = torch.randn(2, 3, *(19, 23)[:nd])
    program = jaxlstm.from_module(module, (x,))
    form = program.for_inference()
    operators = Counter(node.op.split(".")[1] for node in form._run.graph.nodes)
    assert operators["convolution"] == 6
    assert operators["batch_norm"] == 2
    assert {op for op in operators if "conv" not in op} >= {"gelu", "add"}
    assert not {*operators} & {"hardswish", "hardtanh", "silu", "relu"}
    assert not any(node.op == CONVOLUTION for node in program._run.graph.nodes)
    with torch.no_grad():
        expected = module(x).numpy()
    for result in (compile(program)(x.numpy()), form(form.params, x.numpy())):
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("changes", [{"dtype": torch.bfloat16}, {"computed": True}])
def test_other_dtypes_and_computed_weights(changes: dict[str, Any]) -> None:
    """Half precision runs without the kernel, and weights that the model computes run with it."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    x = torch.randn(2, 3, 9, 9)
    if changes.get("computed"):
        nn.utils.parametrizations.weight_norm(module[0])
    module, x = module.to(changes.get("dtype")), x.to(changes.get("dtype"))
    with torch.no_grad():
        expected = module(x).float().numpy()
    program = jaxlstm.from_module(module, (x,))
    given = np.asarray(x.float().numpy(), program.inputs[0].type.dtype)  # type: ignore[union-attr]
    result = np.asarray(compile(program)(given), np.float32)
    np.testing.assert_allclose(result, expected, rtol=0, atol=0.05 if "dtype" in changes else 2e-6)


class Changed(nn.Module):
    """The input of a convolution changes in place before its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.stack([x, x], 1)
        view = x[:, 0]
        y = self.conv(view)
        x.mul_(3)
        return torch.relu(y) + view.sum()


def test_an_input_that_changes() -> None:
    module, x = Changed().eval(), torch.randn(2, 3, 8)
    program = jaxlstm.from_module(module, (x,))
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(compile(program)(x.numpy()), expected, rtol=0, atol=1e-5)
    scanned = compile(program.with_options(backend="scan"))
    np.testing.assert_allclose(scanned(x.numpy()), expected, rtol=0, atol=1e-5)
    assert "jaxlstm_convolve" not in next(iter(scanned._compiled._executables.values())).call.as_text()


class Steps(nn.Module):
    """Two cells in a loop, one without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(5, 33), nn.LSTMCell(33, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[0], 33)
        state = x.new_zeros(x.shape[0], 8), x.new_ones(x.shape[0], 8)
        for step in range(20):
            h, c = self.first(x[:, step], (h, c))
            state = self.second(h, state)
        return state[0] + state[1]


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_cells(rows: int) -> None:
    """Cells of a loop give torch's results, on weights that are packed once."""
    module, x = Steps().eval(), torch.randn(rows, 20, 5)
    runner = compile(jaxlstm.from_module(module, (torch.randn(3, 20, 5),)))
    with torch.no_grad():
        np.testing.assert_allclose(runner(x.numpy()), module(x).numpy(), rtol=0, atol=2e-6)
    (executable,) = runner._compiled._executables.values()
    assert len(runner._compiled._weights) == len(runner.program.params) + 2  # not 2 for each step
    assert executable.call.as_text().count("jaxlstm_step") >= 2
