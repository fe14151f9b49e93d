"""Batches that a model cuts to its longest sequence before it packs them, under ``jit`` at any sizes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

import jaxlstm
from testing.gradients import require_equal
from testing.graphs import to_numpy
from testing.modules import module_of

BATCHES = (((2, 5), [5, 4]), ((2, 5), [3, 2]), ((3, 6), [5, 3, 2]), ((3, 6), [2, 6, 1]), ((3, 6), [1, 1, 1]))


def _packed(x: Tensor, lengths: Tensor) -> rnn.PackedSequence:
    return rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def _outputs(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    return rnn.pad_packed_sequence(self.gru(_packed(x, lengths))[0], batch_first=True)[0]


def _of_data(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    data, *rest = _packed(x, lengths)
    return self.gru(rnn.PackedSequence(self.linear(data).tanh(), *rest))[1]


CUT: dict[str, Callable[..., Tensor]] = {
    "state": lambda self, x, n: self.gru(_packed(x[:, : n.max()], n))[1],
    "number": lambda self, x, n: self.gru(_packed(x[:, : int(n.max())].contiguous(), n))[1],
    "outputs": lambda self, x, n: _outputs(self, self.linear(x[:, : n.max()]), n),
    "one step more": lambda self, x, n: _outputs(self, x[:, : n.max() + 1], n),
    "data": lambda self, x, n: _of_data(self, x[:, : n.max()], n),
    "attention": lambda self, x, n: _outputs(self, x[:, : n.max()], n).softmax(1).square().sum(1),
    "mean": lambda self, x, n: _outputs(self, x[:, : n.max()], n).mean(1),
    "mask": lambda self, x, n: self.gru(_packed(x[:, : n.max()], (n > 0) * n))[1] * len(x),
}


@pytest.mark.quick("state", "outputs")
@pytest.mark.parametrize("name", CUT)
def test_cut_batches(name: str) -> None:
    model = module_of(CUT[name], gru=nn.GRU(3, 4, batch_first=True), linear=nn.Linear(3, 3))
    program = jaxlstm.from_module(model, (torch.randn(2, 5, 3), torch.tensor([5, 4])))
    for shape, lengths in BATCHES:
        require_equal(program, model, torch.randn(*shape, 3, requires_grad=True), torch.tensor(lengths))


def test_a_cut_before_the_end_of_a_sequence() -> None:
    """Torch raises an error."""
    model = module_of(
        lambda self, x, n: self.gru(_packed(x[:, : n.min()], n))[1], gru=nn.GRU(3, 4, batch_first=True)
    )
    program = jaxlstm.from_module(model, (torch.randn(2, 5, 3), torch.tensor([5, 5])))
    for lengths, is_right in (([4, 4], True), ([4, 3], False)):
        args = torch.randn(2, 5, 3), torch.tensor(lengths)
        result = jax.jit(program)(program.params, *map(to_numpy, args))
        assert np.isnan(result).all() == (not is_right)
