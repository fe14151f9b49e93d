"""Loops over cells, which run as a scan under ``jit`` or stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from testing.zoo.specimen import Specimen

STEPS = 9


class Loop(nn.Module):
    """A function of the module, whose layers are in eights, and of x (2, STEPS, 3)."""

    def __init__(self, run: Callable[[Loop, Tensor], Any]) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(3, 8), nn.GRUCell(8, 8)
        self.first, self.out, self.query = nn.Linear(3, 8), nn.Linear(8, 3), nn.Linear(8, 8)
        self.layer = nn.LSTM(3, 8, batch_first=True)
        self.embed = nn.Embedding(3, 8)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)

    def states(self, inputs: Iterable[Tensor], h: Any = None) -> Iterator[Tensor]:
        for step in inputs:
            h = self.gru(step, h)
            yield h

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        return (self.first(x[:, t]) for t in range(STEPS))


def unbound(m: Loop, x: Tensor) -> Any:
    state: Any = None
    outputs = []
    for step in x.unbind(1):
        state = m.lstm(step, state)
        outputs.append(m.out(state[0]))
    return torch.stack(outputs, -1), state


def backwards(m: Loop, x: Tensor) -> Any:
    h = g = m.first(x[:, 0])
    outputs = []
    for t in reversed(range(STEPS)):
        h = m.gru(m.first(x[:, t]), h)
        g = m.gru(h, g).relu_()
        outputs.append(g.unsqueeze(1))
    return torch.cat(outputs[::-1], 1), h


def decoder(m: Loop, x: Tensor) -> Any:
    """Attention over x, in which the token of a step is the input of the next."""
    keys = m.first(x)
    h, token, logits, weights = keys.mean(1), torch.zeros(2, dtype=torch.long), [], []
    context = keys[:, 0]
    for _ in range(STEPS):
        h = m.gru(m.embed(token) + context, h)
        attention = torch.einsum("bth,bh->bt", keys, m.query(h)).softmax(-1)
        context = torch.bmm(attention.unsqueeze(1), keys).squeeze(1)
        logits.append(m.out(h + context))
        weights.append(attention)
        token = logits[-1].argmax(-1)
    return torch.stack(logits, 1), torch.stack(weights), token, weights[5], logits[-1]


def written(m: Loop, x: Tensor) -> Any:
    """Outputs that are written to a tensor."""
    outputs = torch.zeros(2, STEPS, 8)
    for t, h in enumerate(m.states(m.steps(x))):
        outputs[:, t] = h
    return outputs * 2


def single_steps(m: Loop, x: Tensor) -> Any:
    """An LSTM that runs single steps of slices."""
    state, outputs = (torch.zeros(1, 2, 8), torch.ones(1, 2, 8)), []
    for t in range(STEPS):
        y, state = m.layer(x[:, t : t + 1], state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state[1]


def two_loops(m: Loop, x: Tensor) -> Any:
    """The second loop reads the outputs of the first, from the last to the first, and one in every step."""
    states = list(m.states(m.steps(x)))
    outputs = m.states((state * states[0] for state in reversed(states)), states[-1])
    return torch.stack(list(outputs)), torch.stack(states[2:6], 1)


def first_state(m: Loop, x: Tensor) -> Any:
    """Each step reads the state of the step before and of the first step."""
    first = h = m.gru(m.first(x[:, 0]), m.first(x[:, 1]))
    for t in range(STEPS):
        h = m.gru(m.first(x[:, t]), h * first)
    return h


def changed_constant(m: Loop, x: Tensor) -> Any:
    """A tensor that is equal in all steps until the state is written to it."""
    h = m.first(x[:, 0])
    for t in range(STEPS):
        y = torch.zeros(2, STEPS, 3) + x
        view = y.transpose(0, 1)
        y[:, :, 0] = h[:, :1]
        h = m.gru(m.first(view[t] + view.cumsum(0)[t]), h)
    return h


def other_first_slice(m: Loop, x: Tensor) -> Any:
    """The first step reads the rows of another slice than the others."""
    bank = torch.cat([x, x * 3], 1).reshape(-1, 2 * STEPS, 3)
    slices = (bank[:, :STEPS] if t == 0 else bank[:, STEPS : 2 * STEPS] for t in range(STEPS))
    *_, h = m.states((m.first(y[:, t]) for t, y in enumerate(slices)), m.first(x[:, 0]))
    return h


def heads(m: Loop, x: Tensor) -> Any:
    """A layer runs over each output after the loop, and over each input in a loop without state."""
    outputs = list(m.states(m.steps(x)))
    queries = [m.query(m.first(y)) for y in x.unbind(1)]
    return torch.stack([m.out(h) for h in outputs], 1), torch.stack(queries)


def growing(m: Loop, x: Tensor) -> Any:
    seen = x[:, :1]
    for _ in range(STEPS):
        seen = torch.cat([seen, m.out(m.first(seen.mean(1, keepdim=True)))], 1)
    return seen


def two_before(m: Loop, x: Tensor) -> Any:
    """A step reads the state of two steps before."""
    before, h = m.first(x[:, 0]), m.first(x[:, 1])
    for t in range(STEPS):
        before, h = h, m.gru(m.first(x[:, t]), before)
    return h


def changed_state(m: Loop, x: Tensor) -> Any:
    """A step changes the state of the step before in place."""
    h, outputs = m.first(x[:, 0]).detach(), []
    for t in range(STEPS):
        new = m.gru(x[:, t].repeat(1, 3)[:, :8], h.clone())
        outputs.append(h.clone())
        h.mul_(0.5)
        outputs.append(h)
        h = new.detach()
    return torch.stack(outputs)


def windows(m: Loop, x: Tensor) -> Any:
    *_, h = m.states(m.first(x[:, t : t + 2].sum(1)) for t in range(STEPS - 1))
    return h


def without_gradient(m: Loop, x: Tensor) -> Any:
    """No gradient flows to the rows."""
    rows = (torch.no_grad()(x.select)(1, t) for t in range(STEPS))
    return list(m.states(map(m.first, rows), m.first(x[:, 0])))[-1]


def written_slices(m: Loop, x: Tensor) -> Any:
    outputs = torch.zeros(2, STEPS, 8)
    for t, h in enumerate(m.states(m.steps(x))):
        outputs[:, t : t + 1] = h.unsqueeze(1)
    return outputs + 1


def larger_batch(m: Loop, x: Tensor) -> Any:
    """The state grows along an axis whose size the file does not say."""
    h = m.first(x[:, 0])
    for _ in range(STEPS):
        h = torch.cat([h, m.gru(m.first(x[:, 0]), h[:2])], 0)
    return h


def larger_mean(m: Loop, x: Tensor) -> Any:
    """The same, and all steps are alike: only the shape of the state shows that it grows."""
    h = m.first(x[:, 0])
    for _ in range(STEPS):
        h = torch.cat([h, m.gru(h.mean(0, keepdim=True), h.amax(0, keepdim=True))], 0)
    return h


def sizes(m: Loop, x: Tensor) -> Any:
    """A size is part of the state."""
    h, n = m.first(x[:, 0]), x.shape[0]
    for _ in range(STEPS):
        n = n + x.shape[0]
        h = m.gru(m.first(x[:, 0]), h / n)
    return h


def signed_zero(m: Loop, x: Tensor) -> Any:
    """A number is 0.0 in some steps and -0.0 in others."""
    h = m.first(x[:, 0])
    for t in range(STEPS):
        h = torch.atan2(h.detach() * 0, torch.full_like(h, -0.0 if t == 5 else 0.0)) + m.gru(h, h)
    return h


SCANS: dict[Callable[[Loop, Tensor], Any], int] = {
    **dict.fromkeys((unbound, backwards, decoder, written, single_steps, first_state, changed_state), 1),
    **dict.fromkeys((changed_constant, other_first_slice), 1),
    two_loops: 2,
    heads: 3,
    **dict.fromkeys((growing, two_before, windows, written_slices, larger_batch), 0),
    **dict.fromkeys((larger_mean, sizes, signed_zero, without_gradient), 0),
}
"""Function -> the fewest scans under ``jit``; 0 if its loop cannot be one."""


def inputs(batch: int) -> tuple[Tensor]:
    return (torch.randn(batch, STEPS, 3),)


SPECIMENS = {
    run.__name__: Specimen(partial(Loop, run), inputs, (2,), of_inputs=True, scans=scans, atol=2e-6)
    for run, scans in SCANS.items()
}
