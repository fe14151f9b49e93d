"""Written source at the edges: sizes, states of layers, layers in place, loops, new floats, and the proof."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import while_loop

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.passes import repeat_to_scan
from jaxlstm_converters.source._write_source import SourceFiles
from jaxlstm_converters.source.graph import steps_to_scan
from jaxlstm_converters.source.proof import load_written, prove
from testing.exported import with_example
from testing.modules import module_of
from testing.written import altered, assert_equal, assert_holds, body_of, write, written_program


@pytest.mark.parametrize(
    ("forward", "shapes", "others", "assertion"),
    [
        (lambda self, x: x * 2 if x.shape[0] % 2 else x * 3, [(4, 3)], [(5, 3)], "x.shape[0] % 2 == 0"),
        (lambda self, x: x * 2 if x.shape[0] % 2 else x * 3, [(5, 3)], [(4, 3)], "x.shape[0] % 2 != 0"),
        (lambda self, x: x * 2 if 8 <= x.shape[1] < 12 else x, [(2, 9)], [(2, 12)], "8 <= x.shape[1] <= 11"),
        (lambda self, x, y: x.sum() + y[:, 0], [(3, 2), (4, 2)], [(3, 2), (0, 3)], "x.size and y.size"),
        (lambda self, x, y: x + y, [(3, 2), (3, 2)], [(3, 2), (1, 2)], "x.shape[0] == y.shape[0]"),
        (
            lambda self, x, y: x * len(y) if sorted([len(x), len(y)])[0] == len(x) else x,
            *([(3, 2), (4, 2)], [(4, 2), (3, 2)], "y.shape[0] >= x.shape[0]"),
        ),
    ],
)
def test_conditions_on_sizes(forward: Any, shapes: Any, others: Any, assertion: str) -> None:
    inputs = [torch.randn(shape) for shape in shapes]
    written = write(module_of(forward), *inputs)
    assert_equal(written, *inputs)
    assert assertion in written.text
    assert written.text.count(" assert ") <= 2, written.text
    with pytest.raises(AssertionError, match="export an example with others"):
        written.model(*(np.zeros(shape, np.float32) for shape in others))


def test_conditions_on_values() -> None:
    """Where a condition is not as in the example, the results are NaN or the smallest integer."""

    def forward(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        x = x * 2 if n.max() > 3 else x * 3
        x = x * 5 if x.mean().item() < 9 and 2 * int(n.max()) + int(n.min()) < 11 else x
        x = x * 2 if (n.max().item() > 3) | (n.min().item() > 1) else x
        x = x * 7 if torch.any(n == 0) and not bool((n > 7).all()) else x
        return x, n + int(n.min() == 0), n > 2

    with pytest.warns(UserWarning, match="conditions on values"):
        written = write(module_of(forward), torch.rand(3, 2), torch.tensor([5, 2, 0]))
    x, n = np.ones((3, 2), np.float32), np.array([1, 4, 0])
    assert_equal(written, torch.tensor(x), torch.tensor(n))
    for args in ((x, n % 4), (x * 5, n), (x, n + 1), (x, n * 0 + 8)):  # each breaks a condition
        y, number, truth = jax.jit(lambda *args: written.model(*args))(*args)
        assert np.isnan(y).all()
        assert (number == np.iinfo(np.int32).min).all()
        np.testing.assert_array_equal(truth, args[1] > 2)


def states(self: Any, x: Tensor) -> Tensor:
    """Constants, buffers and parameters beside a layer's own, and a pair of rows."""
    stacked = torch.stack([self.start[0][0], self.cell.scale * x[:, 0]])
    y, _ = self.layer(self.drop(x + self.linear.offset), (self.layer.h, self.start[1]))
    return y + self.linear(self.cell(x[:, 1], (stacked[0], stacked[1]))[1][:, None])


def test_states_of_layers() -> None:
    parts: Any = {"cell": nn.LSTMCell(5, 5), "linear": nn.Linear(5, 5), "drop": nn.Dropout(0.5, inplace=True)}
    model: Any = module_of(states, layer=nn.LSTM(5, 5, batch_first=True), **parts)
    model.start = (torch.randn(1, 4, 5), torch.zeros(1, 4, 5))
    model.linear.offset = nn.Parameter(torch.randn(5))
    model.cell.register_buffer("scale", torch.randn(5))
    model.layer.h = torch.randn(1, 4, 5)
    x = torch.randn(4, 3, 5)
    written = write(model, x)
    assert_equal(written, x)
    assert "self.drop(" in written.text


def floats(self: Any, x: Tensor) -> list[Tensor]:
    n = x.shape[0]
    numbers = [torch.arange(n, dtype=torch.float32), torch.tensor(x.shape) / 2, x.int() * 0.5, torch.ones(n)]
    numbers += [torch.linspace(0, 1, 3), (x > 0).float(), torch.full((n,), 0.5), torch.where(x > 0, 0.1, 2.0)]
    return [*numbers, torch.tensor([0.1, 0.2]), x * self.weight, torch.arange(n), x.new_zeros(n)]


def test_floats_are_torchs_in_both_modes(tmp_path: Path) -> None:
    model, x = module_of(floats, weight=nn.Parameter(torch.randn(3))), torch.randn(2, 3)
    files = jaxlstm.write_source(jaxlstm.from_module(model, (x,)), tmp_path / "model.py")
    assert not files.remarks
    with jax.enable_x64(True):
        written: Any = load_written(files)
        for ours, theirs in zip(written(x.numpy()), model(x), strict=True):
            np.testing.assert_array_equal(ours, theirs.detach())
            assert np.asarray(ours).dtype == theirs.detach().numpy().dtype


def repeated(self: Any, x: Tensor) -> Tensor:
    steps = while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, y * self.weight + y.detach()), (x.new_zeros(()), x)
    )
    return steps[1]


@pytest.mark.filterwarnings("ignore:.*fixed parts of the model")
@pytest.mark.parametrize("has_example", [True, False])
def test_a_proof_goes_on_with_the_inputs_that_a_program_takes(has_example: bool, tmp_path: Path) -> None:
    forward = lambda self, x: self.weight * x if float(x.sum()) > 100 else x  # noqa: E731
    model = module_of(forward, weight=nn.Parameter(torch.randn(3)))
    jaxlstm.from_module(model, (torch.full((2, 3), 50.0),)).save(tmp_path / "a.pt2")
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    program._example = program._example if has_example else None
    files = SourceFiles.of(program, tmp_path / "model.py")
    files.write(overwrite=False)
    proof = prove(files, program)
    assert proof.holds == has_example
    assert has_example or "the program takes no input of the proof" in proof.lines[0]


def test_a_loop_has_forward_derivatives(tmp_path: Path) -> None:
    model = module_of(repeated, weight=nn.Parameter(torch.randn(3)))
    program = jaxlstm.from_module(model, (torch.randn(2, 3),))
    files = SourceFiles.of(program, tmp_path / "model.py")
    files.write(overwrite=False)
    proof = prove(files, program)
    assert proof.holds
    assert "values and forward derivatives" in proof.verdict
    files.source.write_text(files.text.replace("lax.stop_gradient", ""))
    assert "forward derivative of outputs: other values" in prove(files, program).lines


def test_wrong_source_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = jaxlstm.from_module(module_of(lambda self, x: x.tanh()), (torch.randn(2, 3),))
    altered(monkeypatch, "jnp.tanh", "jnp.arctan")
    with pytest.raises(ProgramError, match=r"the source differs from the program: .*outputs"):
        jaxlstm.write_source(program, tmp_path / "model.py")
    assert not list(tmp_path.iterdir())


def test_source_that_cannot_be_compared_says_so(tmp_path: Path) -> None:
    def chosen(self: Any, table: Tensor, places: Tensor) -> Tensor:
        torch._check(places[0].item() > 100)
        return table * places

    inputs = torch.randn(3), torch.tensor([200, 1, 2])
    jaxlstm.from_module(module_of(chosen), inputs).save(tmp_path / "model.pt2")
    with_example(tmp_path / "model.pt2", b"")
    files = jaxlstm.write_source(tmp_path / "model.pt2", tmp_path / "model.py")
    assert any(remark.startswith("not compared with the program, since") for remark in files.remarks)


def limited(self: Any, x: Tensor, *args: Tensor) -> Tensor:
    """A layer whose weights are limited in place, in two ways."""
    (factor,) = args
    self.out.bias.data.clamp_(max=0.1)
    with torch.no_grad():
        self.out.weight.mul_(0.5 / self.out.weight.norm(dim=1, keepdim=True))
    return self.out(x) * factor


def test_weights_that_are_limited_in_place_keep_their_gradient() -> None:
    x, factor = torch.randn(2, 3), torch.randn(2, 4)
    with pytest.warns(UserWarning, match=r"forward changes out\.weight"):
        written = write(module_of(limited, out=nn.Linear(3, 4)), x, factor)
    assert_holds(written, x, factor)
    assert "def __call__(self, x, factor):\n" in written.text
    assert "def __call__(self, x, weight, bias):\n" in written.text


def test_a_changed_buffer_keeps_its_value() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls

    x = torch.randn(2, 3)
    written = write(module_of(forward, calls=torch.zeros(3)), x)
    _, buffers = written.program.call_with_buffers({}, x.numpy())
    written.model(x.numpy())
    assert written.model.calls[...] == pytest.approx(buffers["calls"])


def steps(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A loop over time, with or without dropout in it."""
    h, c = torch.zeros(x.shape[0], 4), x[:, 0, :1].repeat(1, 4)
    outputs = []
    for t in range(x.shape[1]):
        h, c = self.cell(self.drop(x[:, t]), (h, c))
        outputs.append(h)
    y = torch.stack(outputs, dim=1)
    return y, c


@pytest.mark.quick("0.5")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loop_over_time_is_a_scan(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout it is a plain loop: a function of ``jax.lax`` may not change the counter of its keys."""
    for part in (repeat_to_scan, steps_to_scan):
        monkeypatch.setattr(part, "FEWEST_COPIES", 4)
    x = torch.randn(2, 5, 3)
    written = write(module_of(steps, cell=nn.LSTMCell(3, 4), drop=nn.Dropout(dropout)), x)
    assert_equal(written, x)
    body = "\n".join(body_of(written.text, "Model"))
    step = """
        def step(carry, x_t):
            h, c = carry
            h, c = self.cell(x_t, (h, c))
            return (h, c), h
        (_, c), outputs = jax.lax.scan("""
    plain = """
        for x_t in x.swapaxes(0, 1):
            h, c = self.cell(self.drop(x_t), (h, c))
            outputs.append(h)
"""
    assert (step in body, plain in body) == (not dropout, bool(dropout)), body
    assert ("y = jnp.stack(outputs, 1)" if dropout else "y = outputs.swapaxes(0, 1)") in body
    written.model.train()
    written.model(x.numpy())


class Last(nn.Module):
    """A module whose loop begins with the operator that a method calls after it."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(5):
            x = self.part(x) * x.exp() + 1
        return self.last(x)

    def last(self, x: Tensor) -> Tensor:
        """Return the result."""
        return self.part(x)


def test_the_first_operator_of_a_loop_follows_in_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (repeat_to_scan, steps_to_scan):
        monkeypatch.setattr(part, "FEWEST_COPIES", 4)
    x = torch.randn(2, 3)
    assert_equal(write(Last(), x), x)


def slices(self: Any, x: Tensor) -> Tensor:
    """A loop over slices of one row, which are empty beyond the end of the input."""
    h = x[:, 0]
    for t in range(1, 5):
        h = torch.tanh(h) + x[:, t : t + 1].sum(1) + 1
    return h


def test_slices_that_may_be_empty() -> None:
    written = write(module_of(slices), torch.randn(2, 9, 3))
    for length in (9, 3):
        assert_equal(written, torch.randn(2, length, 3))


def test_an_operator_that_only_training_has() -> None:
    """A mask of the model's own, drawn by an operator that programs do not have."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y * y.new_empty(y.shape).bernoulli_(0.5) if self.training else y

    model = module_of(forward, linear=nn.Linear(3, 3)).eval()
    files = SourceFiles.of(jaxlstm.from_module(model, (torch.randn(2, 3),)), "model.py")
    (remark,) = files.remarks
    assert "cannot be compared in training: it calls aten.bernoulli_.float" in remark


def test_gradient_of_one_running_sum() -> None:
    """XLA's is wrong on CPUs for the sum in the middle."""
    module = module_of(lambda self, x: self.layer(x).cumsum(0)[4], layer=nn.Linear(3, 3))
    x = torch.randn(9, 3)
    assert_holds(written_program(jaxlstm.from_module(module, (x,))), x)
