"""LSTMs inside of programs: variants, sequence lengths, backends, and JAX's transformations."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from jaxlstm import from_module, load_program
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.program import Program
from testing.gradients import assert_close
from testing.graphs import to_numpy
from testing.modules import module_of

STACKED = {"num_layers": 2, "bidirectional": True}
PLAIN = {"bias": False, "batch_first": True}
VARIANTS: list[tuple[Callable[..., nn.Module], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, PLAIN),
    (nn.LSTM, {"proj_size": 2, "bias": False}),
    (nn.LSTM, {"proj_size": 2, **STACKED}),
    (nn.GRU, PLAIN),
    (nn.RNN, {"nonlinearity": "relu", **PLAIN}),
    *((kind, STACKED) for kind in (nn.LSTM, nn.GRU, nn.RNN)),
]


def loss(results: Any) -> Any:
    """Return a number that depends on outputs and states."""
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(results))


require_close = partial(assert_close, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(("kind", "variant"), VARIANTS, ids=str)
def test_layer(kind: Callable[..., nn.Module], variant: dict[str, Any], tmp_path: Path) -> None:
    """Values, gradients and sequence lengths, at other sizes than the file was exported with."""
    torch.manual_seed(0)
    layer, example, x = kind(3, 4, **variant).eval(), torch.randn(5, 2, 3), torch.randn(6, 3, 3)
    program = from_module(layer, (example,))
    expected = layer(x)
    require_close(jax.jit(program)(program.params, x.numpy()), expected)

    from_module(layer, (example, layer(example)[1])).save(tmp_path / "layer.pt2")
    program = load_program(tmp_path / "layer.pt2")
    state = jax.tree.map(lambda leaf: torch.randn_like(leaf, requires_grad=True), expected[1])
    differentiated = jax.value_and_grad(lambda params, h: loss(program(params, x.numpy(), h)), (0, 1))
    value, (of_params, of_state) = jax.jit(differentiated)(program.params, jax.tree.map(to_numpy, state))
    wanted = loss(layer(x, state))
    wanted.backward()
    require_close(value, wanted)
    require_close(of_params, {name: parameter.grad for name, parameter in layer.named_parameters()})
    require_close(of_state, jax.tree.map(lambda leaf: leaf.grad, state))

    batch_first = variant.get("batch_first", False)
    time, batch = (3, 6) if batch_first else (6, 3)
    lengths = 1 + torch.arange(batch) % 3
    outputs, last = layer(pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False), state)
    expected = pad_packed_sequence(outputs, batch_first, total_length=time)[0], last
    ended = torch.arange(time)[:, None] >= lengths
    x[ended.T if batch_first else ended] = torch.nan
    arguments = program.params, x.numpy(), jax.tree.map(to_numpy, state)
    require_close(jax.jit(program)(*arguments, seq_lengths=lengths.numpy()), expected)


def tagged(m: Any, words: torch.Tensor) -> torch.Tensor:
    return m.head(m.second(m.first(m.embed(words))[0])[0])


@pytest.fixture(scope="module")
def tagger() -> Any:
    torch.manual_seed(0)
    first, second = nn.LSTM(3, 4, bidirectional=True, batch_first=True), nn.LSTM(8, 4, batch_first=True)
    return module_of(tagged, embed=nn.Embedding(11, 3), first=first, second=second, head=nn.Linear(4, 5))


@pytest.fixture(scope="module")
def words() -> torch.Tensor:
    return torch.randint(0, 11, (3, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def program(tagger: Any, words: torch.Tensor) -> Program:
    return from_module(tagger, (words,))


def test_sequence_lengths(tagger: Any, words: torch.Tensor, program: Program) -> None:
    lengths = torch.tensor([4, 6, 1])
    x = pack_padded_sequence(tagger.embed(words), lengths, batch_first=True, enforce_sorted=False)
    y = tagger.head(pad_packed_sequence(tagger.second(tagger.first(x)[0])[0], batch_first=True)[0])
    expected = y.detach().numpy()
    of_modules = {"first": lengths.numpy(), "second": lengths.numpy()}
    for seq_lengths in (lengths.numpy(), of_modules):
        result = program(program.params, words.numpy(), seq_lengths=seq_lengths)
        np.testing.assert_allclose(result, expected, atol=1e-6)
    full = program(program.params, words.numpy())
    only_second = program(program.params, words.numpy(), seq_lengths={"second": lengths.numpy()})
    for row, length in enumerate(lengths.tolist()):
        # The first LSTM runs backward over the padding too.
        np.testing.assert_allclose(only_second[row, :length], full[row, :length], atol=1e-6)


def test_sequence_lengths_without_an_lstm(words: torch.Tensor, program: Program) -> None:
    lengths = np.array([4, 6, 1])
    with pytest.raises(ProgramError, match=r"'frist'.*\['first', 'second'\]"):
        program(program.params, words.numpy(), seq_lengths={"frist": lengths})
    x = torch.randn(3, 4)
    linear = from_module(nn.Linear(4, 2), (x,))
    with pytest.raises(ProgramError, match="no LSTM"):
        linear(linear.params, x.numpy(), seq_lengths=lengths)


def test_backends_and_precision(words: torch.Tensor, program: Program) -> None:
    expected = program(program.params, words.numpy())
    scan = program.with_options(backend="scan", precision="default")
    np.testing.assert_allclose(scan(scan.params, words.numpy()), expected, atol=1e-5)
    assert program.options.backend == "auto"
    assert "precision = [HIGHEST" not in jax.jit(scan).lower(program.params, words.numpy()).as_text()
    assert "precision = [HIGHEST" in jax.jit(program).lower(program.params, words.numpy()).as_text()


def test_a_batch_of_calls(words: torch.Tensor, program: Program) -> None:
    x = words.numpy().astype(np.int32)
    expected = program(program.params, x)
    batches = jax.vmap(program, in_axes=(None, 0))(program.params, np.stack([x, x[::-1]]))
    np.testing.assert_allclose(batches, [expected, expected[::-1]], atol=1e-6)
