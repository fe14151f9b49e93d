"""Modules that read values of their arguments, under jit: results at the example and elsewhere."""

import functools
import pickle
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from jaxlstm.inference import compile
from testing.gradients import assert_close, require_equal, require_results
from testing.modules import module_of


def steps(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    state, outputs = None, []
    for t in range(int(lengths.max())):
        state = self.cell(x[:, t], state)
        outputs.append(state[0])
    return torch.stack(outputs, 1)


def prefixes(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    y, sums = self.linear(x), []
    for row, kept in zip(y, mask, strict=True):
        count = int(kept.sum())
        sums += [row[: k + 1].sum(0) for k in range(count)]
    return torch.stack(sums)


def segments(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    rows = torch.split(self.linear(x).reshape(-1, 3), lengths.tolist())
    return torch.stack([part.mean(0) for part in rows])


def different(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    y = self.linear(x)
    for n in sorted(set(lengths.tolist())):
        y = y + (lengths == n).float()[:, None, None] * n
    return y


def counted(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    counts = [np.asarray(row).sum() for row in mask]
    return self.linear(x) * torch.tensor(counts).float()[:, None, None]


def packed_rows(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    return self.linear(x).transpose(0, 1)[mask.T].view(-1, x.shape[0], 3)


def example(batch: int, steps: int, *, full: bool) -> tuple[dict[str, Tensor], Tensor]:
    lengths = torch.full((batch,), steps) - (0 if full else torch.arange(batch).clip(max=steps - 1))
    mask = torch.arange(steps) < lengths[:, None]
    return {"lengths": lengths, "mask": mask}, torch.randn(batch, steps, 3)


FORWARDS = (steps, prefixes, segments, different, counted, packed_rows)


@pytest.mark.quick("prefixes", "segments", "counted", "packed_rows")
@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_values_under_jit(forward: Any) -> None:
    """A call is equal to torch's, of NaN, or refused; at the example's sizes, its values are equal."""
    torch.manual_seed(0)
    kind = forward.__code__.co_varnames[2]
    model = module_of(forward, linear=nn.Linear(3, 3), cell=nn.LSTMCell(3, 3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        others, x = example(2, 4, full=True)
        program = jaxlstm.from_module(model, (x, others[kind]))
        for sizes, full in (((2, 4), True), ((3, 6), True), ((1, 4), True), ((2, 4), False), ((3, 6), False)):
            others, x = example(*sizes, full=full)
            found = called(program, x.numpy(), others[kind].numpy())
            expected = called(model, x, others[kind])
            if found is None or np.isnan(found).all():
                assert (sizes, full) != ((2, 4), True)
                # A program takes other numbers of steps, which it cannot know.
                assert found is None or sizes == (2, 4) or forward is steps
            else:
                assert expected is not None
                np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_file_knows_numbers_that_are_read_again(tmp_path: Path) -> None:
    """Each ``max`` is another node, and the export fixes only the one of the loop."""

    def forward(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        lengths = lengths.clone()
        y = x.new_zeros(len(x), max(lengths.tolist()), 3)
        for t in range(max(lengths.tolist())):
            y[:, t] = self.linear(x[:, t])
        lengths += 1
        return y * max(lengths.tolist())

    model, x, lengths = (
        module_of(forward, linear=nn.Linear(3, 3)).eval(),
        torch.randn(2, 4, 3),
        torch.arange(2, 4),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        jaxlstm.from_module(model, (x, lengths)).save(tmp_path / "a.pt2")
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    for numbers, is_fixed in ((lengths, True), (lengths.flip(0), True), (lengths + 1, False)):
        found = called(program, x.numpy(), numbers.numpy())
        assert found is not None
        expected = called(model, x, numbers) if is_fixed else np.nan
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_check_runs_programs_with_their_own_values() -> None:
    """Under jit, a program could have the example's values."""
    model = module_of(segments, linear=nn.Linear(3, 3)).eval()
    others, x = example(2, 4, full=True)
    args = x, others["lengths"]
    jaxlstm.check.verify_model(jaxlstm.from_module(model, args), model, args).raise_if_failed()


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_values_of_sizes_and_constants_are_known_under_jit() -> None:
    """Cells over a packed batch of full lengths, and a condition on the size of the batch."""

    def condition(self: Any, x: Tensor) -> Any:
        return self.cell(x[0]) if torch.ones_like(x).sum(0).max() > 2 else self.cell(x[0]) * 2

    def forward(self: Any, x: Tensor) -> Any:
        lengths = torch.LongTensor([x.shape[1] for _ in range(x.shape[0])])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        start, state, outputs = 0, torch.zeros(x.shape[0], 3), []
        for count in packed.batch_sizes:
            state = self.cell(packed.data[start : start + count], state[:count])
            start += count
            outputs.append(state * 2 if (count > 2).all() else state)
        return torch.cat(outputs)

    for function in (forward, condition):
        model = module_of(function, cell=nn.GRUCell(3, 3)).eval()
        program = jaxlstm.from_module(model, (torch.randn(2, 3, 3),))
        for batch, length in ((3, 3), (1, 2)):
            require_equal(program, model, torch.randn(batch, length, 3))


def called(function: Any, *args: Any) -> Any:
    """Return the result of a model in torch or of a program under jit, None if it refuses the arguments."""
    try:
        if isinstance(function, nn.Module):
            return function(*args).detach().numpy()
        return np.asarray(jax.jit(function)(function.params, *args))
    except (RuntimeError, jaxlstm.programs.ProgramError):
        return None


CONDITIONS = {
    "parameter": lambda self, x: x @ self.linear.weight,
    "layer": lambda self, x: self.linear(x),
    "batch norm": lambda self, x: self.norm(x),
    "buffer": lambda self, x: x * self.norm.running_var,
    "frozen": lambda self, x: x @ self.linear.weight.detach(),
    "cell": lambda self, x: self.cell(x)[0],
}


@pytest.mark.quick("parameter", "buffer")
@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_are_decided_with_the_values_of_parameters(name: str) -> None:
    """torch's drafts of exports leave the values of parameters undefined."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = CONDITIONS[name](self, x)
        y = y / 1e6 if y.abs().max() > 1e6 else y
        return y * 2 if y.abs().max() > 1e-6 else y

    model = module_of(forward, linear=nn.Linear(3, 3), norm=nn.BatchNorm1d(3), cell=nn.LSTMCell(3, 3)).eval()
    with pytest.warns(UserWarning, match=r"Eq\(u0, 1\) is False .* Eq\(u1, 1\) is True"):
        program = jaxlstm.from_module(model, (torch.randn(4, 3),))
    require_results(program, model, torch.randn(7, 3), jit=True, atol=1e-6)


def _call(program: jaxlstm.Program, x: Any, params: Any) -> Any:
    return program(params, x)


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_earlier_calls_do_not_matter() -> None:
    """A call whose arguments alone are known runs an export of its values, not of an earlier call's."""

    def forward(self: Any, x: Tensor) -> Tensor:
        h = x * self.weight
        y = h.repeat(len(x[h[:, 0] > 0]), 1).sum(0)
        for step in range(3):
            y = y * 2 if h[step].sum() > 0 else y + 1
        return y

    model = module_of(forward, weight=nn.Parameter(torch.ones(2)))
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    program = jaxlstm.from_module(model, (x,))
    for other in (-x, x, -x):
        known = functools.partial(_call, program, other.numpy())
        for run in (known, jax.jit(known)):
            np.testing.assert_array_equal(run(program.params), model(other).detach())


def test_results_as_numpy_arrays() -> None:
    """A module may return a NumPy array of a tensor, and do nothing else with it."""

    def forward(self: Any, x: Tensor) -> Any:
        best = self.linear(x).argmax(-1).cpu().numpy()
        return {"best": best} if isinstance(best, np.ndarray) else best

    model = module_of(forward, linear=nn.Linear(3, 3)).eval()
    program = jaxlstm.from_module(model, (torch.randn(4, 3),))
    require_results(program, model, torch.randn(5, 3), jit=True)
    for use in (lambda a: a + 1, lambda a: a[0], np.sum, len):
        user = module_of(lambda self, x, use=use: (x, use(x.numpy()), x.numpy()))
        with pytest.raises(RuntimeError, match=r"makes a NumPy array .* Return the tensor itself"):
            jaxlstm.from_module(user, (torch.ones(4, 3),))


def test_float64_constants_that_are_cast() -> None:
    """Without JAX's 64-bit mode, casts of constants are done when a program is loaded."""
    table = np.linspace(0, 1, 3)

    def forward(self: Any, x: Tensor) -> Any:
        double = torch.from_numpy(table.copy()).detach()
        changed, kept = double.to(x), double.to(x)
        changed[0] = 5
        return x * torch.Tensor(table), x * changed, x * kept, x + torch.tensor(table).half()

    model = module_of(forward)
    x = torch.randn(2, 3)
    program = jaxlstm.from_module(model, (x,))
    require_results(program, model, x, jit=True, rtol=1e-6)
    with pytest.raises(jaxlstm.programs.ProgramError, match="float64"):
        jaxlstm.from_module(module_of(lambda self, x: (x * torch.tensor(table)).float()), (x,))


def test_random_numbers_without_effect() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        noise = torch.randn_like(x) * 0.1
        forced = (torch.rand_like(x > 0, dtype=torch.float) < 0.0) | (torch.rand(x.shape[1]) > 1)
        return x + noise if self.training else torch.where(forced, x, x * 2)

    program = jaxlstm.from_module(module_of(forward).eval(), (torch.ones(2, 3),))
    np.testing.assert_array_equal(program(program.params, np.ones((2, 3), np.float32)), 2)
    half = module_of(lambda self, x: torch.where(torch.rand_like(x) < 0.5, x, 0))
    with pytest.raises(jaxlstm.programs.ProgramError, match="draws random numbers"):
        jaxlstm.from_module(half, (torch.ones(2, 3),))
    filled = module_of(lambda self, x: (torch.zeros_like(x).normal_(), x.clone().uniform_())[1])
    with pytest.raises(jaxlstm.programs.ProgramError, match="draws random numbers"):
        jaxlstm.from_module(filled, (torch.ones(2, 3),))


def maxima(self: Any, x: Tensor) -> Tensor:
    state, outputs = torch.zeros(x.shape[0], 3), []
    for step in x.unbind(1):
        first = (state == 0).all()
        state = step if first else torch.maximum(state.view(x.shape[0], -1), step)
        outputs.append(state)
    return self.linear(torch.stack(outputs, 1))


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_conditions_at_other_sizes_are_decided_as_in_the_example() -> None:
    """If there are three under jit; the result is NaN if a value decides otherwise. Outside, it decides."""
    model = module_of(maxima, linear=nn.Linear(3, 3)).eval()
    program = jaxlstm.from_module(model, (torch.randn(2, 4, 3),))
    for sizes in ((2, 4), (3, 4), (3, 7), (1, 2)):
        require_results(program, model, torch.randn(*sizes, 3), atol=1e-6)
    x = torch.randn(5, 4, 3)
    x[:, 0] = 0  # The second step is the first of a state.
    require_results(program, model, x, hides=True, atol=1e-6)


def episodes(self: Any, x: Tensor, starts: Tensor) -> Any:
    """Where one branch is taken, the other has a derivative of NaN."""
    y, _ = self.lstm(x)
    y = y * 2 if (starts == 0).all() else (y * starts[..., None]).abs().sqrt()
    return {"y": y.tanh() if (x > 0).any() else y + 1, "steps": x.shape[1]}


@pytest.mark.filterwarnings("ignore:from_module fixed parts .* takes the other branch under jax.jit")
def test_branches_of_hidden_conditions(tmp_path: Path) -> None:
    """Under jit, compiled and from a file, values decide as in torch, also at other sizes."""
    model = module_of(episodes, lstm=nn.LSTM(3, 3)).eval()
    program = jaxlstm.from_module(model, (torch.rand(2, 4, 3), torch.ones(2, 4)))
    program.save(tmp_path / "a.pt2")
    assert jaxlstm.read_checkpoint(tmp_path / "a.pt2").keys() == program.params.keys()
    stored = jaxlstm.load_program(tmp_path / "a.pt2")
    stored.save(tmp_path / "b.pt2")
    compiled = compile(jaxlstm.load_program(tmp_path / "b.pt2"))
    for start, sign, shape in ((1, 1, (2, 4)), (0, 1, (2, 4)), (1, -1, (3, 5)), (0, -1, (3, 5))):
        args = sign * torch.rand(*shape, 3), torch.full(shape, start).float()
        require_equal(program if sign == 1 else stored, model, *args)
        found, expected = compiled(*(x.numpy() for x in args)), model(*args)
        np.testing.assert_allclose(found["y"], expected["y"].detach(), atol=1e-6)
        assert found["steps"] == expected["steps"]


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_a_compiled_stream_takes_branches() -> None:
    """The state of the first step is 0. Without its module, a program refuses the values of other steps."""

    def forward(self: Any, x: Tensor, h: Tensor) -> Tensor:
        return self.cell(x) if (h == 0).all() else self.cell(x, h * 2)

    model = module_of(forward, cell=nn.GRUCell(3, 4)).eval()
    program = jaxlstm.from_module(model, (torch.ones(2, 3), torch.zeros(2, 4)))
    zeros = {"h": np.zeros((2, 4), np.float32)}
    streams = [
        compile(p).stream({"h": "outputs"}, zeros) for p in (program, pickle.loads(pickle.dumps(program)))
    ]
    x = torch.randn(3, 2, 3)
    with torch.no_grad():
        first = model(x[0], torch.zeros(2, 4))
        expected = first, model(x[1], first)
    for stream in streams:
        stream.step(x[0].numpy())
        np.testing.assert_allclose(stream.state["h"], expected[0], atol=1e-6)
    streams[0].step(x[1].numpy())
    np.testing.assert_allclose(streams[0].state["h"], expected[1], atol=1e-6)
    with pytest.raises(jaxlstm.ProgramError, match="the program requires"):
        streams[1].step(x[1].numpy())


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_branches_with_other_results() -> None:
    """The order of keys is free. For other shapes and structures, results are NaN under jit."""
    x = -np.ones((2, 3), np.float32)
    others: list[Any] = [
        lambda x: {"b": x * 3, "a": x},
        lambda x: {"c": x, "b": x},
        lambda x: {"a": x.sum(0), "b": x},
    ]
    for other in others:

        def forward(self: Any, x: Tensor, other: Any = other) -> Any:
            return {"a": x, "b": x * 2} if (x > 0).all() else other(x)

        program = jaxlstm.from_module(module_of(forward), (torch.ones(2, 3),))
        result, expected = jax.jit(program)(program.params, x), other(x)
        if other is others[0]:
            assert_close(result, expected, 0)
        else:
            assert all(np.isnan(leaf).all() for leaf in result.values())
        if other is others[1]:
            with pytest.raises(
                jaxlstm.ProgramError, match=r"results must be .* keys \['a', 'b'\], got the keys \['c', 'b'\]"
            ):
                compile(program)(x)
        else:
            assert_close(compile(program)(x), expected, 0)


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_buffers_of_other_values() -> None:
    """Another export replaces the buffer too. Where jit hides a fixed value that differs, it is NaN."""

    def forward(self: Any, x: Tensor) -> Tensor:
        self.count, self.last = self.count + sum(1 for k in range(3) if (x > k).all()), self.count
        return x + self.count

    model = module_of(forward, count=torch.zeros(3), last=torch.ones(3))
    program = jaxlstm.from_module(model, (torch.ones(2, 3),))
    buffers: Any = program.buffers
    for scale in (1, 9, 2):
        x = torch.full((2, 3), float(scale))
        result, buffers = program.call_with_buffers({}, x.numpy(), buffers=buffers)
        assert_close(result, model(x), 0)
        assert_close(buffers, dict(model.named_buffers()), 0)
    _, buffers = jax.jit(program.call_with_buffers)({}, x.numpy())
    assert np.isnan(buffers["count"]).all()


def test_a_buffer_that_another_export_keeps() -> None:
    """An export with values at other branches has no node that replaces a buffer by one of another shape."""

    def forward(self: Any, x: Tensor) -> Tensor:
        count = sum(1 for k in range(3) if (x > k).all())
        self.h = torch.cat([self.h, x[:1] * count])
        return x + self.h.sum()

    with pytest.warns(UserWarning, match="fixed parts"):
        program = jaxlstm.from_module(module_of(forward, h=torch.zeros(1, 3)), (torch.ones(2, 3),))
    x = np.full((2, 3), 9, np.float32)
    with pytest.warns(UserWarning, match="call_with_buffers keeps the old h"):
        result = program(program.params, x)
    np.testing.assert_array_equal(result, x + 81)
