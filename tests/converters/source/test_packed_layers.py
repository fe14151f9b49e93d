"""Written source of packed sequences: padded batches with lengths."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

import jaxlstm
from jaxlstm_converters.source.graph.longest_sequence import without_longer_steps
from testing.graphs import to_numpy, without_example
from testing.modules import module_of
from testing.written import assert_equal, assert_holds, write


def packed(kind: Any, sorted: bool = False, first: bool = True, **padding: Any) -> nn.Module:
    """Return a recurrent layer over packed sequences."""

    def forward(self: Any, x: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, Tensor]:
        sequences = rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=sorted)
        hx = None if not state else state[0] if len(state) == 1 else state
        y, h = self.rnn(sequences, hx)
        total = {"total_length": x.shape[1 if first else 0]} if "total_length" in padding else {}
        outputs, lengths = rnn.pad_packed_sequence(y, **{"batch_first": first, **padding, **total})
        return outputs * 2, (h[0] if isinstance(h, tuple) else h) + lengths[:, None]

    return module_of(forward, rnn=kind(3, 4, num_layers=2, bidirectional=True, batch_first=first))


def sorted_by_hand(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    """Sequences that the model itself sorts, and puts in order again."""
    lengths, order = lengths.sort(descending=True)
    packed = rnn.pack_padded_sequence(x[:, order].relu(), lengths)
    y, _ = rnn.pad_packed_sequence(self.lstm(packed)[0], padding_value=-1.0)
    return y.tanh()[:, order.argsort()]


def twice(self: Any, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences that are packed again with a factor without gradient, and lengths that the model returns."""
    first = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    again = rnn.pad_packed_sequence(self.first(first)[0])[0]
    with torch.no_grad():
        factor = again.clone()
    _, state = self.second(rnn.pack_padded_sequence(again * factor, lengths, enforce_sorted=False))
    return state[0] + state[1], lengths


_STATE = torch.randn(4, 3, 4)
PACKED: dict[str, tuple[nn.Module, tuple[Tensor, ...], bool]] = {
    "unsorted": (packed(nn.LSTM), (torch.tensor([2, 5, 3]),), True),
    "sorted": (packed(nn.LSTM, True, first=False), (torch.tensor([5, 5, 1]),), False),
    "state": (packed(nn.LSTM, total_length=True), (torch.tensor([1, 2, 5]), _STATE, _STATE.tanh()), True),
    "GRU": (packed(nn.GRU, padding_value=2.0), (torch.tensor([4, 5, 3]), _STATE), True),
    "RNN": (packed(nn.RNN, first=False, padding_value=2.0), (torch.tensor([5, 1, 3]),), False),
    "twice": (module_of(twice, first=nn.GRU(3, 3), second=nn.LSTM(3, 4)), (torch.tensor([2, 5, 3]),), False),
    "by hand": (module_of(sorted_by_hand, lstm=nn.LSTM(3, 4)), (torch.tensor([2, 5, 3]),), False),
}


@pytest.mark.quick("unsorted", "state", "GRU", "by hand")
@pytest.mark.parametrize("name", PACKED)
def test_packed_sequences_are_padded_batches_with_lengths(name: str) -> None:
    module, arguments, batch_first = PACKED[name]
    x = torch.randn(3, 5, 3) if batch_first else torch.randn(5, 3, 3)
    written = write(module, x, *arguments)
    for word in ("programs", "sort", "take", "zeros"):
        assert word not in written.text
    assert ("jnp.where(" in written.text) == (name in ("GRU", "RNN", "by hand"))
    if name == "twice":
        assert_holds(written, x, *arguments)
    shorter = (arguments[0] - 1).clamp(min=1), *arguments[1:]
    for others in (arguments, shorter):
        assert_equal(written, x, *others)


def reduced(self: Any, x: Tensor, lengths: Tensor) -> tuple[Tensor | int, ...]:
    """Functions of all steps of a packed batch, of which torch has none after the longest sequence."""
    whole = torch.arange(x.shape[1])[None] < lengths[:, None]
    early = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    rows = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, n = rnn.pad_packed_sequence(self.lstm(rows)[0], batch_first=True)
    mask = torch.arange(y.shape[1])[None] < n[:, None]
    scores = self.linear(y)
    weights = scores.sum(-1).masked_fill(~mask, -1e9).softmax(1)
    last = y.gather(1, (n - 1)[:, None, None].expand(-1, 1, y.shape[2]))[:, 0]
    reductions = scores.mean(1), scores.amax(1), scores.min(1)[0], scores.logsumexp(1), scores.sum((1, 2))
    sums = (
        (weights[..., None] * y).sum(1),
        weights[:, None] @ y,
        scores.mT @ scores,
        (y * mask[..., None]).sum(1),
        (y * whole[:, : y.shape[1], None] * early[..., None]).sum(1),
    )
    lasts = y[torch.arange(y.shape[0]), n - 1], y[0, lengths[0] - 1], y[1][int(lengths[1]) - 1]
    return *reductions, *sums, last, *lasts, scores.sum(), y.sum(1) / y.shape[1], mask.sum(1), y.shape[1]


def masked_by_row(self: Any, x: Tensor, lengths: Tensor) -> tuple[Tensor | int, ...]:
    """A mask that is written in the place of the steps after each sequence."""
    rows = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y = rnn.pad_packed_sequence(self.lstm(rows)[0], batch_first=True)[0]
    mask = torch.zeros(y.shape[:2])
    for row, length in enumerate(lengths):
        mask[row, length:] = 1
    weights = self.linear(y)[..., 0].masked_fill(mask.bool(), -torch.inf).softmax(1)
    return (weights[:, None] @ y)[:, 0], mask.sum(1), y.shape[1]


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
@pytest.mark.parametrize("forward", [reduced, masked_by_row])
def test_steps_after_the_longest_sequence_do_not_count(forward: Any) -> None:
    """Values and gradients are torch's if the padding is longer than the longest sequence."""
    module = module_of(forward, lstm=nn.LSTM(3, 4, batch_first=True), linear=nn.Linear(4, 2))
    written = write(module, torch.randn(3, 6, 3), torch.tensor([3, 6, 5]))
    for word in ("nan", "programs"):
        assert word not in written.text
    program = functools.partial(written.program, written.program.params)

    def gradient(model: Any) -> Any:
        of_floats = lambda *args: sum(jnp.sin(leaf).sum() for leaf in model(*args)[:-2])  # noqa: E731
        return jax.jit(jax.grad(of_floats))

    gradients = gradient(written.model), gradient(program)
    for lengths in ([6, 3, 2], [1, 4, 2]):
        args = torch.randn(3, 6, 3), torch.tensor(lengths)
        assert_equal(written, *args)
        ours, theirs = (function(*map(to_numpy, args)) for function in gradients)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_file_need_not_record_the_sizes_of_its_example() -> None:
    def forward(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        rows = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(self.lstm(rows)[0], batch_first=True)[0].mean(1)

    module = module_of(forward, lstm=nn.LSTM(3, 4, batch_first=True))
    program = jaxlstm.from_module(module, (torch.randn(3, 6, 3), torch.tensor([3, 6, 5])))
    (graph, conditions), (expected, _) = (
        without_longer_steps(p, p.graph) for p in (without_example(program), program)
    )
    assert not conditions
    assert graph.nodes == expected.nodes


MASK = torch.arange(6) < torch.tensor([[6], [2], [4]])
"""The mask of the first steps has sequences as long as itself."""


def test_a_batch_may_have_more_steps_than_its_mask() -> None:
    def forward(self: Any, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        rows = rnn.pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        y = rnn.pad_packed_sequence(self.lstm(rows)[0], batch_first=True)[0]
        return y, (y * mask[..., None]).sum(1)

    written = write(module_of(forward, lstm=nn.LSTM(3, 4, batch_first=True)), torch.randn(3, 6, 3), MASK)
    assert "sort" not in written.text
    for steps in (6, 4):
        assert_equal(written, torch.randn(3, 6, 3), MASK[:, :steps])


@pytest.mark.parametrize(
    "function",
    [
        lambda y: (y[:, -1], y.argmax(1)),
        lambda y: y[torch.arange(y.shape[0]), y.argmax(1)[:, 0] - 1],
        lambda y: y.transpose(0, 1).var(0),
        lambda y: torch.mean(y, ()),
        lambda y: y.cumsum(1).reshape(-1, 4).amax(0),
        lambda y: y.sum(1) / (y.size(1) - 1),
        lambda y: torch.linspace(0, 1, y.shape[1])[:, None] * y,
    ],
)
def test_without_a_mask_a_batch_with_longer_steps_gives_nan(function: Any) -> None:
    def forward(self: Any, x: Tensor, lengths: Tensor) -> Any:
        rows = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return function(rnn.pad_packed_sequence(self.lstm(rows)[0], batch_first=True)[0])

    module = module_of(forward, lstm=nn.LSTM(3, 4, batch_first=True))
    written = write(module, torch.randn(3, 6, 3), torch.tensor([3, 6, 5]))
    assert_equal(written, torch.randn(3, 6, 3), torch.tensor([2, 6, 1]))
    for result in jax.tree.leaves(written.model(np.ones((3, 6, 3), np.float32), np.array([2, 5, 1]))):
        limit = np.iinfo(result.dtype).min if result.dtype.kind == "i" else np.nan
        np.testing.assert_array_equal(result, np.full(result.shape, limit, result.dtype))


ROWS: dict[str, Any] = {
    "layers": lambda self, rows: nn.functional.log_softmax(self.norm(self.linear(rows).relu()), dim=1),
    "matrix": lambda self, rows: torch.mm(rows, self.linear.weight),
    "one number": lambda self, rows: (rows @ self.linear.weight[0]).sigmoid(),
    "parts": lambda self, rows: torch.cat([a * b.sigmoid() for a, b in [rows.chunk(2, 1)]] * 2, 1),
    "reductions": lambda self, rows: rows - rows.mean(1, keepdim=True) * rows.amax(1)[:, None],
    "new axes": lambda self, rows: torch.stack([rows, rows.tanh()], 1).sum(1),
    "places": lambda self, rows: rows.gather(1, rows.argsort(1)) * rows.topk(1, 1)[0],
    "slope": lambda self, rows: self.prelu(rows[:, 1:3]),
    "classes": lambda self, rows: self.embedding(rows.argmax(1)),
}
MIXED: dict[str, Any] = {
    "mean of rows": lambda self, rows: rows - rows.mean(0),
    "softmax over rows": lambda self, rows: rows.softmax(0),
    "other rows": lambda self, rows: rows + rows.flip(0),
    "running sum": lambda self, rows: rows.cumsum(0),
}


def of_rows(function: Any) -> nn.Module:
    """Return a model that merges batch and steps for a function of rows, and splits them again."""

    def forward(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        sequences = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = rnn.pad_packed_sequence(self.lstm(sequences)[0], batch_first=True)
        batch, steps, size = y.shape
        return function(self, y.contiguous().view(-1, size)).view(batch, steps, -1)

    layers = {
        "linear": nn.Linear(4, 4),
        "norm": nn.LayerNorm(4),
        "embedding": nn.Embedding(4, 3),
        "prelu": nn.PReLU(),
    }
    return module_of(forward, lstm=nn.LSTM(3, 4, batch_first=True), **layers)


@pytest.mark.parametrize("name", [*ROWS, *MIXED])
def test_rows_that_are_split_again_are_never_merged(name: str) -> None:
    module, x = of_rows((ROWS | MIXED)[name]), torch.randn(3, 5, 3)
    written = write(module, x, torch.tensor([2, 5, 3]))
    assert ("nan" in written.text) == (name in MIXED)
    for lengths in ([2, 5, 3], [2, 4, 3], [1, 1, 1]):
        arguments = x.numpy(), np.array(lengths)
        expected = to_numpy(module(x, torch.tensor(lengths)))
        for function in (written.program.__call__, jax.jit(written.program.__call__)):
            result = np.asarray(function(written.program.params, *arguments))[:, : max(lengths)]
            if name in MIXED and np.isnan(result).any():
                assert max(lengths) < 5
            else:
                np.testing.assert_allclose(result, expected, atol=1e-5)
        result = np.asarray(written.model(*arguments))[:, : max(lengths)]
        if name not in MIXED or max(lengths) == 5:
            np.testing.assert_allclose(result, expected, atol=1e-5)
        else:
            assert np.isnan(result).all()
    if name in ROWS and name not in ("classes", "places"):
        assert_holds(written, x, torch.tensor([2, 4, 3]))
