"""Sizes that ``jit`` does not know, such as the length of ``x[mask]``."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from testing.modules import module_of
from testing.zoo.specimen import Specimen

Forward = Callable[..., Any]


def model_of(forward: Forward) -> nn.Module:
    """Return a module of x (batch, time, 3), the lengths, and whether they are greater than 0."""
    lstm = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    with_mask = lambda self, x, lengths: forward(self, x, lengths, lengths > 0)  # noqa: E731
    return module_of(with_mask, lstm=lstm, linear=nn.Linear(3, 3), norm=nn.LayerNorm(3))


def characters(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Tensor:
    """Words without characters are left out of the packed batch."""
    packed = pack_padded_sequence(self.norm(x[some]), lengths[some].tolist(), True, False)
    h = torch.cat(torch.unbind(self.lstm(packed)[1][0]), -1)
    return h.new_zeros(len(x), 8).masked_scatter_(some[:, None], h)


def sorted_rows(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Tensor:
    """The number of rows is the number of lengths that are not 0."""
    count, (lengths, order) = int(some.sum()), lengths.sort(descending=True)
    y, _ = self.lstm(pack_padded_sequence(x[order][:count], lengths[:count], True))
    y, _ = pad_packed_sequence(y, True, total_length=x.shape[1])
    return x.new_zeros(*x.shape[:2], 8).index_copy(0, order[:count], y)


def reversed_steps(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Tensor:
    result = torch.zeros(x.size())
    for row, length in enumerate(lengths):
        result[row, :length] = x[row, :length].flip(dims=[0])
        result[row, length:] = x[row, length:].cumsum(0)
        result[row, 1:length] += 1
    packed = pack_padded_sequence(self.linear(result), lengths.clamp(min=1), True, False)
    return self.lstm(packed)[1][0]


def put(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Tensor:
    results = [torch.zeros(x.shape) for _ in range(4)]
    results[0][some] = self.linear(x[some])
    results[1][some.nonzero().squeeze(1)] = self.linear(x[torch.where(some)[0]]) * 2
    steps = torch.arange(x.shape[1]) < lengths[:, None]
    results[2] = results[2].masked_scatter(steps[..., None], self.linear(x[steps]).cumsum(0))
    results[3][some] += self.linear(x[some].flip(0, 1))
    # A mask of as many places as there are rows, and the same values at each place.
    both = x.new_zeros(2, *x.shape)
    both[torch.stack([some, ~some])] = self.linear(x)
    both[0, some, :] = self.linear.weight[:1]
    return torch.stack([*results, *both])


def last_steps(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Tensor:
    y, last = self.lstm(x[some])[0], lengths[some] - 1
    gathered = y.gather(1, last[:, None, None].expand(-1, 1, 8))[:, 0]
    indexed = y[torch.arange(len(last)), last].relu_()
    return x.new_zeros(len(x), 8).masked_scatter(some[:, None], gathered * indexed)


def selected(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Any:
    rows = torch.masked_select(self.linear(x), some[:, None, None]).view(-1, x.shape[1], 3)
    lengths = lengths[some]
    attention = nn.functional.scaled_dot_product_attention(rows, rows, rows)
    second = torch.masked_select(x, (torch.arange(6) == 1)[:, None]).view(len(x), 3)
    return attention, rows[lengths > 1], rows[:2].softmax(1), rows[:-1], rows[-1], second, len(rows)


def longest(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Any:
    """The batch is cut after its longest sequence, and steps are pooled."""
    steps = lengths.max().item()
    y, (h, _) = self.lstm(self.linear(x[:, :steps]))
    weights = y.sum(2).masked_fill(torch.arange(steps) >= lengths[:, None], -9).softmax(1)
    weighted = weights[:, None] @ y + y[torch.arange(len(x)), lengths - 1][:, None]
    pooled = torch.cat([y.mean(1), y.max(1)[0], y.amin(dim=(1, 2), keepdim=True)[:, 0]], 1)
    return pooled, (y.softmax(1) * y).sum(1), h, y.mean() + y.min(), y.transpose(0, 1), weighted


def documents(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Any:
    """The rows of a packed batch are sentences, which are packed again."""
    numbers, counts = lengths.clamp(min=1).tolist(), (x[..., 0] > 0.5).long() + 1
    counts, sentences = (pack_padded_sequence(part, numbers, True, False) for part in (counts, x))
    words = sentences.data[:, :, None] * torch.ones(3)
    words = self.lstm(pack_padded_sequence(words, counts.data.tolist(), True, False))[0]
    scores = words._replace(data=torch.exp(words.data - words.data.max()))
    rows = (pad_packed_sequence(scores, True)[0] * pad_packed_sequence(words, True)[0]).sum(1)
    return pad_packed_sequence(sentences._replace(data=rows), True)[0]


def numbers(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Any:
    rows, changed = self.linear(x[some]), x[some]
    changed[:, 0].relu_()
    moments = rows.norm(dim=0), rows.var(0, correction=0)
    return rows.sum(0) / len(rows), rows.prod(0), rows * len(rows), x.sum() / len(rows), moments, changed


def losses(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Any:
    """Losses of the rows that a mask selects, with targets of their number."""
    scores, target = self.linear(x)[some], torch.ones(x[some].shape)
    functions = (functional.mse_loss, functional.smooth_l1_loss, functional.binary_cross_entropy_with_logits)
    return *(loss(scores, target) for loss in functions), functional.l1_loss(scores, x[some], reduction="sum")


def masks(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Any:
    """Elements at a mask go back to their places or are added up; the other elements are NaN."""
    steps = torch.arange(6) < lengths[:, None]
    y = self.linear(x).masked_fill(~steps[..., None], torch.nan)
    rows, targets = y[steps], (x[..., 0] * 3).long()[steps]
    wide, back = steps[..., None].expand_as(y), torch.zeros_like(y)
    back[steps] = rows
    columns = torch.ones(len(x), 18, 1).masked_scatter_(
        wide.contiguous().view(-1, 18, 1), y.masked_select(wide)
    )
    positive = y.exp().masked_select(wide)
    entropy = functional.cross_entropy(rows, targets), functional.nll_loss(rows, targets, reduction="sum")
    functions = functional.mse_loss, functional.huber_loss, functional.binary_cross_entropy_with_logits
    losses = [loss(rows, x[steps]) for loss in functions] + [*entropy, ((rows - x[steps]) ** 2).mean()]
    numbers = (
        (rows * self.linear.bias[0]).sum(),
        y[wide].mean(),
        (positive.log() / positive).sum(),
        steps[steps].sum(),
    )
    first = y[functional.one_hot(x[..., 0].argmax(1), 6)[..., None].bool().expand_as(y)].view(len(x), 3)
    return first.nan_to_num(), back, columns, x.clone().masked_scatter(wide, y[wide]), *losses, *numbers


def slices(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Any:
    """Slices with unknown bounds are written, or added up; the other elements are NaN."""
    y, result = self.linear(x), x.new_zeros(len(x), 6, 3)
    y, numbers = y.masked_fill((torch.arange(6) >= lengths[:, None])[..., None], torch.nan), []
    for row, length in enumerate(lengths.tolist()):
        result[row, length:] = 3
        result[row, length - 3 : -1] = 2
        result[row, :length] = x[row, :length] * 2
        part = y[row, :length]
        sums = (part * self.linear.bias[0]).sum() + part.sum(0), part.mean(0) + part.mean()
        numbers.append(torch.stack(sums).nan_to_num())
    return result, torch.stack(numbers)


def graph(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Any:
    """Edges between the steps of a sequence: some are left out, and each node gets one to itself."""
    nodes, loops = self.linear(x).reshape(-1, 3), torch.arange(4)
    edges = torch.stack([lengths.clamp(min=1), lengths + 2])
    edges = torch.cat([edges[:, some], torch.stack([loops, loops])], dim=1)
    weights = torch.cat([lengths[some] * 0.5, nodes[:4, 0]])
    weights[edges[0] == edges[1]] -= 0.7
    messages, places = nodes[edges[0]] * weights[:, None], edges[1][:, None].expand(-1, 3)
    return nodes.new_zeros(10, 3).scatter_add(0, places, messages), edges.T


def groups(self: Any, x: Tensor, lengths: Tensor, some: Tensor) -> Any:
    values, places, counts = torch.unique(lengths, return_inverse=True, return_counts=True)
    consecutive = torch.unique_consecutive((x[..., 0] > 0.5).long(), return_counts=True)
    means = x.new_zeros(len(x), 6, 3).index_add(0, places, self.linear(x))
    return values, means, counts * 2, consecutive


FORWARDS = [graph, groups, numbers, longest, documents, characters, sorted_rows, reversed_steps]
FORWARDS += [put, last_steps, selected, losses, masks, slices]


def ragged(*lengths: int) -> tuple[Tensor, Tensor]:
    return torch.rand(len(lengths), 6, 3), torch.tensor(lengths)


# Two have a loop over the batch.
SPECIMENS = {
    forward.__name__: Specimen(
        partial(model_of, forward),
        *(ragged, (3, 1, 5, 2), ((4, 0, 6, 0, 2), (0, 5, 0, 1))),
        free=forward not in (reversed_steps, slices),
        of_inputs=True,
    )
    for forward in FORWARDS
}
