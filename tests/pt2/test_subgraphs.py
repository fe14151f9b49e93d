"""Subgraphs: no_grad and autocast are inlined, and torch's control flow runs on jax.lax."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Node, Value
from testing.gradients import require_equal
from testing.graphs import X, graph, node, program
from testing.modules import module_of
from testing.zoo.regions import layers, no_grad


@pytest.mark.parametrize("region", [torch.no_grad, torch.inference_mode])
def test_an_export_in_a_region(region: Callable[[], Any]) -> None:
    model, x = module_of(no_grad, **layers()), torch.rand(4, 3)
    with region():
        made = jaxlstm.from_module(model, (torch.randn(4, 3),))
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
        jaxlstm.from_module(module_of(in_autocast, **layers()), (torch.ones(4, 3, 3),))
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
