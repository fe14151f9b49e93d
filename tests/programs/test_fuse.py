"""Convolutions joined with their norms and activations, in programs that are compiled for inference."""

from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm.inference import compile
from jaxlstm.programs.operators.inference import CONVOLUTION, FEW_ROWS, MEAN
from testing.gradients import assert_close
from testing.modules import module_of, randomized


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


@pytest.mark.quick("2")
@pytest.mark.parametrize("nd", [1, 2])
def test_values(nd: int) -> None:
    """Compiled programs give torch's results, and a program keeps its own operators."""
    module = randomized(Branches(nd)).eval()
    x = torch.randn(2, 3, *(19, 23)[:nd])
    program = jaxlstm.from_module(module, (x,))
    form = program.for_inference()
    operators = Counter(node.op.split(".")[1] for node in form._steps.graph.nodes)
    assert operators["convolution"] == 6
    assert operators["batch_norm"] == 2
    assert {op for op in operators if "conv" not in op} >= {"gelu", "add"}
    assert not {*operators} & {"hardswish", "hardtanh", "silu", "relu"}
    assert not any(node.op == CONVOLUTION for node in program._steps.graph.nodes)
    for result in (compile(program)(x.numpy()), form(form.params, x.numpy())):
        assert_close(result, module(x), 2e-6, 0)


def gated(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Gates by the means of channels, sums before and after activations, and products other than gates."""
    x = m.first(x)
    x = torch.relu(m.norm(m.narrow(torch.sigmoid(m.gate(m.pool(x))) * x)) + x)
    x = x + torch.relu(m.second(x * m.gate(x.mean((2, 3), keepdim=True)).sigmoid()))
    y = m.third(x * m.narrow(x)) + m.third(x * m.scale) + m.third(2 * x) + 1
    return y, x.mean(2), x.mean((-1, -2)), y + m.third(x).mean((2, 3), keepdim=True)


@pytest.mark.parametrize("size", [(5, 4), (40, 33)])
def test_gates_sums_and_means(size: tuple[int, int]) -> None:
    """Gates of squeeze and excitation, sums and means are parts of the convolutions or run as such."""
    module = module_of(
        gated,
        first=nn.Conv2d(3, 20, 3),
        gate=nn.Conv2d(20, 20, 1),
        narrow=nn.Conv2d(20, 20, 1),
        norm=nn.BatchNorm2d(20),
        second=nn.Conv2d(20, 20, 3, padding=1),
        third=nn.Conv2d(20, 6, 1),
        pool=nn.AdaptiveAvgPool2d(1),
        scale=nn.Parameter(torch.randn(20, 1, 1)),
    )
    x = torch.randn(3, 3, *size)
    program = jaxlstm.from_module(module, (torch.randn(2, 3, 9, 9),))
    form = program.for_inference()
    joined = Counter(
        name for node in form._steps.graph.nodes if node.op == CONVOLUTION for name in node.kwargs
    )
    operators = Counter(node.op for node in form._steps.graph.nodes)
    assert (joined["gate"], joined["residual"], operators[MEAN]) == (4, 3, 3)
    assert_close(compile(program)(x.numpy()), module(x), 5e-6, 0)


def layers(m: Any, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """LSTMs of all kinds and a GRU; only those without a projection are prepared."""
    y, (h_n, c_n) = m.first(x, (h, h + 1))
    z, _ = m.second(y.transpose(0, 1))
    return *m.gru(m.third(z.transpose(0, 1))[0], h), h_n, c_n


def test_layers() -> None:
    """Layers give torch's results, with lengths too, and their weights are packed once."""
    module = module_of(
        layers,
        first=nn.LSTM(5, 33, num_layers=2, bidirectional=True, batch_first=True),
        second=nn.LSTM(66, 8, bias=False),
        third=nn.LSTM(8, 6, proj_size=4, batch_first=True),
        gru=nn.GRU(4, 33, num_layers=2, bidirectional=True, batch_first=True),
    )
    x, h = torch.randn(3, 7, 5), torch.randn(4, 3, 33)
    program = jaxlstm.from_module(module, (x, h))
    runner = compile(program)
    assert len(runner._compiled._weights) == len(program.params) + 5
    for part in (x, x[:, :4]):
        assert_close(runner(part.numpy(), h.numpy()), module(part, h), 2e-6, 0)
    x[1, 3:] = torch.nan
    lengths = np.array([7, 3, 5], np.int32)
    plain = program(program.params, x.numpy(), h.numpy(), seq_lengths=lengths)
    assert_close(runner(x.numpy(), h.numpy(), seq_lengths=lengths), plain, 2e-6, 0)


@pytest.mark.parametrize("changes", [{"dtype": torch.bfloat16}, {"computed": True}])
def test_other_dtypes_and_computed_weights(changes: dict[str, Any]) -> None:
    """Half precision runs without the kernel, and weights that the model computes run with it."""
    pool = nn.AdaptiveAvgPool2d(1)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), pool).eval()
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


def test_an_input_that_changes() -> None:
    """The input of a convolution changes in place before its activation."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = torch.stack([x, x], 1)
        view = x[:, 0]
        y = m.conv(view)
        x.mul_(3)
        return torch.relu(y) + view.sum()

    module, x = module_of(forward, conv=nn.Conv1d(3, 4, 3)), torch.randn(2, 3, 8)
    program = jaxlstm.from_module(module, (x,))
    scanned = compile(program.with_options(backend="scan"))
    for runner in (compile(program), scanned):
        assert_close(runner(x.numpy()), module(x), 1e-5, 0)
    assert "jaxlstm_convolve" not in next(iter(scanned._compiled._executables.values())).call.as_text()


def steps(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Three cells and a linear layer in a loop."""
    h = c = x.new_zeros(x.shape[0], 33)
    g = x.new_ones(x.shape[0], 8)
    state = x.new_zeros(x.shape[0], 8), x.new_ones(x.shape[0], 8)
    for step in range(20):
        h, c = m.first(x[:, step], (h, c))
        state = m.second(h, state)
        c = c + m.last(h)
        g = m.gru(h, g)
    return state[0] + state[1] + g


def test_cells() -> None:
    """Cells of a loop give torch's results, on weights that are packed once."""
    cells = {"first": nn.LSTMCell(5, 33), "second": nn.LSTMCell(33, 8, bias=False), "gru": nn.GRUCell(33, 8)}
    module = module_of(steps, last=nn.Linear(33, 33), **cells)
    runner = compile(jaxlstm.from_module(module, (torch.randn(3, 20, 5),)))
    for rows in (1, FEW_ROWS, FEW_ROWS + 1):
        x = torch.randn(rows, 20, 5)
        assert_close(runner(x.numpy()), module(x), 1e-5, 0)
        text = next(reversed(runner._compiled._executables.values())).call.as_text()
        assert ("jaxlstm_convolve" in text) == (rows <= FEW_ROWS)
    assert len(runner._compiled._weights) == len(runner.program.params) + 5  # not 5 for each step
    assert len(runner._compiled._executables) == 3
    for executable in runner._compiled._executables.values():
        assert executable.call.as_text().count("jaxlstm_layer") >= 3


def norms(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Norms with the channels last, first, and without a convolution's order."""
    x = m.third(torch.relu(m.second(m.conv(x))))
    return m.layer(x) + m.tracked(x).sum(1, keepdim=True) + m.first(x.flatten(0, 1)).reshape(x.shape)


def test_norms() -> None:
    """Norms run on the native kernel, except by running statistics and in float64, which are XLA's."""
    module = module_of(
        norms,
        conv=nn.Conv2d(3, 12, 3),
        second=nn.GroupNorm(3, 12),
        third=nn.InstanceNorm2d(12, affine=True),
        layer=nn.LayerNorm([5, 7], bias=False),
        tracked=nn.InstanceNorm2d(12, track_running_stats=True),
        first=nn.GroupNorm(5, 5, eps=0.1),
    )
    module = randomized(module).eval()
    x = torch.randn(2, 3, 7, 9)
    program = jaxlstm.from_module(module, (x,))
    operators = Counter(node.op for node in program.for_inference()._steps.graph.nodes if "norm" in node.op)
    assert sum(op.startswith("inference.") for op in operators.elements()) == 5
    assert "inference.group_norm.channels_last" in operators
    with torch.inference_mode():
        assert_close(compile(program)(x.numpy()), module(x), 1e-5, 0)
        assert_close(compile(program)(x[:1].numpy()), module(x[:1]), 1e-5, 0)


def test_norms_in_float64() -> None:
    with jax.enable_x64(True):
        module = nn.LayerNorm(6).double()
        x = torch.randn(4, 6, dtype=torch.float64)
        assert_close(compile(jaxlstm.from_module(module, (x,)))(x.numpy()), module(x), 1e-14, 0)
