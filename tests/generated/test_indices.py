"""Reads and writes at an index, by tables: torch's numbers, or, where torch raises an error, none.

An index is in range or not. Out of range, a program raises an error, or under ``jit`` gives NaN or the
smallest number: at the index for a read, everywhere for a write. Written source
gives NaN for a read. torch takes the remainder of an index of take_along_dim.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from testing.graphs import to_numpy
from testing.modules import module_of
from testing.written import written_program

INDICES = range(-7, 8)
SIZE = 5

READS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "column": lambda x, n: x[:, n],
    "element": lambda x, n: x[1, n],
    "number": lambda x, n: x.select(1, int(n)),
    "from the end": lambda x, n: x[:, -n - 1],
    "columns": lambda x, n: x[:, torch.stack([n, n * 0])],
    "elements": lambda x, n: x[torch.arange(3), n.expand(3)],
    "rows of indices": lambda x, n: x[[0, 1], torch.stack([n, n])],
    "index_select": lambda x, n: x.index_select(1, n[None]),
    "gather": lambda x, n: x.gather(1, n.expand(3, 1)),
    "gather of numbers": lambda x, n: (x * 100).long().gather(1, n.expand(3, 1)),
    "take_along_dim": lambda x, n: x.take_along_dim(n.expand(3, 2), 1),
    "take_along_dim of a row": lambda x, n: x.take_along_dim(n[None, None], 1),
    "take": lambda x, n: x.mT.reshape(-1)[:5].take(n[None]),
    "embedding": lambda x, n: nn.functional.embedding(n, x.mT),
    "cross_entropy": lambda x, n: nn.functional.cross_entropy(x, n.expand(3)),
    "swapped": lambda x, n: x.mT[n].sum(),
}
WRITES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "select_scatter": lambda x, n: x.select_scatter(x[:, 0], 1, int(n)),
    "set": lambda x, n: _with(x, lambda y: y[:, n].fill_(7)),
    "add": lambda x, n: _with(x, lambda y: y[:, n].add_(7)),
    "element of a row": lambda x, n: _with(x, lambda y: y[1, n].add_(7))[1],
    "index_put": lambda x, n: x.index_put((torch.tensor([2]), n[None]), torch.tensor(7.0)),
    "accumulated": lambda x, n: x.index_put((n[None] * 0, n[None]), torch.tensor(7.0), accumulate=True),
    "index_fill": lambda x, n: x.index_fill(1, n[None], 7),
    "index_add": lambda x, n: x.index_add(1, n[None], x[:, :1]),
    "index_copy": lambda x, n: x.index_copy(1, n[None], x[:, :1]),
    "scatter": lambda x, n: x.scatter(1, n.expand(3, 1), 7),
    "scatter_add": lambda x, n: x.scatter_add(1, n.expand(3, 1), x),
    "scatter_reduce": lambda x, n: x.scatter_reduce(1, n.expand(3, 1), x, "amax"),
    "put": lambda x, n: x[0].put(n[None], x[0, :1]),
    "one_hot": lambda x, n: nn.functional.one_hot(n, SIZE) + (x[0] * 0).long(),
}


def _with(x: Tensor, write: Callable[[Tensor], Any]) -> Tensor:
    y = x.clone()
    write(y)
    return y


def _program(function: Callable[..., Tensor], x: Tensor) -> Any:
    return jaxlstm.from_module(module_of(lambda _, x, n: function(x, n)), (x, torch.tensor(1)))


def results_of_torch(function: Callable[..., Tensor], x: Tensor) -> dict[int, np.ndarray | None]:
    """Return the result at each index; None for an error."""
    results: dict[int, np.ndarray | None] = {}
    for n in INDICES:
        try:
            results[n] = to_numpy(function(x, torch.tensor(n)))
        except (IndexError, RuntimeError):
            results[n] = None
    return results


def is_absent(result: np.ndarray) -> np.ndarray:
    """Return True for each element that stands for no number."""
    return np.isnan(result) if result.dtype.kind == "f" else result == np.iinfo(result.dtype).min


@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_program(name: str) -> None:
    torch.manual_seed(0)
    x, function = torch.randn(3, SIZE), {**READS, **WRITES}[name]
    program = _program(function, x)
    run = jax.jit(program)
    for n, expected in results_of_torch(function, x).items():
        args = to_numpy(x), np.int64(n)
        result = np.asarray(run(program.params, *args))
        if expected is not None:
            np.testing.assert_allclose(result, expected, rtol=1e-6)
            np.testing.assert_allclose(program(program.params, *args), expected, rtol=1e-6)
            continue
        assert is_absent(result).any() if name in READS else is_absent(result).all(), n
        with pytest.raises((IndexError, jaxlstm.programs.ProgramError)):
            program(program.params, *args)


@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_written_source(name: str) -> None:
    torch.manual_seed(0)
    x, function = torch.randn(3, SIZE), {**READS, **WRITES}[name]
    written = written_program(_program(function, x))
    for n, expected in results_of_torch(function, x).items():
        for run in (written.model, jax.jit(written.model)):
            try:
                result = np.asarray(run(to_numpy(x), np.int64(n)))
            except (IndexError, jaxlstm.programs.ProgramError):
                assert expected is None
                continue
            if expected is not None:
                np.testing.assert_allclose(result, expected, rtol=1e-6)
            elif name in READS and not -SIZE <= n < SIZE:
                assert is_absent(result).any(), (n, written.text)
