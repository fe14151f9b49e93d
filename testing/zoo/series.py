"""Functions of series (batch, time, 3), which ``inference.compile`` may pad, or not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from testing.exported import AUTO
from testing.modules import module_of
from testing.zoo.specimen import Specimen

TABLE = torch.randn(50, 3)


def in_sequence(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Run recurrent layers of both directions, one after the other, and return their last states, too."""
    x, (h, _) = m.lstm(x)
    y, last = m.gru(torch.relu(x))
    return torch.softmax(m.out(y), -1), h, last


def recurrent_layers() -> nn.Module:
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    gru = nn.GRU(8, 5, bidirectional=True, batch_first=True)
    return module_of(in_sequence, lstm=lstm, gru=gru, out=nn.Linear(10, 2))


def of_x(function: Callable[[torch.Tensor], Any]) -> nn.Module:
    """Return a module that is a function of x (batch, time, 3)."""
    return module_of(lambda _, x: function(x))


def outputs_of_lstm(function: Callable[[torch.Tensor], torch.Tensor], **options: Any) -> nn.Module:
    """Return an LSTM over one of the axes, after a function."""
    return module_of(lambda m, x: m.lstm(function(x))[0], lstm=nn.LSTM(3, 4, **options))


CASES: dict[str, tuple[nn.Module | Callable[[torch.Tensor], Any], tuple[bool, bool]]] = {
    # name: the module, and whether its batch and its time may be padded
    "linear": (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU()), (True, True)),
    "layers": (recurrent_layers(), (True, True)),
    "embedding": (lambda x: nn.functional.embedding((x > 0).long(), TABLE), (True, True)),
    "cumsum": (lambda x: (x.cumsum(1), x.sort(2)[0], x.repeat_interleave(2, 1)), (True, True)),
    "table": (lambda x: x + TABLE[: x.shape[1]] + torch.arange(x.shape[1])[:, None], (True, True)),
    "first": (lambda x: (x[:, 0], torch.cat([x, x[:, :1].expand(x.shape)], 2)), (True, True)),
    "merged": (lambda x: (x.reshape(-1, 3) * 2, x[..., [2, 0]].flip(2)), (True, False)),
    "mean": (lambda x: x - x.mean(1, keepdim=True), (True, False)),
    "max": (lambda x: torch.relu(x).amax(1), (True, False)),
    "argmax": (lambda x: x.argmax(1), (True, False)),
    "attention": (lambda x: nn.functional.scaled_dot_product_attention(x, x, x), (True, False)),
    "products": (lambda x: x.mT @ x, (True, False)),
    "flip": (lambda x: x.flip(1), (True, False)),
    "roll": (lambda x: x.roll(1, 1), (True, False)),
    "last": (lambda x: x[:, -1], (True, False)),
    "tail": (lambda x: x[:, 1:], (True, False)),
    "sort": (lambda x: x.sort(1)[0], (True, False)),
    "backwards": (lambda x: x.flip(1).cumsum(1).flip(1), (True, False)),
    "twice": (lambda x: torch.cat([x, x], 1), (True, False)),
    "steps": (lambda x: x / x.shape[1], (True, False)),
    "number of steps": (lambda x: (x * 2, None, x.shape[1]), (True, False)),
    "convolution": (nn.Sequential(of_x(lambda x: x.mT), nn.Conv1d(3, 4, 3, padding=1)), (True, False)),
    "pooling": (lambda x: nn.functional.max_pool1d(torch.relu(x).mT, 3, 1, 1), (True, False)),
    "spectrum": (lambda x: torch.fft.rfft(x, dim=1).abs(), (True, False)),
    "over rows": (outputs_of_lstm(lambda x: x), (True, True)),
    "behind steps": (outputs_of_lstm(lambda x: x.repeat_interleave(2, 1), batch_first=True), (True, False)),
    "features": (lambda x: (nn.functional.pad(x, (1, 2)), torch.fft.rfft(x, dim=2).abs()), (True, True)),
    "pooled features": (lambda x: nn.functional.avg_pool1d(x, 3, 1), (True, True)),
    "pairs": (lambda x: (x @ x.mT).reshape(-1), (True, False)),
    "mean of rows": (lambda x: x - x.mean(0), (False, True)),
    "places of rows": (lambda x: x + torch.arange(x.shape[0])[:, None, None], (True, True)),
    "first row": (lambda x: x - x[:1], (True, True)),
    "sum of rows": (lambda x: x.cumsum(0), (True, True)),
    "pairs of rows": (lambda x: x[:, None, 0] - x[None, :, 0], (True, True)),
    "remainder": (lambda x: x + x.shape[1] % 4, (True, False)),
    "smaller number": (lambda x: x / min(x.shape[1], 10), (True, False)),
    "parity of rows": (lambda x: x * (1 + x.shape[0] % 2), (False, True)),
    "number of elements": (lambda x: x + x.numel() // 20, (False, False)),
}


def _specimen(
    function: nn.Module | Callable[[torch.Tensor], Any], padded: tuple[bool, bool], mapped: bool
) -> Specimen:
    module = function if isinstance(function, nn.Module) else of_x(function)
    return Specimen(
        lambda: module,
        lambda batch, time: (torch.randn(batch, time, 3),),
        (3, 7),
        ((1, 9), (3, 17), (5, 9), (8, 33)),
        dynamic_shapes=({0: AUTO, 1: AUTO},),
        padded=padded,
        mapped=mapped,
    )


WITHOUT_ROWS = ("merged", "pairs", "number of steps")
SPECIMENS = {name: _specimen(*case, name not in WITHOUT_ROWS) for name, case in CASES.items()}
