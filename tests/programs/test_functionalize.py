"""In-place operators: values that share memory in torch change together; unknown sharing is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import torch

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Value
from testing.graphs import X, node, program, program_of_function
from testing.op_samples import require_equal_gradients, require_equal_results

Tensor = torch.Tensor

# Name -> (statements after `y = x.clone()` for x of shape (3, 4), results).
SHARED: dict[str, tuple[str, str]] = {
    "transpose": ("y.t()[0].mul_(2)", "y,"),
    "a slice of a slice": ("part = y[1:]; part[:, ::2].add_(10)", "y, part"),
    "split": ("first, second = y.split(2, dim=1); second.copy_(first)", "y, first"),
    "chunk and unbind": ("y.chunk(2, dim=1)[1].neg_(); y.unbind(0)[2].fill_(7)", "y,"),
    "view and unflatten": ("y.view(2, 6)[0].sub_(1); y.unflatten(1, (2, 2))[:, 1].div_(2)", "y,"),
    "narrow and movedim": ("y.narrow(1, 1, 2).movedim(0, 1)[0].clamp_(max=0)", "y,"),
    "the base changes the view": (
        "row, wide = y[0], y.unsqueeze(1).expand(3, 2, 4); y.mul_(3)",
        "row, wide, y.detach()",
    ),
    "the result is the argument": ("z = y.add_(1); w = z.mul_(2); y.sub_(3)", "y, z, w"),
    "broadcasts and masks": (
        "y.mul_(x[0]).masked_fill_(y > 0, -1.0); y[:, 1] = x[:, 0]; y[y < -2] = 5.0",
        "y,",
    ),
    "indices": ("y[torch.tensor([0, 2])] += 1", "y,"),
    "windows": ("windows = y.unfold(1, 2, 2); windows[:, 1].mul_(5); y[0].add_(1)", "y, windows"),
    "complex numbers": (
        "z = torch.view_as_complex(y.view(3, 2, 2)); z.real.mul_(2); z.imag.sub_(1); "
        "torch.view_as_real(z)[0].neg_()",
        "y, torch.view_as_real(z).clone()",
    ),
    "diagonals": ("y.diagonal(1).mul_(3); y.unsqueeze(0).diagonal(-1, 2, 1).sub_(1)", "y,"),
    "other names of transpose": (
        "y.swapaxes(0, 1)[0].mul_(2); y.mT[1].sub_(1); y.swapdims(-1, 0)[2].neg_(); "
        "y.moveaxis(0, 1)[3].add_(5); y.adjoint()[0].div_(2)",
        "+y,",
    ),
    "sections": (
        "y.tensor_split(3, dim=1)[0].mul_(2); y.tensor_split((1, -1), dim=1)[2].sub_(3); "
        "y.hsplit(2)[1].neg_(); y.vsplit((1,))[1].add_(1); torch.atleast_3d(y).dsplit(1)[0].div_(2)",
        "y,",
    ),
    "grids": (
        "z = x[:1].clone(); same, wide = torch.broadcast_tensors(y, z); same.add_(1); z.mul_(2); "
        "rows, columns = torch.meshgrid(y[0], z[0, :1], indexing='ij'); rows.neg_()",
        "y, same, wide, rows, columns",
    ),
    "a new shape": ("row = y[0]; y.t_(); y.mul_(2); y.swapaxes_(0, 1).swapdims_(0, 1)[1].fill_(7)", "y, row"),
    "a removed axis": (
        "y = y[:, None]; across = y.transpose(0, 2); y.squeeze_(1); y.unsqueeze_(0).squeeze_(); "
        "across[1] = 3; y[0].unsqueeze_(0).add_(1)",
        "y, across, y.transpose_(0, 1) + 1",
    ),
    "unknown sharing that does not matter": ("flat = y.t().reshape(-1); flat.add_(1)", "flat,"),
    "a conversion, which copies": ("z = y.to(torch.int32); z.add_(1)", "y, z"),
}
# Statements that are refused -> the node that the message names.
REFUSED: dict[str, tuple[str, str]] = {
    "flat = y.t().reshape(-1); flat.add_(1)": ("y, flat", "reshape"),
    "z = torch.einsum('ij->ji', y); z.add_(1)": ("y, z", "einsum"),
}
# Writes to one of several elements that share memory.
REFUSED_WHEN_CALLED = ("y[:1].expand(3, 4)[0].add_(1)", "y.unfold(1, 2, 1)[:, 0].add_(1)")


def function(statements: str, results: str) -> Callable[[Tensor], tuple[Tensor, ...]]:
    scope: dict[str, Any] = {"torch": torch}
    exec(f"def f(x):\n y = x.clone(); {statements}\n return {results}", scope)
    return scope["f"]


@pytest.mark.parametrize("name", SHARED)
def test_shared_memory(name: str) -> None:
    with jax.enable_x64(True):
        require_equal_results(function(*SHARED[name]), [torch.randn(3, 4, dtype=torch.float64)], jit=True)


@pytest.mark.parametrize("statements", REFUSED)
def test_unknown_sharing_is_refused(statements: str) -> None:
    results, link = REFUSED[statements]
    with pytest.raises(ProgramError, match=rf"{link}.*\.clone\(\)") as caught:
        program_of_function(function(statements, results), [torch.randn(3, 4)])
    assert caught.value.code == "unsupported-alias"


@pytest.mark.parametrize("statements", REFUSED_WHEN_CALLED)
def test_write_to_one_of_several_copies_is_refused(statements: str) -> None:
    ran = program_of_function(function(statements, "y,"), [torch.randn(3, 4)])
    with pytest.raises(ProgramError, match=r"node add_.*share memory.*\.clone\(\).*\[unsupported-alias"):
        ran({}, np.ones((3, 4), np.float32))


@pytest.mark.parametrize("count", [10, 1000])
def test_a_write_adds_as_many_nodes_for_many_views(count: int) -> None:
    """Writes to many views of one tensor, and rows that are computed from the row before."""
    base = node("aten.mul.Tensor", "y", self=X, other=2)
    places = [node("aten.select.int", f"v{k}", self=Value("y"), dim=0, index=k % 3) for k in range(count)]
    writes = [node("aten.add_.Tensor", f"w{k}", self=Value(f"v{k}"), other=k) for k in range(count)]
    apart = program(base, *places, *writes, shape=(3,))
    assert len(apart.graph.nodes) <= 5 * count + 1
    rows = [step for pair in zip(places, writes, strict=True) for step in pair]
    together = program(base, *rows, shape=(3,))
    assert len(together.graph.nodes) <= 4 * count + 1
    expected = np.zeros(3)
    np.add.at(expected, np.arange(count) % 3, np.arange(count))
    if count == 10:
        for ran in (apart, together):
            np.testing.assert_array_equal(ran({}, np.zeros(3, np.float32)), expected)


def test_views_of_views_without_end_are_refused() -> None:
    views = [node("aten.view.default", f"v{k + 1}", self=Value(f"v{k}"), size=(-1, 3)) for k in range(200)]
    writes = [node("aten.add_.Tensor", f"w{k}", self=Value("v200"), other=1) for k in range(200)]
    with pytest.raises(ProgramError, match="more than 16 times the nodes") as caught:
        program(node("aten.relu.default", "v0", self=X), *views, *writes, output="v0")
    assert caught.value.code == "unsupported-alias"


def test_writes_to_all_parts_of_a_long_list_are_refused() -> None:
    """Each of them would need a node with the whole list."""
    parts = tuple(f"v{k}" for k in range(2001))
    places = tuple(range(2000))
    split = node("aten.tensor_split.indices", self=Value("y"), indices=places, dim=0)
    split = replace(split, outputs=(parts,))
    writes = [node("aten.add_.Tensor", f"w{k}", self=Value(f"v{k}"), other=1) for k in range(2001)]
    with pytest.raises(ProgramError, match="more than 16 times the nodes"):
        program(node("aten.relu.default", "y", self=X), split, *writes)


def test_input_is_not_changed() -> None:
    x = np.ones((2, 2), np.float32)
    ran = program_of_function(lambda x: (x.mul_(2),), [torch.ones(2, 2)])
    np.testing.assert_array_equal(ran({}, x)[0], 2 * x)
    np.testing.assert_array_equal(x, np.ones((2, 2)))


@pytest.mark.parametrize(
    ("statements", "results"),
    [
        ("pass", "x * x.detach(), x + (x.round() - x).detach()"),
        ("y = x * 2; z = y.detach(); z[0].mul_(3)", "y * x, z"),
        ("y = x * 2; row = y[0]; y.detach_()", "y * x, row * x"),
        # A detached tensor has the gradient of a value that is written to it, and its source keeps its own.
        ("y = x * 2; z = y.detach(); z[0] = x[1]; y[1] = x[2]; row = z[0]; z[2].mul_(x[0])", "y * x, z, row"),
        ("z = x.detach().t(); part = z[1:]; part[0] = x[1, :3]; same = z.detach(); same += x.t()", "z, part"),
        ("h = x * 1\n for t in range(3):\n  h = h.detach(); h[:, t] = x[:, 0].sin()\n h = h.sin()", "h,"),
    ],
)
def test_detach_stops_the_gradient(statements: str, results: str) -> None:
    f, x = function(statements, results), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with jax.enable_x64(True):
        require_equal_results(f, [x])
        require_equal_gradients(f, [x])
