"""The nodes of a graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jaxlstm.programs.graph import Argument, Node, values_in
from jaxlstm_converters.checkpoint.errors import CheckpointError, printable
from jaxlstm_converters.pt2.argument_kinds import read_argument
from jaxlstm_converters.pt2.fields import field, malformed, typed, union, unsupported
from jaxlstm_converters.pt2.tensor_types import TensorTypes

_OPERATOR = re.compile(r"(?=.{3,1000}\Z)[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,999}", re.ASCII)
_TORCH = "torch.ops."
_HIGHER_ORDER = "torch.ops.higher_order."


def read_nodes(records: Sequence[Any], types: TensorTypes, defined: set[str]) -> tuple[Node, ...]:
    """Return the nodes, and add their results to the values that are defined.

    Raises:
        CheckpointError: pt2-malformed, pt2-unsupported, unsupported-tensor or duplicate-name.
    """
    names: set[str] = set()
    nodes = []
    for number, record in enumerate(records):
        node = _node(record, number, types, defined)
        define(node.name, names)
        nodes.append(node)
    return tuple(nodes)


def _node(record: Any, number: int, types: TensorTypes, defined: set[str]) -> Node:
    target = field(record, "target", str, "a node")
    if not _OPERATOR.fullmatch(target):
        raise malformed("a node", f"{printable(target)!r} is not the name of an operator")
    path = _module_path(record)
    context = f"{target} in {f'module {path}' if path else 'the outermost module'}"
    if target.startswith(_HIGHER_ORDER):
        problem = "has a subgraph, which is not supported"
        if target.endswith("wrap_with_set_grad_enabled"):
            problem += (
                "; it stands for torch.no_grad in the module, which an export inside `with torch.no_grad():` "
                "does not record"
            )
        raise unsupported(context, problem)
    arguments = _arguments(record, defined, context)
    outputs = tuple(_output(value, context) for value in field(record, "outputs", list, context))
    results = [name for output in outputs for name in ((output,) if type(output) is str else output or ())]
    for name in results:
        define(name, defined)
    # Only operators of torch have argument names that do not depend on the version of torch.
    by_name = target.startswith(_TORCH)
    return Node(
        name=_name(record, number, results, context),
        op=target.removeprefix(_TORCH),
        args=() if by_name else tuple(arguments.values()),
        kwargs=arguments if by_name else {},
        outputs=outputs,
        module_path=path,
        types=types.of_results(target, results, values_in(tuple(arguments.values()))),
    )


def define(name: str, defined: set[str]) -> None:
    """Add the name of a node or value, which must be new."""
    if not _NAME.fullmatch(name):
        raise malformed("the graph", f"{printable(name)!r} is not the name of a node or value")
    if name in defined:
        raise CheckpointError("duplicate-name", f"two nodes or values are named {printable(name)!r}")
    defined.add(name)


def _arguments(record: Any, defined: set[str], context: str) -> dict[str, Argument]:
    arguments: dict[str, Argument] = {}
    for item in field(record, "inputs", list, context):
        name = field(item, "name", str, context)
        where = f"{context}, argument {name}"
        if name in arguments or not _NAME.fullmatch(name):
            raise malformed(where, "is given twice, or its name is not an identifier")
        arguments[name] = read_argument(field(item, "arg", dict, where), defined, where)
    return arguments


def _output(value: Any, context: str) -> str | tuple[str, ...] | None:
    """Return the names of the values of one result."""
    tag, content = union(value, context)
    if tag == "as_tensor":
        return field(content, "name", str, context)
    if tag == "as_tensors":
        return tuple(field(part, "name", str, context) for part in typed(content, list, context))
    if tag in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return field(content, "as_name", str, context)
    if tag == "as_none":
        return None
    raise unsupported(context, f"has a result of kind {printable(tag)}, which is not supported")


def _name(record: Any, number: int, results: Sequence[str], context: str) -> str:
    """Return the name of a node. torch 2.6 to 2.10 recorded only the names of results."""
    if record.get("name") is None:
        return results[0] if results else f"node_{number}"
    return field(record, "name", str, context)


def _module_path(record: Any) -> str:
    """Return the path of the innermost module of the stack "key,path,class;key,path,class;..."."""
    metadata = record.get("metadata", {})
    stack = metadata.get("nn_module_stack", "") if isinstance(metadata, dict) else ""
    innermost = stack.rpartition(";")[2].split(",") if type(stack) is str else []
    # Nodes that torch inserted have a stack of three equal placeholders.
    if len(innermost) < 3 or innermost[0] == innermost[1]:
        return ""
    return printable(innermost[1], 1_000)
