"""Loops and sizes in written source."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from testing.modules import module_of
from testing.written import assert_equal, assert_holds, body_of, write


def steps(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A loop over time, with or without dropout in it."""
    h, c = torch.zeros(x.shape[0], 4), x[:, 0, :1].repeat(1, 4)
    outputs = []
    for t in range(x.shape[1]):
        h, c = self.cell(self.drop(x[:, t]), (h, c))
        outputs.append(h)
    y = torch.stack(outputs, dim=1)
    return y, c


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loop_over_time_is_a_scan(dropout: float) -> None:
    """With dropout it is a plain loop: a function of ``jax.lax`` may not change the counter of its keys."""
    x = torch.randn(2, 20, 3)
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


def filled(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Loops that fill the rows of a tensor after the first, and all rows of another one backwards."""
    h = c = torch.zeros(x.shape[0], 4)
    outputs, reverse = torch.ones(x.shape[0], 4, 4), torch.empty(4, x.shape[0], 4)
    for t in range(1, 4):
        h, c = self.cell(x[:, t], (h, c))
        outputs[:, t] = h
    for t in reversed(range(4)):
        h, c = self.cell(x[:, t], (h, c))
        reverse[t, :, :] = c
    return outputs, reverse


def test_rows_that_a_loop_fills_are_the_results_of_a_scan() -> None:
    x = torch.randn(2, 4, 3)
    written = write(module_of(filled, cell=nn.LSTMCell(3, 4)), x)
    assert_holds(written, x)
    body = "\n".join(body_of(written.text, "Model"))
    assert body.count("self.cell(") == body.count("jax.lax.scan(") == 2
    assert ".at[:, 1:].set(outputs.swapaxes(0, 1))" in body


def flat(x: Tensor) -> Tensor:
    return x.view(x.shape[0] * x.shape[1])


def framed(self: Any, x: Tensor) -> Tensor:
    """Sizes of a fixed axis, and of a value that has no name; integers that become floats."""
    _, channels, length = x.shape
    y = self.out((x + torch.ones(3, 1)).mT.reshape(-1, channels * 2)) * torch.rsqrt(torch.tensor(2))
    return flat(nn.functional.pad(y, (0, math.ceil(length / 4) * 4)))


def test_sizes_that_no_variable_shows() -> None:
    x = torch.randn(2, 3, 8)
    assert_holds(write(module_of(framed, out=nn.Linear(6, 3)), x), x)


def greedy(self: Any, x: Tensor) -> Tensor:
    """A loop over a decoder, which returns its state second; the state after the last step is not used."""
    h, outputs = x[:, 0], []
    for t in range(4):
        output, h = self.decoder(x[:, t], h)
        outputs.append(output)
    return torch.stack(outputs, dim=1)


def test_a_step_is_whole_although_the_last_state_is_not_used() -> None:
    def forward(self: Any, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        state = self.decoded(x + h)
        output = state.exp()
        return output, state

    decoder = module_of(forward, out=nn.Linear(3, 3))
    type(decoder).decoded = lambda self, x: self.out(x).tanh()  # type: ignore[attr-defined]
    x = torch.randn(2, 4, 3)
    written = write(module_of(greedy, decoder=decoder), x)
    assert_equal(written, x)
    assert written.text.count("self.decoder(") == 1
    assert "state = jnp.tanh(self.out(x + h))\n" in written.text
    assert "h, output = self.decoder(x_t, h)" in written.text


def evened(self: Any, x: Tensor) -> Tensor:
    """Pad to an even length, as causal convolutions of audio codecs do."""
    length = x.shape[2]
    frames = math.ceil(length / 2)
    return self.conv(nn.functional.pad(x, (0, frames * 2 - length)))


def test_each_module_computes_its_own_sizes() -> None:
    """torch computes a size once, in the first module that needs it."""
    first = module_of(evened, conv=nn.Conv1d(3, 3, 2, stride=2))
    second = type(first)()
    second.conv = nn.Conv1d(3, 3, 2, stride=2)
    x = torch.randn(2, 3, 9)
    written = write(nn.Sequential(first, nn.ReLU(), second), x)
    assert_holds(written, x)
    assert written.text.count("math.ceil(length / 2)") == 1
    assert "nnx.relu" in written.text


def skipped(self: Any, x: Tensor) -> Tensor:
    """An LSTM over the columns of a convolution, beside it."""
    y, _ = self.lstm(x.permute(2, 0, 1))
    return y.permute(1, 2, 0) + x


def test_a_module_transposes_its_own_input() -> None:
    inner = module_of(skipped, lstm=nn.LSTM(3, 3))
    x = torch.randn(2, 3, 9)
    written = write(nn.Sequential(nn.Conv1d(3, 3, 1), inner, nn.Conv1d(3, 3, 1)), x)
    assert_holds(written, x)
    assert "self.lstm(x.transpose(1, 0, 2))" in "\n".join(body_of(written.text, "Model"))


def test_a_loop_without_a_state() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.stack([self.out(x[:, t]).tanh() for t in range(x.shape[1])], 1)

    x = torch.randn(2, 5, 3)
    written = write(module_of(forward, out=nn.Linear(3, 3)), x)
    assert "def step(_, x_t):\n" in written.text
    assert_equal(written, x)


def test_a_size_of_a_module_that_its_caller_writes() -> None:
    """A module without tensors halves a sequence twice."""
    half = module_of(lambda self, x: x[:, : x.shape[1] // 2])
    x = torch.randn(3, 20)
    assert_equal(write(module_of(lambda self, x: self.halved(self.halved(x)), halved=half), x), x)
