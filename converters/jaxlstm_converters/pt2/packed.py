"""Packed sequences as operators of torch: import this module before ``torch.export.load`` of such a program.

``jaxlstm.from_module`` records these operators where a module packs sequences, and ``Program.save`` writes
them. A packed batch is a padded batch and its lengths, in decreasing order. Below, T is the number of steps
of the padding, B the number of sequences, and "longest" the length of the first.

- ``jaxlstm::pack_padded(input, lengths, batch_first)`` checks the lengths, and cuts the padding after the
  longest sequence: (T, B, ...) -> (longest, B, ...), or the same with the batch first.
- ``jaxlstm::packed_lstm``, ``packed_gru``, ``packed_rnn_tanh`` and ``packed_rnn_relu`` take the arguments of
  ``aten::lstm.input`` and the lengths. Each sequence ends after its own length: outputs after the end are 0,
  its final state is the state after its last step, and a reverse direction starts there.
- ``jaxlstm::pad_packed(data, lengths, batch_first, padding_value, total_length)`` gives the steps after the
  end of each sequence a value, and the result ``total_length`` steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

STATES = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
"""Number of states of each recurrence."""

_LIBRARY = torch.library.Library("jaxlstm", "FRAGMENT")


def _time_axis(batch_first: bool) -> int:
    return 1 if batch_first else 0


def _cut(input: Tensor, lengths: Tensor, batch_first: bool) -> Tensor:
    axis = _time_axis(batch_first)
    _require_lengths(lengths, input.shape[axis])
    return input.narrow(axis, 0, int(lengths[0])).clone()


def _require_lengths(lengths: Tensor, time: int) -> None:
    if lengths.min() < 1 or lengths.max() > time or (lengths.diff() > 0).any():
        raise ValueError(
            f"lengths must be decreasing and from 1 to {time}, the number of time steps, got "
            f"{lengths.tolist()}; pack with enforce_sorted=False if they are not sorted"
        )


def _cut_fake(input: Tensor, lengths: Tensor, batch_first: bool) -> Tensor:
    axis = _time_axis(batch_first)
    longest = torch.library.get_ctx().new_dynamic_size(min=1)
    torch._check(longest <= input.shape[axis])
    torch._check(lengths.shape[0] == input.shape[1 - axis])
    return input.new_empty([longest if place == axis else size for place, size in enumerate(input.shape)])


def _cut_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    input, _, batch_first = inputs
    ctx.axis = _time_axis(batch_first)
    ctx.time = input.shape[ctx.axis]


def _cut_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _with_steps(grad, ctx.axis, ctx.time, 0.0), None, None


def _with_steps(x: Tensor, axis: int, steps: int, value: float) -> Tensor:
    """Return a tensor with ``steps`` steps along an axis: cut, or continued with a value."""
    after = (0, 0) * (x.ndim - 1 - axis)
    return torch.nn.functional.pad(x, (*after, 0, steps - x.shape[axis]), value=value)


def _fill(
    data: Tensor, lengths: Tensor, batch_first: bool, padding_value: float, total_length: int | None = None
) -> Tensor:
    axis = _time_axis(batch_first)
    steps = data.shape[axis] if total_length is None else total_length
    _require_lengths(lengths, steps)
    ended = torch.arange(steps)[:, None] >= lengths
    ended = (ended.T if batch_first else ended).reshape(
        *ended.shape[:: -1 if batch_first else 1], *(1,) * (data.ndim - 2)
    )
    return _with_steps(data, axis, steps, padding_value).masked_fill(ended, padding_value)


def _fill_fake(
    data: Tensor, lengths: Tensor, batch_first: bool, padding_value: float, total_length: Any = None
) -> Tensor:
    axis = _time_axis(batch_first)
    steps = data.shape[axis] if total_length is None else total_length
    return data.new_empty([steps if place == axis else size for place, size in enumerate(data.shape)])


def _fill_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    data, lengths, ctx.batch_first, _, _ = inputs
    ctx.save_for_backward(lengths)
    ctx.time = data.shape[_time_axis(ctx.batch_first)]


def _fill_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (lengths,) = ctx.saved_tensors
    return _fill(grad, lengths, ctx.batch_first, 0.0, ctx.time), None, None, None, None


class _Recurrence:
    """The implementation of one ``jaxlstm::packed_*`` operator on torch's own packed sequences."""

    def __init__(self, name: str) -> None:
        self.function = getattr(torch, name)
        self.states = STATES[name]

    def run(
        self, input: Tensor, lengths: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *settings: Any
    ) -> tuple[Tensor, ...]:
        """Run the recurrence; ``settings`` follow ``aten::lstm.input``, with ``batch_first`` last."""
        *others, batch_first = settings
        steps = input.shape[_time_axis(batch_first)]
        packed, sizes = torch._VF._pack_padded_sequence(input, lengths.cpu(), batch_first)
        state = list(hx) if self.states == 2 else hx[0]
        outputs, *final = self.function(packed, sizes, state, list(params), *others)
        padded, _ = torch._VF._pad_packed_sequence(outputs, sizes, batch_first, 0.0, steps)
        return padded.contiguous(), *final

    def fake(
        self, input: Tensor, lengths: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *settings: Any
    ) -> tuple[Tensor, ...]:
        """Return empty results, and let torch know which sizes must agree."""
        bidirectional, batch = settings[4], input.shape[0 if settings[5] else 1]
        torch._check(input.shape[2] == params[0].shape[1])
        torch._check(lengths.shape[0] == batch)
        for state in hx:
            torch._check(state.shape[1] == batch)
        features = hx[0].shape[-1] * (2 if bidirectional else 1)
        return input.new_empty(*input.shape[:2], features), *(torch.empty_like(state) for state in hx)

    def setup(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the arguments."""
        input, lengths, hx, params, *ctx.settings = inputs
        ctx.save_for_backward(input, lengths, *hx, *params)

    def backward(self, ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Run the recurrence again, and differentiate it."""
        input, lengths, *others = ctx.saved_tensors
        leaves = [tensor.detach().requires_grad_() for tensor in (input, *others)]
        with torch.enable_grad():
            input, *others = leaves
            hx, params = others[: self.states], others[self.states :]
            results = self.run(input, lengths, hx, params, *ctx.settings)
        by_input, *by_others = torch.autograd.grad(results, leaves, grads)
        by_hx, by_params = by_others[: self.states], by_others[self.states :]
        return by_input, None, by_hx, by_params, *(None for _ in ctx.settings)


def _define(schema: str, run: Any, fake: Any, setup: Any, backward: Any) -> None:
    name = f"jaxlstm::{schema.partition('(')[0]}"
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(name, "CompositeExplicitAutograd", run, lib=_LIBRARY)
    torch.library.register_fake(name, fake, lib=_LIBRARY)
    torch.library.register_autograd(name, backward, setup_context=setup, lib=_LIBRARY)


_define(
    "pack_padded(Tensor input, Tensor lengths, bool batch_first) -> Tensor",
    *(_cut, _cut_fake, _cut_setup, _cut_backward),
)
_define(
    "pad_packed(Tensor data, Tensor lengths, bool batch_first, float padding_value, "
    "SymInt? total_length=None) -> Tensor",
    *(_fill, _fill_fake, _fill_setup, _fill_backward),
)
for _name, _states in STATES.items():
    _recurrence = _Recurrence(_name)
    _define(
        f"packed_{_name}(Tensor input, Tensor lengths, Tensor[] hx, Tensor[] params, bool has_biases, "
        "int num_layers, float dropout, bool train, bool bidirectional, bool batch_first) -> "
        f"({', '.join(['Tensor'] * (1 + _states))})",
        *(_recurrence.run, _recurrence.fake, _recurrence.setup, _recurrence.backward),
    )
