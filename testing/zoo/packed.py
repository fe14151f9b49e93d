"""Packed sequences: of given, computed and sorted lengths, and operators on their rows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.nn.utils.rnn import pack_padded_sequence as pack
from torch.nn.utils.rnn import pad_packed_sequence as unpack

from testing.modules import module_of
from testing.zoo.specimen import Specimen

Forward = Callable[..., Any]


def model_of(forward: Forward) -> Any:
    torch.manual_seed(0)
    return module_of(
        forward,
        embed=nn.Embedding(9, 3),
        lstm=nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True),
        gru=nn.GRU(3, 4, num_layers=2, bidirectional=True),
        rnns=nn.ModuleList([nn.RNN(8, 4), nn.RNN(8, 4, nonlinearity="relu", bidirectional=True)]),
        head=nn.Sequential(nn.LayerNorm(8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 5)),
    )


def plain(self: Any, x: Tensor, lengths: Any) -> Any:
    y, state = self.lstm(pack(x, lengths, batch_first=True, enforce_sorted=False))
    return *unpack(y, batch_first=True), state


def in_order(self: Any, x: Tensor, lengths: Tensor) -> Any:
    lengths, order = lengths.sort(descending=True)
    y, (h, _) = self.lstm(pack(x[order], lengths.cpu(), True))
    return unpack(y)[0], unpack(y, total_length=x.shape[1], padding_value=-2)[0], unpack(y, True, 1.0, 9), h


def initial_state(self: Any, x: Tensor, lengths: Tensor) -> Any:
    state = tuple(x.sum((1, 2))[:, None].expand(4, -1, 4) * scale for scale in (0.1, 0.2))
    y, state = self.lstm(pack(x, lengths, True, False), state)
    return unpack(y, True)[0], state


def of_mask(self: Any, x: Tensor, lengths: Tensor) -> Any:
    mask = torch.arange(x.shape[1]) >= lengths[:, None]
    return plain(self, x, (~mask).sum(1))


def several(self: Any, x: Tensor, lengths: Tensor) -> Any:
    y, n, _ = plain(self, x, lengths)
    return y, plain(self, y[..., 2:5], n), plain(self, x[:2], lengths[:2])


def other_layers(self: Any, x: Tensor, lengths: Tensor) -> Any:
    """GRU and RNN, with the time first, on one packed batch after the other."""
    y, h = self.gru(pack(x.transpose(0, 1), lengths, enforce_sorted=False))
    both = [rnn(y, h[:directions]) for directions, rnn in enumerate(self.rnns, 1)]
    return h, [(unpack(result)[0], state) for result, state in both]


def rows(self: Any, x: Tensor, lengths: Tensor) -> Any:
    y, _ = self.lstm(pack(x.sqrt(), lengths, True, False))
    scores = self.head(y.data)
    gate = 2 * torch.sigmoid(scores[:, :1]) - scores.softmax(-1).amax(dim=1, keepdim=True)
    assert not y.data.is_cuda
    assert y.data.requires_grad
    assert y.data.shape[1:] == (y.data.size(-1),)
    unsorted = PackedSequence(scores * gate, y.batch_sizes.cpu().to("cpu"))
    both = torch.cat([scores, y.data.log_softmax(1)], -1)
    return unpack(unsorted, True)[0], unpack(y._replace(data=both)), unpack(y.to("cpu").float())[0]


def embedded(self: Any, x: Tensor, lengths: Tensor) -> Any:
    tokens = pack((x * 3).long(), lengths, True, False)
    tokens = PackedSequence(self.embed(tokens.data)[:, 0], *tokens[1:])
    return self.lstm(tokens)[1]


def attention_without_gradient(self: Any, x: Tensor, lengths: Tensor) -> Any:
    y, _ = self.lstm(pack(x, lengths, True, False))
    with torch.no_grad():
        weights = self.head(y.data).softmax(-1)
    return unpack(y._replace(data=self.head(y.data) * weights), True)


def changed_in_place(self: Any, x: Tensor, lengths: Tensor) -> Any:
    """Change the inputs of a sorted batch, and lengths that were read, afterwards."""
    x, lengths = x * 1, lengths.sort(descending=True)[0]
    y, _ = self.lstm(pack(x, lengths.tolist(), True))
    results = [unpack(y, True)]
    for changed in (x, lengths, results[0][1]):
        changed -= 1
    return *results, unpack(y, True)


def tensors_of_numbers(self: Any, x: Tensor, lengths: Tensor) -> Any:
    """The numbers are sizes, elements and results, and lose their gradient."""
    sizes = torch.as_tensor([x.shape[0], 2, lengths[0]], dtype=torch.float32)
    y, n, _ = plain(self, x, lengths)
    return y * torch.tensor([n[0], y.mean(), 0]).sum(), sizes, torch.tensor([n[0].int(), n[1].short()])


def integers(self: Any, x: Tensor, lengths: Tensor) -> Any:
    """Numbers that torch reads as integers of Python."""
    packed = pack(x[:, : int(lengths.max())], lengths, True, False)
    sizes: Any = packed.batch_sizes
    assert isinstance(lengths.ndim, int)
    assert np.ones(1, int).dtype == np.int64
    shown = torch.ones(int(lengths.min().item() / 2 + 1), int("2"))
    state = x.new_zeros(4, int(sizes[0]), 4), x.new_ones(4, sizes[0].item(), 4)
    return unpack(packed, True)[0].sum(1) / sizes.size()[0], shown, self.lstm(packed, state)[1]


def norms(self: Any, x: Tensor, lengths: Tensor) -> Any:
    """The gradient of a root is infinite in padding of zeros."""
    valid = torch.arange(x.shape[1]) < lengths[:, None]
    packed = pack(x * valid[..., None] * self.lstm.bias_hh_l0[:3], lengths, True, False)
    return unpack(packed._replace(data=packed.data.square().sum(1, keepdim=True).sqrt()), True)[0]


def mask_of_the_longest(self: Any, x: Tensor, lengths: Tensor) -> Any:
    """A mask that is made before the batch is packed, and cut."""
    mask = torch.ones(x.shape[0], int(lengths.max()))
    mask[x[:, : int(lengths.max()), 0] > 0.5] = 0
    y, _, _ = plain(self, x, lengths)
    return y * mask[:, : y.shape[1], None], (y.sum(2) + x[:, : y.shape[1], 0]).sum(1), mask.sum(1)


def masks_of_two_batches(self: Any, x: Tensor, lengths: Tensor) -> Any:
    """Each mask is made before its batch is packed, and the lengths change afterwards."""
    lengths, fewer = lengths.clone(), (lengths - 1).clamp(min=1)
    masks = [torch.arange(int(n.max())) < n[:, None] for n in (lengths, fewer)]
    both = [plain(self, x, n)[0] for n in (lengths, fewer)]
    lengths += 1
    sums = [(y * mask[..., None]).sum(1) for y, mask in zip(both, masks, strict=True)]
    return *sums, both[0].sum(1) / lengths.max().item()


def some(self: Any, x: Tensor, lengths: Tensor) -> Any:
    """A mask is as long as the longest sequence, which is not packed."""
    y, _, _ = plain(self, x[:1], lengths[torch.tensor([0])])
    longer = plain(self, x, ((lengths + 0.5) / 1.2).long())[0].sum(1) * ((lengths + 0.5) / 1.2).max().item()
    return y.sum(1) * torch.ones(len(x), int(lengths.max())).sum(1)[:1, None], longer


_NAMED = [
    some,
    masks_of_two_batches,
    mask_of_the_longest,
    plain,
    norms,
    in_order,
    initial_state,
    of_mask,
    several,
    other_layers,
    rows,
    embedded,
]
_NAMED += [attention_without_gradient, changed_in_place, tensors_of_numbers, integers]
FORWARDS: dict[str, Forward] = {forward.__name__: forward for forward in _NAMED} | {
    "tolist": lambda self, x, lengths: plain(self, x, lengths.tolist()),
    "numpy": lambda self, x, lengths: plain(self, x, lengths.cpu().numpy()),
    "list": lambda self, x, lengths: plain(self, x, list(lengths)),
    "list of numbers": lambda self, x, lengths: plain(self, x[:2], list(lengths[:2].tolist())),
    "of integers": lambda self, x, lengths: plain(self, x[:2], [int(n) for n in lengths[:2].numpy() - 1]),
    "arithmetic": lambda self, x, lengths: plain(self, x, np.clip(lengths.numpy() - 1, 1, 3)),
    "list of tensors": lambda self, x, lengths: plain(self, x[:2], [lengths[0], lengths[1]]),
}


def batch(lengths: Sequence[int], time: int) -> tuple[Tensor, Tensor]:
    return torch.rand(len(lengths), time, 3), torch.tensor(lengths)


EXAMPLE = ((3, 5, 2), 5)
LONGER = ((6, 6, 3, 1), 6)
PADDED = ((3, 4), 7)
"""The batch has more steps than its longest sequence."""


# "list" has a loop over the batch, and jit knows no element of the lengths as a number of Python.
SPECIMENS = {
    name: Specimen(
        partial(model_of, forward),
        *(batch, EXAMPLE, (LONGER,), (PADDED,)),
        free=name != "list",
        jit=name not in ("integers", "some"),
    )
    for name, forward in FORWARDS.items()
}
