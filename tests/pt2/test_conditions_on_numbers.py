"""Conditions on numbers, values of tensors: under ``jit``, each of their branches is exported."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from testing.gradients import require_results
from testing.modules import module_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fixed parts of the model", "ignore:.*has no effect")

LENGTHS = ([5, 3], [3, 2], [2, 5], [2, 2], [4, 4], [1, 3], [6, 3, 5], [2, 3, 4], [1, 1, 1], [6, 6, 6])


def number_of_elements(self: Any, x: Tensor, n: Tensor) -> Tensor:
    k = int((n > 2).sum())
    return x * k if k > 1 else x - k


def ranges(self: Any, x: Tensor, n: Tensor) -> Tensor:
    longest = n.max().item()
    if longest < 3:
        return x
    return x * 2 if longest < 5 else x * longest


def two_numbers(self: Any, x: Tensor, n: Tensor) -> Tensor:
    a, b = n[0].item(), n[1].item()
    return x * 2 if a < b and b > 3 else x - 1


def truth_as_number(self: Any, x: Tensor, n: Tensor) -> Tensor:
    k = int((n > 3).all())
    if k:
        x = x * 2
    return x + k + torch.arange(x.shape[-1]) * k


def number_after(self: Any, x: Tensor, n: Tensor) -> Tensor:
    k = n.min().item()
    y = self.lstm(x)[0]
    return (y * 2 if k > 2 else y) + k * 3


def remainder(self: Any, x: Tensor, n: Tensor) -> Tensor:
    return x * 2 if n.sum().item() % 2 == 0 else x.flip(1)


def shorter(self: Any, x: Tensor, n: Tensor) -> Tensor:
    return torch.cat([x[:, :2], x[:, 2:] * 0], 1) if n.max().item() < x.shape[1] else x


def cases(self: Any, x: Tensor, n: Tensor) -> Tensor:
    k = int(n[0])
    if k == 2:
        return x[:, 0]
    return x[:, 1] * 3 if k == 3 else x[:, -1]


def floats(self: Any, x: Tensor, n: Tensor) -> Tensor:
    a, b = x[0, 0, 0].item(), x[1, 0, 0].item()
    x.neg_()  # The numbers are from before.
    if a < b:
        x = x * a
    return x + b


def between(self: Any, x: Tensor, n: Tensor) -> Tensor:
    mean = float(x.mean())
    return (x * 0 if -0.125 < mean < 0.125 else x.flip(1)) + mean


def padded(self: Any, x: Tensor, n: Tensor) -> Tensor:
    lengths: Any = list(n)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
    if (n == 2).any():
        y = y * 2
    if y.size(1) != x.size(1):
        y = torch.cat([y, y.new_zeros(y.size(0), x.size(1) - y.size(1), y.size(2))], 1)
    return y


def changed(self: Any, x: Tensor, n: Tensor) -> Tensor:
    """The elements of a list are views of the tensor: the packed lengths are 2 at most, and 1 at first."""
    lengths: Any = list(n.clone())
    last = lengths[-1]
    n = n.clone()
    views: Any = list(n)
    n.clamp_(max=2)
    n[0] = 1
    packed = pack_padded_sequence(x, views, batch_first=True, enforce_sorted=False)
    y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
    return y * last if last > 3 else y + last


def model(forward: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    return module_of(forward, lstm=nn.LSTM(3, 3, batch_first=True)).eval()


@pytest.mark.quick("ranges", "number_after", "cases", "floats", "between", "padded")
@pytest.mark.parametrize(
    "forward",
    [
        *(number_of_elements, ranges, two_numbers, truth_as_number, number_after, remainder, shorter, cases),
        *(floats, between, padded, changed),
    ],
)
def test_each_branch_runs_under_jit(forward: Callable[..., Any]) -> None:
    module = model(forward)
    program = jaxlstm.from_module(module, (torch.randn(2, 5, 3), torch.tensor(LENGTHS[0])))
    for lengths in LENGTHS:
        x = torch.randn(len(lengths), 6 if len(lengths) > 2 else 5, 3)
        torch_model = lambda *args: module(*map(torch.clone, args))  # noqa: E731
        require_results(program, torch_model, x, torch.tensor(lengths), atol=1e-5)


def completed(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Pack the sorted sequences by a list of lengths, and add the steps of padding that the batch lacks."""
    lengths, order = mask.long().sum(1).sort(descending=True)
    packed = pack_padded_sequence(x[order], list(lengths), batch_first=True)  # type: ignore[arg-type]
    y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
    if y.size(1) != mask.size(1):
        y = torch.cat([y, torch.zeros(y.size(0), mask.size(1) - y.size(1), y.size(2))], 1)
    return y[order.argsort()]


def batches(*lengths: list[int]) -> list[Tensor]:
    """Return for each batch its five steps and their mask."""
    masks = [torch.arange(5) < torch.tensor(n)[:, None] for n in lengths]
    return [tensor for mask in masks for tensor in (torch.randn(*mask.shape, 3), mask)]


FULL, SHORT = [2, 5], [3, 1]


@pytest.mark.quick("example0")
@pytest.mark.parametrize("example", [(SHORT, FULL), (FULL, FULL)])
@pytest.mark.filterwarnings("error:.*does not take its example")
def test_each_of_two_batches_may_end_before_its_padding(example: Any) -> None:
    module = model(lambda self, *given: (completed(self, *given[:2]), completed(self, *given[2:])))
    program = jaxlstm.from_module(module, tuple(batches(*example)))
    for lengths in itertools.product((FULL, SHORT), repeat=2):
        require_results(program, module, *batches(*lengths), atol=1e-5)


def test_one_of_three_batches_that_ends_before_its_padding_is_warned_of() -> None:
    def forward(self: Any, *given: Tensor) -> Tensor:
        return completed(self, *given[:2]) + completed(self, *given[2:4]) + completed(self, *given[4:])

    with pytest.warns(UserWarning, match="does not take its example"):
        jaxlstm.from_module(model(forward), tuple(batches(FULL, SHORT, FULL)))


def test_a_number_that_float32_rounds() -> None:
    """A float32 may be larger than a number and not than the number's float32: ``jit`` has no result."""
    module = model(lambda self, x: x * 2 if x[0].item() > 0.1 else x)
    program = jaxlstm.from_module(module, (torch.ones(3),))
    require_results(program, module, torch.full((3,), 0.2))
    require_results(program, module, torch.full((3,), 0.1), hides=True)


def test_many_conditions_on_numbers_are_refused_at_other_sizes() -> None:
    """They would nearly always differ from the example's, and give NaN."""

    def forward(self: Any, x: Tensor, n: Tensor) -> Tensor:
        for step in range(4):
            if step < n[0].item():
                x = x * 1.5
        return x + sum(length for length in n)

    program = jaxlstm.from_module(model(forward), (torch.ones(2, 3), torch.tensor([3, 2])))
    with pytest.raises(ProgramError, match="axis 0 of input n must have size 2"):
        jax.jit(program)(program.params, np.ones((3, 3), np.float32), np.array([1, 2, 3]))
