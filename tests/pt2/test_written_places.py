"""Writes at places that are values, such as ``x[i, lengths[i] - 1] = 0``, under ``jit`` at any sizes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from testing.gradients import require_equal
from testing.graphs import to_numpy
from testing.modules import module_of
from testing.written import assert_holds, written_program

WRITES: dict[str, Callable[[Any, Tensor], Any]] = {
    "row": lambda x, n: x.__setitem__(n[0], 0.5),
    "number": lambda x, n: x.__setitem__(int(n[0]) - 1, 0.5),
    "item of a row": lambda x, n: [x[i].__setitem__(n[i] - 1, 0) for i in range(3)],
    "element": lambda x, n: [x.__setitem__((i, n[i].item() - 1), i) for i in range(3)],
    "column": lambda x, n: x.__setitem__((slice(None), n[1]), x[:, 0] * 2),
    "part of a column": lambda x, n: x.__setitem__((slice(1, None), n[1]), x[:2, 0]),
    "ellipsis": lambda x, n: x.__setitem__((..., n[1]), x[1, 0]),
    "leading axes of 1": lambda x, n: [x.__setitem__((i, n[0]), x[None, i, :1]) for i in range(3)],
    "leading axis of a row": lambda x, n: x.__setitem__((slice(None), n[0]), x[None, :, 0]),
    "two": lambda x, n: x.__setitem__((n[0], n[1]), True),
    "whole numbers": lambda x, n: x.__setitem__((n[0], n[2]), torch.tensor(3)),
    "from the end": lambda x, n: x.__setitem__((-1, -n[0]), n[2]),
    "several axes": lambda x, n: x.unsqueeze(1).__setitem__((slice(None), 0, n[1]), x[:, 1]),
}


def _written(write: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    def forward(self: Any, x: Tensor, n: Tensor) -> Tensor:
        y = x * self.weight
        write(y, n)
        return y.sin()

    return module_of(forward, weight=nn.Parameter(torch.tensor(1.5)))


@pytest.mark.quick("item of a row", "part of a column", "from the end")
@pytest.mark.parametrize("name", WRITES)
def test_writes(name: str) -> None:
    model = _written(WRITES[name])
    program = jaxlstm.from_module(model, (torch.randn(3, 5), torch.tensor([1, 2, 2])))
    for columns, n in ((5, [2, 1, 2]), (7, [1, 2, 1]), (3, [2, 2, 1])):
        require_equal(program, model, torch.randn(3, columns, requires_grad=True), torch.tensor(n))


def test_a_place_out_of_range() -> None:
    """Torch raises an error; under jit, as for other scatters, all is NaN."""
    program = jaxlstm.from_module(_written(WRITES["two"]), (torch.randn(3, 5), torch.tensor([1, 2])))
    x = torch.randn(3, 5)
    for n in ([3, 0], [0, 5], [-4, 0]):
        args = x.numpy(), np.array(n)
        assert np.isnan(jax.jit(program)(program.params, *args)).all()
        with pytest.raises(ProgramError, match="index"):
            program(program.params, *args)


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8", "ignore:from_module fixed parts")
@pytest.mark.parametrize("writes", [False, True])
def test_a_byte_is_a_mask(writes: bool) -> None:
    """``torch.export`` takes it for a place."""

    def forward(self: Any, x: Tensor, n: Tensor) -> Tensor:
        if not writes:
            return x[n.to(torch.uint8)[0]]
        y = x.clone()
        y[n.to(torch.uint8)[0]] = 3.0
        return y

    program = jaxlstm.from_module(model := module_of(forward), (torch.ones(3, 2), torch.tensor([2, 1])))
    for n in (0, 1, 2):
        args = torch.randn(3, 2), torch.tensor([n, 1])
        np.testing.assert_array_equal(program({}, *map(to_numpy, args)), model(*args))


def test_written_source() -> None:
    x, n = torch.randn(3, 5), torch.tensor([1, 2, 2])
    program = jaxlstm.from_module(_written(WRITES["item of a row"]), (x, n))
    assert_holds(written_program(program), x, n)
