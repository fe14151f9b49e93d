"""Conditions that torch asserts by the names of its symbols, such as ``Ne(u1, s63)``."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxlstm.programs.graph.graph import Argument, Node, Value
from jaxlstm.programs.graph.rewrite import Site

_TORCH = "Runtime assertion failed for expression "
_SIGNS = {"eq": "==", "ne": "!=", "ge": ">=", "gt": ">", "le": "<=", "lt": "<", "and_": "and", "or_": "or"}
_SIGNS |= {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "truediv": "/", "mod": "%", "pow": "**"}
_DEEPEST = 6


def with_shown_condition(node: Node, site: Site) -> Node | None:
    """Let the message of an assertion show its condition, with the lines at which values are read."""
    message = node.kwargs.get("assert_msg")
    if not isinstance(message, str) or not message.startswith(_TORCH):
        return None
    condition = shown(node.kwargs["self"], site.maker)
    return replace(node, kwargs={**node.kwargs, "assert_msg": condition})


def shown(argument: Argument, maker_of: Callable[[Argument], Node | None], depth: int = 0) -> str:
    """Return the expression of a number in words."""
    maker = maker_of(argument)
    if maker is None or depth > _DEEPEST:
        return argument.name if isinstance(argument, Value) else str(argument)
    kind, line = maker.op.split(".")[1], maker.calls[-1].line if maker.calls else ""
    operands = [shown(item, maker_of, depth + 1) for item in maker.args]
    tensor: Any = maker.kwargs.get("self")
    if maker.op.startswith(("_operator.", "torch.sym")) and kind in _SIGNS and len(operands) == 2:
        text = f"{operands[0]} {_SIGNS[kind]} {operands[1]}"
        return f"({text})" if depth else text
    if kind == "sym_not" and len(operands) == 1:
        return f"not {operands[0]}"
    if kind == "sym_size":
        return f"{shown_tensor(tensor, maker_of)}.shape[{maker.kwargs['dim']}]"
    if kind in ("item", "_local_scalar_dense") and line:
        return f"the number read at '{line[:100]}'"
    return f"{maker.op.split('.')[0]}.{kind}({', '.join(operands)})" if operands else maker.name


def shown_tensor(tensor: Value, maker_of: Callable[[Argument], Node | None]) -> str:
    """Return the name of an input, or of another tensor with the line that computes it."""
    maker = maker_of(tensor)
    line = maker.calls[-1].line if maker is not None and maker.calls else ""
    return f"[{tensor.name}, at '{line[:100]}']" if line else tensor.name
