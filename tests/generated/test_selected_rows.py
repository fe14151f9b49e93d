"""Functions of rows whose number ``jit`` does not know, by tables: torch's numbers, NaN, or refused.

Each function runs on slices and on selected rows, from none of them to all. Elements that torch lacks must be
NaN, or the smallest number; so must all, if torch fails. A refusal is allowed where ``EXACT`` lacks the name.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from testing.graphs import to_numpy
from testing.modules import module_of

EXACT: dict[str, Callable[[Tensor], Any]] = {
    **{name: lambda a, name=name: getattr(a, name)(0) for name in ("sum", "prod", "mean", "std", "var")},
    **{name: lambda a, name=name: getattr(a, name)(0) for name in ("max", "min", "amax", "argmin")},
    **{
        f"{name} of all": lambda a, name=name: getattr(a, name)() for name in ("max", "min", "argmax", "mean")
    },
    **{f"{name} of numbers": lambda a, name=name: getattr((a * 9).long(), name)() for name in ("max", "sum")},
    **{f"{name} of truths": lambda a, name=name: getattr(a > 0, name)(0) for name in ("any", "all", "sum")},
    **{f"{name} of all truths": lambda a, name=name: getattr(a > 0, name)() for name in ("any", "all")},
    "logsumexp": lambda a: a.logsumexp(0),
    "softmax": lambda a: a.softmax(0),
    "norm": lambda a: a.norm(dim=0),
    "place in columns": lambda a: torch.stack([a.T.argmax(), a.T.argmin()]),
    "place with all axes": lambda a: a.T[:, None].argmax(keepdim=True),
    "cumsum": lambda a: a.cumsum(0),
    "medians": lambda a: a.median(0, keepdim=True),
    "median of all": lambda a: a.median(),
    "median of numbers": lambda a: (a * 2).long().median(0).values,
    "median with others": lambda a: torch.stack([a * torch.inf, a.log()], -1).median(0)[0],
    "places": lambda a: torch.where(a > 0)[0].sum(),
    "nonzero": lambda a: (a > 0.2).nonzero().float(),
    "nonzero of columns": lambda a: (a.T < 0).nonzero(as_tuple=True)[1] * 1.0,
    "unique": lambda a: a.long()[:, 0].unique() * 1.0,
    "groups": lambda a: [
        x * 1.0 for x in (a[:, 1] > 0).long().unique(return_inverse=True, return_counts=True)
    ],
    "runs": lambda a: [
        x * 1.0 for x in (a[:, 0] > 0).unique_consecutive(return_inverse=True, return_counts=True)
    ],
    "number of runs": lambda a: torch.unique_consecutive(a[:, 0] > 0, return_counts=True)[1].max(),
    "unlike numbers": lambda a: a[:, 0].log().unique(),
    "first": lambda a: a[0],
    "last two": lambda a: a[-2:].sum(0),
    "sorted": lambda a: a.sort(0)[0][0],
    "top": lambda a: a.topk(1, 0),
    "reversed": lambda a: a.flip(0),
    "moment": lambda a: a.T @ a,
    "number": lambda a: torch.ones(4) * a.shape[0],
    "ranks": lambda a: a.T * torch.arange(1, a.shape[0] + 1),
    "numbers": lambda a: a[:, 0] - torch.arange(-2, a.shape[0] - 2, dtype=torch.float32),
    "numbers downwards": lambda a: a[:, 1] + torch.arange(a.shape[0] - 1, -1, -1),
    "ranks downwards": lambda a: a[:, 1] + torch.arange(a.shape[0], 0, -1),
    "places from the end": lambda a: a[torch.arange(a.shape[0] - 1, -1, -1)],
    "loss": lambda a: nn.functional.mse_loss(a, a * 2),
    "pooled": lambda a: nn.functional.adaptive_max_pool1d(a.T, 1),
    "padded": lambda a: rnn.pad_sequence([a, a[:1], a.new_ones(3, 2)], padding_value=-7.0),
}
OTHERS: dict[str, Callable[[Tensor], Any]] = {
    **{name: lambda a, name=name: getattr(a, name)(0) for name in ("mode", "unbind", "cummax", "nanmedian")},
    "kthvalue": lambda a: a.kthvalue(1, 0),
    "unbiased": lambda a: a.var(0, unbiased=False),
    "convolution": lambda a: nn.functional.conv1d(a.T[None], torch.ones(1, 2, 2), padding=1),
    "pools": lambda a: nn.functional.max_pool1d(a.T, 2, padding=1),
    "differences": lambda a: a.diff(dim=0),
    "rolled": lambda a: a.roll(1, 0),
    "flat": lambda a: a.T.reshape(-1),
    "halves": lambda a: a.chunk(2, 0)[0],
    "distances": lambda a: torch.cdist(a, a).max(),
    "normalized": lambda a: nn.functional.normalize(a, dim=0),
    "lower": lambda a: (a @ a.T).tril().sum(),
    "counts": lambda a: torch.bincount(a.argmax(-1), minlength=2),
    "even numbers": lambda a: a[:, 0] + torch.arange(1, 2 * a.shape[0] + 1, 2),
    "one more": lambda a: torch.arange(1, a.shape[0] + 2).sum(),
    "one less": lambda a: torch.arange(a.shape[0] - 1, 0, -1).sum(),
    "resized": lambda a: nn.functional.interpolate(a.T[None], size=3),
}
TWO: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "pad_sequence": lambda a, b: rnn.pad_sequence([a, b], batch_first=True, padding_value=-7.0),
    "pad_sequence on the left": lambda a, b: rnn.pad_sequence([a, b], padding_side="left"),
    "pack_sequence": lambda a, b: rnn.pack_sequence([a, b], enforce_sorted=False).data,
    "cat": lambda a, b: torch.cat([a, b]).softmax(0),
    "products": lambda a, b: a @ b.T,
    "grid": lambda a, b: torch.meshgrid(a[:, 0], b[:, 0], indexing="ij"),
    "blocks": torch.block_diag,
    "attention": lambda a, b: nn.functional.scaled_dot_product_attention(a[None], b[None], b[None])[0],
    "searchsorted": lambda a, b: torch.searchsorted(a[:, 0].sort()[0], b[:, 0]),
    "index_select": lambda a, b: a.index_select(0, (b[:, 0] * 0).long()),
    "index_add": lambda a, b: torch.zeros(6, 2).index_add(0, (b[:, 0] * 0).long(), b) + a.sum(0),
    "slice": lambda a, b: a[: b.shape[0]],
    "repeated": lambda a, b: torch.repeat_interleave(a, b.shape[0], 0),
    "masked": lambda a, b: torch.zeros(6, 2).masked_scatter((torch.arange(6) < len(b))[:, None], b) + a.sum(),
    "extrema": lambda a, b: a.max() - b.min(),
}
STEPS: dict[str, Callable[[Tensor], Any]] = {
    "rows": lambda a: a.reshape(-1, 4).cumsum(0),
    "halves": lambda a: a.reshape(-1, 2),
    "halves and back": lambda a: a.reshape(-1, 2).tanh().reshape(-1, a.size(1), 4),
    "quarters": lambda a: a.reshape(-1, 2, 2),
    "flat and back": lambda a: a.reshape(-1).tanh().reshape(a.size(0), -1, 4),
    "scores": lambda a: (a.reshape(-1, 4) @ torch.ones(4)).reshape(-1, a.size(1)).softmax(1),
    "scores of the batch": lambda a: (a.reshape(-1, 4) @ torch.ones(4)).reshape(a.size(0), -1),
    "both sizes": lambda a: (a.reshape(-1, 4) @ torch.ones(4, 2)).reshape(a.size(0), a.size(1), 2),
    "wide": lambda a: a.reshape(a.size(0), -1).tanh().reshape(a.size(0), -1, 4),
    "time first": lambda a: a.transpose(0, 1).reshape(-1, 4).tanh().reshape(-1, a.size(0), 4),
    "heads": lambda a: a.reshape(a.size(0), -1, 2, 2).transpose(1, 2).reshape(-1, a.size(1), 2).softmax(1),
    "beams": lambda a: torch.stack([a, a * 2], 2).reshape(a.size(0), -1, 4).reshape(a.size(0), -1, 2, 4),
    "flattened": lambda a: a.flatten(0, 1).tanh().unflatten(0, (a.size(0), -1)),
    "view_as": lambda a: nn.functional.layer_norm(a.reshape(-1, 4), (4,)).view_as(a),
    "mean": lambda a: a.reshape(-1, 4).mean(0),
    "loss": lambda a: nn.functional.cross_entropy(a.reshape(-1, 4), a.argmax(-1).reshape(-1)),
    "losses": lambda a: nn.functional.cross_entropy(a.mT, a.argmax(-1), torch.arange(1.0, 5), ignore_index=2),
}
OTHER_STEPS: dict[str, Callable[[Tensor], Any]] = {
    "swapped": lambda a: a.reshape(-1, 4).reshape(a.size(1), -1, 4),
    "batch of two": lambda a: a.reshape(-1, 4).reshape(2, -1, 4),
    "batch of six": lambda a: a.reshape(-1, 4).reshape(6, -1, 2),
    "rows of steps": lambda a: a.reshape(-1, 4).reshape(-1, a.size(1)),
    "stacked": lambda a: torch.stack([a, a * 2], 1).reshape(a.size(0), -1, 4),
    "pairs": lambda a: (a[:, None] + a[:, :, None]).reshape(-1, 4),
}


def _rows(selects: bool, x: Tensor, n: Tensor) -> Tensor:
    return x[x[:, 0] > n * 0.5 - 1.5] if selects else x[:n]


def _numbers(array: Any) -> np.ndarray:
    """Return the elements as floats, NaN for the smallest integer."""
    array = np.asarray(array)
    unknown = array == np.iinfo(array.dtype).min if array.dtype.kind == "i" else np.isnan(array)
    return np.where(unknown, np.nan, array)


def _require_right_outside_of_jit(program: Any, model: nn.Module, *args: Tensor) -> None:
    try:
        results = jax.tree.leaves(program(program.params, *map(to_numpy, args)))
    except (ProgramError, IndexError, ValueError, TypeError):
        return
    try:
        found = model(*args)
    except RuntimeError as error:
        # If torch raises an error, so must the program, unless torch says that it lacks a kernel.
        if "inputs are supported" in str(error):
            return
        raise
    for actual, expected in zip(results, [found] if isinstance(found, Tensor) else found, strict=True):
        np.testing.assert_allclose(actual, to_numpy(expected), rtol=1e-5, atol=1e-5)


def _is_right(program: Any, model: nn.Module, *args: Tensor) -> bool:
    """Require torch's numbers, no number, or an error. Return whether they are torch's under ``jit``."""
    _require_right_outside_of_jit(program, model, *args)
    try:
        results = jax.tree.leaves(jax.jit(program)(program.params, *map(to_numpy, args)))
    except ProgramError:
        return False
    ours = [*map(_numbers, results)]
    try:
        found = model(*args)
    except (RuntimeError, IndexError, ValueError):
        assert all(np.isnan(array).all() for array in ours)
        return True
    theirs = [_numbers(to_numpy(x)) for x in ([found] if isinstance(found, Tensor) else found)]
    if all(np.isnan(array).all() for array in ours):
        return all(np.isnan(array).all() for array in theirs)
    for actual, expected in zip(ours, theirs, strict=True):
        padded = np.full(actual.shape, np.nan)
        padded[tuple(map(slice, expected.shape))] = expected
        np.testing.assert_allclose(actual, padded, rtol=1e-5, atol=1e-5)
    return True


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("selects", [False, True], ids=["slice", "selection"])
@pytest.mark.parametrize("name", [*EXACT, *OTHERS])
@pytest.mark.quick(
    "any of truths-slice",
    "max-slice",
    "std-slice",
    "padded-slice",
    "max of numbers-selection",
    "place in columns-slice",
)
def test_rows(name: str, selects: bool) -> None:
    function = (EXACT | OTHERS)[name]
    model = module_of(lambda self, x, n: function(_rows(selects, x, n)))
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    program = jaxlstm.from_module(model, (x, torch.tensor(3)))
    right = [_is_right(program, model, x, torch.tensor(n)) for n in range(7)]
    assert all(right) or name in OTHERS


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("selects", [False, True], ids=["slice", "selection"])
@pytest.mark.parametrize("name", TWO)
@pytest.mark.quick("pad_sequence-slice")
def test_rows_of_two(name: str, selects: bool) -> None:
    model = module_of(lambda self, x, y, n: TWO[name](_rows(selects, x, n[0]), _rows(selects, y, n[1])))
    x, y = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0))
    program = jaxlstm.from_module(model, (x, y, torch.tensor([2, 4])))
    # Under jit, a packed sequence may have no steps.
    for n in ([2, 4], [4, 2], [3, 3], [1, 5], *([[0, 3], [3, 0]] if name != "pack_sequence" else [])):
        is_right = _is_right(program, model, x, y, torch.tensor(n))
        assert is_right or name not in ("pad_sequence", "cat")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("selects", [False, True], ids=["slice", "selection"])
@pytest.mark.parametrize("name", [*STEPS, *OTHER_STEPS])
@pytest.mark.quick("scores-slice", "halves and back-slice", "losses-selection", "swapped-slice")
def test_steps(name: str, selects: bool) -> None:
    function = (STEPS | OTHER_STEPS)[name]
    model = module_of(lambda self, x, n: function(x[:, torch.arange(5) < n] if selects else x[:, :n]))
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    program = jaxlstm.from_module(model, (x, torch.tensor(3)))
    for batch in (x, x[:2]):
        right = [_is_right(program, model, batch, torch.tensor(n)) for n in range(1, 6)]
        assert all(right) or name in OTHER_STEPS
