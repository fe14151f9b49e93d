"""Subgraphs: no_grad and autocast are inlined, and torch's control flow runs on jax.lax."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as map_slices
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Node, Value
from testing.gradients import require_equal
from testing.graphs import X, graph, node, program
from testing.modules import module_of


def model_of(function: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    return module_of(function, linear=nn.Linear(3, 3), lstm=nn.LSTM(3, 3))


def no_grad(self: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y, twice = self.linear(x), x * 2
        with torch.enable_grad():
            z = self.linear(y)
    return y + x, twice, z


def in_place(self: Any, x: Tensor) -> Any:
    """Inside of no_grad, the contents of a tensor change, and its gradient stays."""
    y = self.linear(x)
    with torch.no_grad():
        y[:, 1].mul_(3)
        same = y
    return y * same


def no_grad_in_regions(self: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        y = self.linear(x)
        with torch.no_grad():
            z = self.linear(y)
    with torch.inference_mode():
        w = self.linear(x)
    return y * z + w


def loop_without_gradient(self: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y = loop(self, x)[1]
    return self.linear(y)


def autocast(self: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        y = self.linear(x).relu()
        both = torch.cat([y, x]) @ x.T
        with torch.autocast("cpu", enabled=False):
            z = self.linear(self.lstm(y.float())[0])
            with torch.autocast("cpu", torch.bfloat16):
                z = z + self.linear(z)
    with torch.autocast("cuda", enabled=False):
        return y * self.linear.bias[0], both.softmax(-1), nn.functional.mse_loss(y, x), z


def branches(self: Any, x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda x: (self.linear(x), x + 1), lambda x: (x - 1, x * 2), (x,))


def branch_on_size(self: Any, x: Tensor) -> Any:
    return torch.cond(x.shape[0] > 4, lambda x: self.linear(x), lambda x: x.sin(), (x,))


def loop(self: Any, x: Tensor) -> Any:
    def body(i: Tensor, y: Tensor) -> Any:
        return i + 1, self.linear(y) / 2

    return while_loop(lambda i, y: i < x.shape[0], body, (torch.tensor(0), x))


def recurrence(self: Any, x: Tensor) -> Any:
    return scan(lambda carry, a: (self.linear(carry) + a, carry * 2), x[0], x, dim=0)


def of_slices(self: Any, x: Tensor) -> Any:
    return map_slices(lambda a, *args: self.linear(a) + 1, x)


WITHOUT_GRADIENT = [no_grad, in_place, no_grad_in_regions, loop_without_gradient]
FUNCTIONS = [*WITHOUT_GRADIENT, autocast, branches, branch_on_size, loop, recurrence, of_slices]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_values_and_gradients(function: Callable[..., Any], tmp_path: Path) -> None:
    model = model_of(function)
    jaxlstm.from_module(model, (torch.randn(4, 3),)).save(tmp_path / "a.pt2")
    made = jaxlstm.load_program(tmp_path / "a.pt2")
    for rows, sign in ((5, 1), (2, -1)):
        x = sign * torch.rand(rows, 3)
        expected = [leaf for leaf in jax.tree.leaves(model(x)) if torch.is_tensor(leaf)]
        for run in (made, jax.jit(made)):
            for ours, theirs in zip(jax.tree.leaves(run(made.params, x.numpy())), expected, strict=True):
                assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.").replace("int64", "int32")
                tolerance = 1e-2 if theirs.dtype == torch.bfloat16 or function is autocast else 1e-5
                np.testing.assert_allclose(
                    ours.astype(jnp.float32), theirs.detach().float().numpy(), atol=tolerance, rtol=tolerance
                )
        if function not in (autocast, loop):
            require_equal(made, model, x)


@pytest.mark.parametrize("region", [torch.no_grad, torch.inference_mode])
def test_an_export_in_a_region(region: Callable[[], Any]) -> None:
    model, x = model_of(no_grad), torch.rand(4, 3)
    with region():
        made = jaxlstm.from_module(model_of(no_grad), (torch.randn(4, 3),))
    require_equal(made, model, x)


REFUSED: dict[str, Callable[..., Any]] = {
    r"lstm.*runs under autocast": lambda self, x: self.lstm(x)[0],
    r"cond.*runs under autocast": lambda self, x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)),
    r"tensordot.*gives bfloat16 under autocast": lambda self, x: torch.tensordot(x[0], x[0], 1),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_autocast_is_refused(reason: str) -> None:
    def in_autocast(self: Any, x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return REFUSED[reason](self, x)

    with pytest.raises(jaxlstm.CheckpointError, match=reason) as caught:
        jaxlstm.from_module(model_of(in_autocast), (torch.ones(4, 3, 3),))
    assert caught.value.code == "pt2-unsupported"


def a_map(*inner: Node) -> jaxlstm.Program:
    """Return the program that maps nodes with the input "x" and the result "z" over its input."""
    function = graph(*inner, output="z", shape=(3,))
    return program(node("higher_order.map_impl", "y", function, (X,), ()))


def test_functions_written_by_hand() -> None:
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    squares = a_map(node("aten.mul.Tensor", "z", self=X, other=X))
    np.testing.assert_array_equal(squares({}, x), x * x)
    assert "map_impl(<graph of 1 nodes>, [x], [])" in str(squares)
    with pytest.raises(ProgramError, match=r"a function of node y.*changes its argument") as caught:
        a_map(node("aten.mul_.Tensor", "z", self=X, other=X))
    assert caught.value.code == "unsupported-alias"
    with pytest.raises(ProgramError, match=r"uses the value other.*\[malformed-graph"):
        a_map(node("aten.mul.Tensor", "z", self=X, other=Value("other")))
    calls: list[tuple[Any, ...]] = [
        ("cond", X),
        ("cond", X, squares.graph, squares.graph, (X, X)),
        ("cond", X, squares.graph, replace(squares.graph, outputs=("a",)), (X,)),
        ("while_loop", squares.graph, squares.graph, (X,), (X,)),
        ("scan", squares.graph, (X,), (X,), ()),
        ("map_impl", squares.graph, X, ()),
    ]
    for name, *arguments in calls:
        with pytest.raises(ProgramError, match=r"\[malformed-graph"):
            program(node(f"higher_order.{name}", "y", *arguments))
    number = program(node("higher_order.map_impl", "y", squares.graph, (2,), ()))
    with pytest.raises(ProgramError, match=r"map has a Python number.*\[unsupported-operator"):
        number({}, x)
