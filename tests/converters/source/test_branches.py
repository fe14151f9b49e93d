"""Conditions on values in written source: both branches, or NaN where the source has only one."""

import contextlib
import random
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from testing.modules import module_of
from testing.written import Written, assert_equal, write

pytestmark = pytest.mark.filterwarnings("ignore:.*fixed parts of the model")

EXAMPLE = torch.tensor([2, 5, 3])
LENGTHS = ([2, 5, 3], [1, 2, 1], [4, 0, 5], [0, 0, 0], [9, 1, 1])


def middle(self: Any, x: Tensor, n: Tensor) -> Tensor:
    y = self.lstm(x)[0]
    y = y * 2 if n.max() > 4 else y * 3
    return self.linear(y).tanh().sum(1)


def first(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    if not (n > 0).all():
        x = self.linear(x)
    y, (h, _) = self.lstm(x)
    return y, h[-1]


def last(self: Any, x: Tensor, n: Tensor) -> Tensor:
    y = self.lstm(dropout(x, 0.5, self.training))[0]
    return y.sum(1) / n[:, None] if n.min() > 0 else y.mean(1)


def all_of_it(self: Any, x: Tensor, n: Tensor) -> Tensor:
    return self.lstm(x)[0][:, -1] if n[0] == 2 else self.lstm(x * 2 + 1)[0].mean(1)


def results(self: Any, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    if n[0] == 2:
        return x.sum(1), torch.ones(x.shape[0], dtype=torch.bool)
    return x.amax(1), torch.zeros(x.shape[0], dtype=torch.bool)


def constants(self: Any, x: Tensor, n: Tensor) -> Tensor:
    if n.sum() > 9:
        return x * torch.tensor([1.0, 2.0, 3.0, 4.0])
    return x * torch.tensor([4.0, 3.0, 2.0, 1.0])


def steps(self: Any, x: Tensor, n: Tensor) -> Tensor:
    h = c = x.new_zeros(x.shape[0], 4)
    for t in range(3):
        h, c = self.cell(x[:, t], (h, c))
    if (n == 0).any():
        h = h.relu()
    for t in range(3):
        h, c = self.cell(x[:, t], (h, c))
    return h


def buffers(self: Any, x: Tensor, n: Tensor) -> Tensor:
    if n.max() > 4:
        self.total.add_(x.sum())
    return x * self.total


def number(self: Any, x: Tensor, n: Tensor) -> Tensor:
    k = n.min().item()
    return self.linear(x) * 2 + k if k > 1 else self.linear(x) + k


def masked(self: Any, x: Tensor, n: Tensor) -> Tensor:
    """A comparison in a branch, of the same kind as the condition."""
    if not n.min().item() >= 2:
        return self.linear(x)
    return x.masked_fill((torch.arange(x.shape[1]) < n[:, None])[..., None], 0.0)


def two(self: Any, x: Tensor, n: Tensor) -> Tensor:
    if (n == 0).any():
        x = x + 1
    return x * 2 if n.max() > 4 else x


def of_unknown_size(self: Any, x: Tensor, n: Tensor) -> Tensor:
    return x[x > 0].sum() + self.linear(x).mean() if n.max() > 4 else x[x < 0].cumsum(0)[-1]


def in_a_module(self: Any, x: Tensor, n: Tensor) -> Tensor:
    return self.inner(x, n) + 1


def model(forward: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    parts = {"lstm": nn.LSTM(4, 4, batch_first=True), "cell": nn.LSTMCell(4, 4), "linear": nn.Linear(4, 4)}
    inner = module_of(lambda self, x, n: self.linear(x) if n.max() > 4 else x, linear=nn.Linear(4, 4))
    return module_of(forward, **parts, inner=inner, total=torch.ones(4)).eval()


def are_right(written: Written, forward: Callable[..., Any], *, is_jitted: bool = True) -> list[bool]:
    """Return for each run whether the source has torch's results; raise if it has other numbers."""
    module, right = model(forward), []
    runs = [written.model, jax.jit(lambda *arrays: written.model(*arrays))][: 1 + is_jitted]
    for lengths in LENGTHS:
        x, n = torch.randn(3, 5, 4), torch.tensor(lengths)
        expected = [part.detach().numpy() for part in _listed(module(x, n))]
        for run in runs:
            actual = [np.asarray(part) for part in _listed(run(jnp.asarray(x), jnp.asarray(n)))]
            is_nan = all(
                np.isnan(part).all() if part.dtype.kind == "f" else (part == np.iinfo(part.dtype).min).all()
                for part in actual
                if part.dtype.kind != "b"
            )
            for ours, theirs in zip(actual, expected if not is_nan else (), strict=not is_nan):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
            right.append(not is_nan)
    return right


def _listed(results: Any) -> list[Any]:
    return [*results] if isinstance(results, tuple) else [results]


@pytest.mark.quick("middle-text", "last-text", "constants-text", "number-text")
@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (middle, r"self\.linear\(lax\.cond\(mask, branch, branch2\)\)"),
        (first, r"self\.lstm\(lax\.cond\(\(n > 0\)\.all\(\), branch, branch2\)\)"),
        (last, r"y, _ = self\.lstm\(self\.dropout\(x\)\)\s+def branch"),
        (all_of_it, r"return lax\.cond\(n\[0\] == 2, branch, branch2\)"),
        (results, r"= lax\.cond\(n\[0\] == 2, branch, branch2\)"),
        (constants, r"return x \* lax\.cond\(n\.sum\(\) > 9, branch, branch2\)"),
        (number, r"return lax\.cond\(n > 1, branch, branch2\) \+ n"),
        (masked, r"lax\.cond\(n\.min\(\) (>=|<) 2"),
        (steps, r"step2, \(lax\.cond\(\(n == 0\)\.any\(\), branch, branch2\), c\)"),
    ],
    ids=lambda value: getattr(value, "__name__", "text"),
)
def test_both_branches_are_written(forward: Callable[..., Any], text: str) -> None:
    written = write(model(forward), torch.randn(3, 5, 4), EXAMPLE)
    assert re.search(text, written.text, re.DOTALL), written.text
    assert not [remark for remark in written.remarks if "_assert" in remark]
    assert all(are_right(written, forward))
    assert_equal(written, torch.randn(3, 5, 4), torch.tensor(LENGTHS[1]))


@pytest.mark.quick("two", "in_a_module")
@pytest.mark.parametrize("forward", [buffers, two, of_unknown_size, in_a_module])
@pytest.mark.filterwarnings("ignore:.*forward changes")
def test_other_values_are_nan_where_one_branch_is_written(forward: Callable[..., Any]) -> None:
    written = write(model(forward), torch.randn(3, 5, 4), EXAMPLE)
    assert "lax.cond" not in written.text
    x, n = np.random.randn(3, 5, 4).astype(np.float32), np.array([1, 0, 2], np.int32)
    assert np.isnan(written.model(x, n)).all()


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_a_number_that_the_export_fixed_is_none_for_other_values() -> None:
    def forward(self: Any, x: Tensor) -> tuple[Tensor, int, float]:
        steps = 0
        while float(x.sum()) < 100:
            x, steps = x * 2, steps + 1
        return x, steps, steps / 2

    written = write(module_of(forward), torch.ones(3) * 3)
    assert [np.asarray(y).item() for y in written.model(np.ones(3, np.float32) * 3)[1:]] == [4, 2.0]
    y, steps, half = written.model(np.ones(3, np.float32))
    assert np.isnan([*y, half]).all()
    assert steps == np.iinfo(np.int32).min


def pairs(self: Any, x: Tensor, n: Tensor) -> Tensor:
    if n.max() > 9:
        return (x * n[:, None, None]).reshape(x.shape[0], -1, 2, 4).flip(2).reshape(x.shape)
    return x + 1


def test_the_conditions_of_both_branches_on_sizes() -> None:
    written = write(model(pairs), torch.randn(3, 6, 4), EXAMPLE)
    assert "lax.cond" in written.text
    assert "x.shape[0] == n.shape[0]" in written.text
    with pytest.raises(AssertionError, match="not covered by the export"):
        written.model(np.zeros((3, 5, 4), np.float32), np.zeros(3, np.int32))


def test_gradients_of_a_branch_ignore_the_other() -> None:
    def forward(self: Any, x: Tensor, n: Tensor) -> Tensor:
        return x.sum(1) / n[:, None] if n.min() > 0 else self.linear(x).mean(1)

    written = write(model(forward), torch.randn(3, 5, 4), EXAMPLE)
    x, n = torch.randn(3, 5, 4, requires_grad=True), torch.tensor([0, 3, 1])
    model(forward)(x, n).square().sum().backward()
    run = jax.grad(lambda x: (written.model(x, n.numpy()) ** 2).sum())
    assert x.grad is not None
    np.testing.assert_allclose(run(x.detach().numpy()), x.grad, rtol=1e-5, atol=1e-6)


def write_first(x: Tensor, value: int) -> Tensor:
    x = x.clone()
    x[:, 0] = value
    return x


STATEMENTS: dict[str, Callable[..., Tensor]] = {
    "a layer": lambda self, x, n, k: self.linear(x),
    "a recurrent layer": lambda self, x, n, k: self.lstm(x)[0],
    "a cell": lambda self, x, n, k: x + self.cell(x[:, 0])[0][:, None],
    "dropout": lambda self, x, n, k: dropout(x, 0.3, self.training),
    "a number": lambda self, x, n, k: x * (k + 1),
    "a constant": lambda self, x, n, k: x * torch.tensor([1.0, 2.0, 3.0, k]),
    "another input": lambda self, x, n, k: x + n[:, None, None].float(),
    "a mask": lambda self, x, n, k: x * (torch.arange(x.shape[1]) < n[:, None])[..., None],
    "a sum over time": lambda self, x, n, k: x.cumsum(1) - x.mean(1, keepdim=True),
    "a write": lambda self, x, n, k: write_first(x, k),
    "parts": lambda self, x, n, k: torch.cat([x[:, :1], x[:, 1:] * k], 1).flip(1),
}
CONDITIONS: dict[str, Callable[..., Any]] = {
    "max": lambda x, n: n.max() > 4,
    "any": lambda x, n: (n == 0).any(),
    "not all": lambda x, n: not (n > 1).all(),
    "an element": lambda x, n: n[0] == 2,
    "a float": lambda x, n: x.sum() > 0,
    "a number": lambda x, n: n.max().item() > 4,
    "a float's number": lambda x, n: x.sum().item() > 0,
    "a remainder": lambda x, n: int(n.sum()) % 2 == 0,
}


@pytest.mark.filterwarnings("ignore:.*has no effect")
@pytest.mark.quick("1", "15")
@pytest.mark.parametrize("seed", range(24))
def test_random_branches(seed: int) -> None:
    rng = random.Random(seed)
    before, one, two, after = (
        [(rng.choice([*STATEMENTS]), rng.randint(1, 4)) for _ in range(rng.randint(0, 3))] for _ in range(4)
    )
    condition, is_kept, has_two = rng.choice([*CONDITIONS]), rng.random() < 0.3, rng.random() < 0.3

    def forward(self: Any, x: Tensor, n: Tensor) -> Any:
        def run(x: Tensor, statements: list[tuple[str, int]]) -> Tensor:
            for name, k in statements:
                x = STATEMENTS[name](self, x, n, k)
            return x

        y = x = run(x, before)
        y = run(y, one if CONDITIONS[condition](y, n) else two)
        y = run(y + x if is_kept else y, after)
        return (y.sum(1), y.amax(1)) if has_two else y

    written = write(model(forward), torch.randn(3, 5, 4), EXAMPLE)
    assert all(are_right(written, forward)) or "lax.cond" not in written.text


CUTS: dict[str, Callable[..., Tensor]] = {
    "rows": lambda x, n: x[n > 1],
    "selected rows": lambda x, n: x.index_select(0, (n > 1).nonzero().squeeze(1)),
    "first steps": lambda x, n: x[:, : n.max()].transpose(0, 1),
    "steps between": lambda x, n: x.transpose(0, 1)[n.min() : n.max()],
    "elements": lambda x, n: x[(x > 0) & (n > 1)[:, None, None]],
    "rows twice": lambda x, n: x[n > 1].repeat(2, 1, 1),
    "rows and others": lambda x, n: torch.cat([x[n > 1], x[n <= 1] * 2, x[:1]]),
    "masked_select": lambda x, n: torch.masked_select(x, n[:, None, None] > 1),
    "nonzero": lambda x, n: torch.nonzero(n > 1),
    "unique": lambda x, n: torch.unique(n),
    "repeat_interleave": lambda x, n: torch.repeat_interleave(x, n, 0),
    "zeros": lambda x, n: torch.zeros(int(n.max()), 2),
}
USES: dict[str, Callable[..., Any]] = {
    "more": lambda x, y: x * 2 if y.shape[0] > 2 else x * 3,
    "equal": lambda x, y: x * 2 if y.shape[0] == 3 else x * 3,
    "arithmetic": lambda x, y: x * 2 if y.shape[0] * 2 + 1 > 5 else x * 3,
    "an axis": lambda x, y: x * 2 if y.shape[0] >= x.shape[0] else x * 3,
    "numel": lambda x, y: x * 2 if y.numel() > 9 else x * 3,
    "a loop": lambda x, y: sum((x + y[i].sum() * i for i in range(y.shape[0])), x),
    "itself": lambda x, y: y * 2 if y.shape[0] > 2 else y * 3,
    "its sum": lambda x, y: (y * 2.0).sum() if len(y) > 2 else y.sum() * 3.0,
}
EAGER = {"selected rows", "rows and others", "masked_select", "nonzero", "unique", "repeat_interleave"}
EAGER |= {"a loop", "itself", "its sum"}


@pytest.mark.quick("first steps-more", "rows-equal", "unique-equal", "steps between-a loop")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("cut", CUTS)
def test_conditions_on_sizes_that_depend_on_values(cut: str, use: str) -> None:
    def forward(self: Any, x: Tensor, n: Tensor) -> Tensor:
        x = self.linear(x)
        return USES[use](x, CUTS[cut](x, n))

    written = write(model(forward), torch.randn(3, 5, 4), EXAMPLE)
    # The source has as many steps as the example.
    with contextlib.suppress(*[IndexError] * (use == "a loop")):
        assert are_right(written, forward, is_jitted=cut not in EAGER and use not in EAGER)[0]
