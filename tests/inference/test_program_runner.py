"""A compiled program: results equal to the program's at every size, few executables, maps and streams."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm import ProgramError
from jaxlstm.inference import compile, compiled_program
from jaxlstm.inference.random_inputs import random_inputs
from testing import graphs
from testing.exported import AUTO
from testing.gradients import assert_close
from testing.inference import compilations, normal
from testing.modules import module_of
from testing.zoo.series import of_x, outputs_of_lstm, recurrent_layers


def program_of(module: nn.Module | Callable[[torch.Tensor], Any]) -> jaxlstm.Program:
    module = module if isinstance(module, nn.Module) else of_x(module)
    return jaxlstm.from_module(module.eval(), (torch.randn(3, 7, 3),), dynamic_shapes=({0: AUTO, 1: AUTO},))


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_a_reverse_direction_starts_at_the_last_step_without_an_example(layer: Any) -> None:
    """A file need not record the sizes of the example. Time is padded, and the layer takes the lengths."""
    options = {"batch_first": True, "bidirectional": True}
    program = program_of(module_of(lambda m, x: m.layer(x)[0], layer=layer(3, 4, **options)))
    runner = compile(graphs.without_example(program))
    assert runner.padded == compile(program).padded
    for steps in (5, 9, 13):
        x = normal(3, steps, 3)
        np.testing.assert_allclose(runner(x), program(program.params, x), atol=1e-6)
    assert runner.stats().padding_waste > 0


@pytest.mark.slow
def test_few_executables() -> None:
    program = program_of(recurrent_layers())
    compile(program_of(nn.Linear(3, 4)))(normal(1, 2, 3))  # The first call compiles to learn XLA's options.
    runner, before = compile(program), compilations()
    for n in range(1, 40):
        runner(normal(1 + n % 4, n, 3))
    # three batch sizes at most in each of four lengths, and length 1, where torch has no export, separately
    assert compilations() - before == runner.stats().compilations <= 12 + 1
    stats = runner.stats()
    assert stats.calls == 39
    assert 0 < stats.padding_waste < 0.4
    exact, before = compile(program, pad=False, executables=2), compilations()
    for n in (3, 4, 3, 5, 3, 4):  # 5 makes room by dropping 4
        exact(normal(1, n, 3))
    assert compilations() - before == exact.stats().compilations == 4


@pytest.mark.parametrize(("batch", "padded", "steps"), [(3, 3, (20, 24)), (33, 48, (20, 24)), (3, 3, (7, 7))])
def test_the_batch_of_layers_is_not_padded_to_a_length(batch: int, padded: int, steps: tuple) -> None:
    """Where the time comes first, the batch is the second axis. The time is a free axis or fixed to 7."""
    layer, example = nn.GRU(3, 4).eval(), torch.randn(7, 3, 3)
    shapes = ({1: AUTO} if steps == (7, 7) else {0: AUTO, 1: AUTO},)
    runner = compile(jaxlstm.from_module(layer, (example,), dynamic_shapes=shapes))
    x = torch.randn(steps[0], batch, 3)
    assert_close(runner(x.numpy()), layer(x), 1e-5, 0)
    assert runner.stats().padding_waste == pytest.approx(1 - steps[0] * batch / (steps[1] * padded))


@pytest.mark.parametrize("layer", [nn.GRU(3, 4), nn.LSTM(3, 4, num_layers=2, bidirectional=True)])
def test_padding_of_nan(layer: nn.Module) -> None:
    """Steps after the end of a row and of the batch are NaN in the inputs of the layer."""
    program = program_of(module_of(lambda self, x: self.layer(x / x.abs() * x), layer=layer))
    x, lengths = normal(20, 3, 3), np.array([20, 13, 1])
    x[np.arange(20)[:, None] >= lengths] = 0
    expected = program.with_options(backend="scan")(program.params, x, seq_lengths=lengths)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5, 0), compile(program)(x, seq_lengths=lengths), expected)


@pytest.mark.parametrize("constants", [0, 2**28])
def test_weights_are_bound(constants: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights are constants of the executable, and large ones its arguments."""
    monkeypatch.setattr(compiled_program, "CONSTANTS", constants)
    program = program_of(recurrent_layers())
    runner = compile(program)
    x, lengths = normal(3, 9, 3), np.array([9, 2, 5])
    expected = program(program.params, x, seq_lengths=lengths)
    assert_close(runner(x, seq_lengths=lengths), expected, 1e-5, 0)
    assert bool(runner._compiled.executable((x.shape,), lengths, [x]).weights) == (constants == 0)


def test_inputs_are_checked_as_by_the_program() -> None:
    """At the size of the call, not of its bucket."""
    runner = compile(program_of(lambda x: x * 2 if x.shape[1] > 4 else x))
    assert runner(normal(2, 5, 3)).shape == (2, 5, 3)
    with pytest.raises(ProgramError, match="at least 5, got 4"):
        runner(normal(2, 4, 3))
    with pytest.raises(ProgramError, match="must have dtype float32, got float64"):
        runner(np.zeros((2, 5, 3)))
    with pytest.raises(ProgramError, match="takes 1 positional argument"):
        runner()
    with pytest.raises(ProgramError, match="at least 5, got 3"):
        runner.map([normal(3, 3)])


@pytest.mark.parametrize("pad", [None, False])
def test_a_second_call(pad: bool | None) -> None:
    """A call with shapes and dtypes of an earlier one skips the checks, and nothing else."""
    runner = compile(program_of(lambda x: x * 2), pad=pad)
    for x in (normal(2, 8, 3), normal(2, 8, 3), normal(2, 7, 3), normal(2, 7, 3), normal(2, 8, 3)):
        np.testing.assert_array_equal(runner(x), 2 * x)
        with pytest.raises(ProgramError, match="must have dtype float32, got float64"):
            runner(x.astype(np.float64))
        np.testing.assert_array_equal(runner(jax.numpy.asarray(x)), 2 * x)
    stats = runner.stats()
    assert (stats.calls, stats.valid_steps) == (10, 2 * 2 * (3 * 8 + 2 * 7))
    assert stats.compilations == (2 if pad is False else 1)


def test_sizes_that_the_program_refuses() -> None:
    """A bucket that the program refuses is not used."""
    runner = compile(program_of(lambda x: x * 2 if x.shape[1] % 2 else x))
    for steps in (7, 9, 7):
        x = normal(2, steps, 3)
        np.testing.assert_array_equal(runner(x), 2 * x)
    assert runner.stats().compilations == 2
    np.testing.assert_array_equal(runner.map([x[0], x[1]]), 2 * x)
    with pytest.raises(ProgramError, match="condition"):
        runner(normal(2, 4, 3))
    scan = compile(runner.program.with_options(backend="scan"))  # another export takes the bucket
    np.testing.assert_array_equal(scan(x), 2 * x)
    small = compile(program_of(lambda x: x * 2 if x.numel() < 200 else x))
    for steps in (3, 30, 33):  # The bucket of 33 has more elements.
        x = normal(2, steps, 3)
        np.testing.assert_array_equal(small(x), 2 * x)
    assert small.stats().padding_waste > 0
    relu = graphs.node("aten.relu.default", shape=("a", None), self=graphs.X)
    tied = compile(graphs.program(relu, shape=("a", None)))
    assert (tied.padded, tied(np.ones((3, 5), np.float32)).shape) == ({"a": False}, (3, 5))


@pytest.mark.parametrize(
    ("module", "calls"),
    [
        (outputs_of_lstm(lambda x: x, batch_first=True), 2),
        (of_x(lambda x: x - x.mean(0)), 6),
        (of_x(lambda x: x + torch.arange(5)[:, None, None]), 6),
    ],
)
def test_rows_of_a_fixed_batch(module: nn.Module, calls: int) -> None:
    """They share a batch only if they do not depend on each other, nor on their place."""
    runner = compile(jaxlstm.from_module(module, (torch.randn(5, 7, 3),), dynamic_shapes=({},)))
    rows = list(normal(6, 7, 3))
    for row, result in zip(rows, runner.map(rows), strict=True):
        assert_close(result, module(torch.from_numpy(np.stack([row] * 5)))[0], 2e-5, 0)
    assert runner.stats().calls == calls


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_rows_that_another_program_takes_are_not_padded() -> None:
    """The mean over time is in another branch than the example's, whose time is padded."""

    def forward(m: Any, x: torch.Tensor, flag: torch.Tensor) -> Any:
        x = m.linear(x) + flag[:, None]
        return x if (flag > 0).all() else x - x.mean(1, keepdim=True) if (flag > -2).all() else x.sum(0)

    module, example = module_of(forward, linear=nn.Linear(3, 3)), (torch.randn(2, 5, 3), torch.ones(2, 1))
    runner = compile(jaxlstm.from_module(module, example))
    assert any(runner.padded.values())
    rows = [(normal(n, 3), np.full(1, flag, np.float32)) for n, flag in ((17, 1), (18, -1), (19, -1))]
    for row, result in zip(rows, runner.map(rows), strict=True):
        expected = module(*(torch.from_numpy(x)[None] for x in row))[0]
        assert_close(result, expected, 1e-6, 0)
    with pytest.raises(ProgramError, match="for these values, a result has other axes"):
        runner.map([(normal(17, 3), np.full(1, -3, np.float32))])


def test_lengths_at_sizes_of_another_program() -> None:
    module = module_of(lambda m, x: m.gru(x)[0] * (2 if len(x) > 5 else 1), gru=nn.GRU(3, 4)).eval()
    program, x = jaxlstm.from_module(module, (torch.randn(5, 2, 3),)), normal(7, 2, 3)
    runner = compile(program)
    assert_close(runner(x, seq_lengths=[4, 7]), program(program.params, x, seq_lengths=[4, 7]), 1e-5, 0)
    with pytest.raises(ProgramError, match="seq_lengths must be between 1 and the number of time steps, 7"):
        runner(x, seq_lengths=np.array([4, 9]))


def test_arguments() -> None:
    program = program_of(nn.Linear(3, 4))
    assert "padded={" in repr(compile(program))
    with pytest.raises(ValueError, match=r"takes the tensors \['input'\], got 2"):
        compile(program).map([(normal(4, 3), normal(4, 3))])
    program_of_factor = jaxlstm.from_module(module_of(lambda _, x, factor: x * factor), (torch.ones(3), 2.0))
    scaled = compile(program_of_factor)
    for factor in (2.0, 3.0):
        np.testing.assert_array_equal(scaled(np.ones(3, np.float32), factor), factor)
    with pytest.raises(
        ProgramError, match=r"factor was fixed to 2\.0"
    ):  # An integer multiplies other dtypes.
        scaled(np.ones(3, np.float32), 2)
    program_of_factor.at_sizes = None
    with pytest.raises(ProgramError, match=r"factor was fixed to 2\.0"):
        compile(program_of_factor)(np.ones(3, np.float32), 3.0)
    with pytest.raises(ValueError, match="the first axis of each of the program's inputs must be the batch"):
        compile(voice_detector()).map([])
    with pytest.raises(TypeError, match=r"got \['max_length'\]; set precision and backend by program.with"):
        compile(program, max_length=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="executables must be greater than zero"):
        compile(program, executables=0)
    with pytest.raises(ValueError, match="pad=True requires results whose sizes are multiples"):
        compile(program_of(lambda x: x[:, 1:]), pad=True)
    with pytest.raises(ValueError, match="the program has no recurrent layer over sequences"):
        compile(program)(normal(2, 3, 3), seq_lengths=[3, 2])
    with pytest.raises(ValueError, match=r"result outputs has shape .* without the batch axis"):
        compile(program_of(lambda x: x.sum(0))).map([normal(4, 3)])
    trusted = compile(program_of(lambda x: x - x.mean(1, keepdim=True)), pad=True)
    assert trusted(normal(2, 3, 3)).shape == (2, 3, 3)
    assert all(trusted.padded.values())


STATE = torch.randn(2, 1, 5)


def voice_detector() -> jaxlstm.Program:
    """Return a program in which the state of an LSTM cell is an input and a result."""

    def forward(m: Any, samples: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = m.encoder(samples.unsqueeze(1)).mean(dim=-1)
        state = torch.stack(m.cell(x, (state[0], state[1])))
        return torch.sigmoid(state[0]), state

    module = module_of(forward, encoder=nn.Conv1d(1, 4, 8, stride=4), cell=nn.LSTMCell(4, 5))
    with pytest.warns(UserWarning, match="axis 0 of samples has size 1"):  # one voice
        return jaxlstm.from_module(module, (torch.randn(1, 64), STATE))


def test_stream_of_a_voice_detector() -> None:
    """Steps carry the state, and the arrays that a caller holds are never overwritten."""
    program = voice_detector()
    runner = compile(program)
    initial = STATE.numpy().copy()
    stream = runner.stream({"state": "1"}, {"state": initial})
    state, saved = initial, {}
    xs = [normal(1, 64, seed=step) for step in range(4)]
    for step, x in enumerate(xs):
        expected, state = program(program.params, x, state)
        np.testing.assert_allclose(stream.step(x), expected, atol=1e-6)
        np.testing.assert_allclose(stream.state["state"], state, atol=1e-6)
        saved[step] = stream.state
    assert runner.stats().compilations == 1
    stream.state = saved[2]
    stream.step(xs[3])
    np.testing.assert_array_equal(stream.state["state"], saved[3]["state"])
    stream.reset()
    np.testing.assert_array_equal(stream.state["state"], initial)
    x, zeros = xs[0], runner.stream({"state": "1"})
    np.testing.assert_allclose(zeros.step(x), program(program.params, x, 0 * initial)[0], atol=1e-6)
    with pytest.raises(ProgramError, match=r"input samples must have shape \(1, .*, got \(64,\)"):
        zeros.step(x[0])
    with pytest.raises(ValueError, match=r"a step takes the inputs \['samples'\], got 2 arrays"):
        zeros.step(x, x)
    with pytest.raises(ValueError, match=r"states must be a dict from some of the inputs \['samples', 'st"):
        runner.stream({"state": "h"})
    with pytest.raises(ValueError, match=r"the states are \['state'\], got \['h'\]"):
        runner.stream({"state": "1"}, {"h": initial})


def test_a_stream_with_a_tuple_as_state() -> None:
    """Rows of it are reset by a mask, to their initial values or zeros."""

    def forward(m: Any, x: torch.Tensor, state: Any, unused: torch.Tensor) -> Any:
        y, state = m.lstm(x, state)
        return {"y": y, "x": x.sum(-1)}, state, unused.int()

    model = module_of(forward, lstm=nn.LSTM(3, 4, 2, batch_first=True))
    zeros = (torch.zeros(2, 2, 4), torch.zeros(2, 2, 4))
    program = jaxlstm.from_module(model, (torch.randn(2, 5, 3), zeros, torch.zeros(2)))
    runner = compile(program)
    h, c = normal(2, 5, 4, seed=1), normal(2, 5, 4, seed=2)
    stream, unused = runner.stream({"state": "1"}, {"state": (h, c)}), np.zeros(5, np.float32)
    xs, state = [normal(5, 1, 3, seed=step) for step in range(3)], (h, c)
    mask = np.array([True, False, False, True, False])
    for step, x in enumerate(xs):
        if step == 2:
            stream.reset(mask)
            first = zip((h, c), state, strict=True)
            state = tuple(np.where(mask[:, None], a, b) for a, b in first)
        expected, state, _ = program(program.params, x, state, unused)
        np.testing.assert_allclose(stream.step(x, unused)["0.y"], expected["y"], atol=1e-6)
    mixed = runner.stream({"state": "1"}, {"state_0": h})
    mixed.step(xs[0], unused)
    mixed.reset(mask)
    np.testing.assert_array_equal(mixed.state["state_0"][:, mask], h[:, mask])
    assert not mixed.state["state_1"][:, mask].any()
    assert mixed.state["state_1"][:, ~mask].all()
    for wrong in (mask[:4], mask.astype(int)):
        with pytest.raises(
            ValueError, match=r"mask must be Booleans \(batch,\) for the rows of the state state_0"
        ):
            mixed.reset(wrong)
    with pytest.raises(ValueError, match=r"the state state_1 is float32 .* result 0\.x is float32"):
        runner.stream({"state": "0"})
    with pytest.raises(ValueError, match=r"the state unused is float32 \(.*, but the result 2 is int32 \("):
        runner.stream({"unused": "2"})


def test_a_state_that_grows() -> None:
    """Inputs are integers, and there are two results."""

    def forward(_: Any, tokens: torch.Tensor, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = torch.cat([seen, tokens], 1)
        return {"sum": seen.sum(1), "seen": seen, "double": tokens * 2}

    args = (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64))
    shapes = ({0: AUTO, 1: AUTO}, {0: AUTO, 1: AUTO})
    runner = compile(jaxlstm.from_module(module_of(forward), args, dynamic_shapes=shapes))
    for dtype in (np.int16, np.int64, np.int32):
        np.testing.assert_array_equal(runner(*np.ones((2, 3, 4), dtype))["sum"], [8, 8, 8])
    assert runner.stats().compilations == 1
    with pytest.raises(ValueError, match=r"the size of the state seen, .* does not follow from the other"):
        runner.stream({"seen": "seen"}).step(np.ones((1, 2), np.int64))
    stream = runner.stream({"seen": "seen"}, {"seen": np.zeros((1, 1), np.int64)})
    for step in range(1, 4):
        result = stream.step(np.full((1, 2), step))
        assert list(result) == ["sum", "double"]
        assert result["sum"] == step * (step + 1)
        assert stream.state["seen"].shape == (1, 1 + 2 * step)
    with pytest.raises(ProgramError, match="holds values outside of int32"):
        stream.step(np.full((1, 2), 2**40))


def test_random_inputs_are_within_a_budget_of_memory() -> None:
    """A program that takes very large sizes only gets no inputs, and they are not made to find out."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[0] > 20_000
        return x[:, None] + x

    assert random_inputs(jaxlstm.from_module(module_of(forward), (torch.ones(20_001),))) is None


def test_long_rows_are_found_in_loops() -> None:
    """Sums of many terms over the last axis, also in a loop, and neither few terms nor another axis."""
    x = jax.numpy.zeros((64, 512))

    def total(axis: int) -> Any:
        return jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y + x.sum(axis)[0], 0.0))(x)

    assert compiled_program.adds_up_long_rows(total(1).jaxpr)
    assert not compiled_program.adds_up_long_rows(total(0).jaxpr)
    assert not compiled_program.adds_up_long_rows(jax.make_jaxpr(lambda x: x[:8].sum(1))(x).jaxpr)
