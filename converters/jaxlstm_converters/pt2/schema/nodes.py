"""The nodes of a graph."""

import re
from collections.abc import Sequence
from typing import Any

from jaxlstm.programs.graph import Argument, Graph, Input, Node, Tree, values_in
from jaxlstm_converters.checkpoint.errors import CheckpointError, printable
from jaxlstm_converters.pt2.schema.argument_kinds import read_argument
from jaxlstm_converters.pt2.schema.calls import read_calls
from jaxlstm_converters.pt2.schema.fields import field, malformed, typed, union, unsupported
from jaxlstm_converters.pt2.schema.inline import INLINED, inlined
from jaxlstm_converters.pt2.schema.tensor_types import TensorTypes

_OPERATOR = re.compile(r"(?=.{3,1000}\Z)[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,999}", re.ASCII)
_TORCH = "torch.ops."
_HIGHER_ORDER = "higher_order."


def read_nodes(records: Sequence[Any], types: TensorTypes, defined: set[str]) -> tuple[Node, ...]:
    """Return the nodes, and add their results to the values that are defined."""
    names: set[str] = set()
    nodes = []
    for number, record in enumerate(records):
        node = _node(record, number, types, defined)
        define(node.name, names)
        if node.op.removeprefix(_HIGHER_ORDER) in INLINED:
            for part in inlined(node):
                nodes.append(part)
                define(part.name, names)
                for name in set(_names(part.outputs)) - set(node.outputs):
                    define(name, defined)
        else:
            nodes.append(node)
    return tuple(nodes)


def _node(record: Any, number: int, types: TensorTypes, defined: set[str]) -> Node:
    target = field(record, "target", str, "a node")
    if not _OPERATOR.fullmatch(target):
        raise malformed("a node", f"{printable(target)!r} is not the name of an operator")
    calls = read_calls(record.get("metadata"))
    path = calls[-1].path if calls else ""
    context = f"{target} in {f'module {path}' if path else 'the outermost module'}"
    op = target.removeprefix(_TORCH)
    # Only operators of torch with a schema have argument names that do not depend on the version of torch.
    by_name = target != op and not op.startswith(_HIGHER_ORDER)
    arguments = _arguments(record, types, defined, context, by_name)
    outputs = tuple(_output(value, context) for value in field(record, "outputs", list, context))
    results = _names(outputs)
    for name in results:
        define(name, defined)
    args = tuple(argument for _, argument in arguments)
    return Node(
        name=_name(record, number, results, context),
        op=op,
        args=() if by_name else args,
        kwargs=dict(arguments) if by_name else {},
        outputs=outputs,
        calls=calls,
        types=types.of_results(target, results, values_in(args)),
        size=types.size_of(results, context),
    )


def _names(outputs: Sequence[str | tuple[str, ...] | None]) -> list[str]:
    """Return the names of the values among the outputs of a node."""
    return [name for output in outputs for name in ((output,) if isinstance(output, str) else output or ())]


def define(name: str, defined: set[str]) -> None:
    """Add the name of a node or value, which must be new."""
    if not _NAME.fullmatch(name):
        raise malformed("the graph", f"{printable(name)!r} is not the name of a node or value")
    if name in defined:
        raise CheckpointError("duplicate-name", f"two nodes or values are named {printable(name)!r}")
    defined.add(name)


def _arguments(
    record: Any, types: TensorTypes, defined: set[str], context: str, by_name: bool
) -> list[tuple[str, Argument]]:
    """Return name and value of each argument. Names may repeat, and graphs are allowed, if not `by_name`."""
    arguments: list[tuple[str, Argument]] = []
    for item in field(record, "inputs", list, context):
        name = field(item, "name", str, context)
        where = f"{context}, argument {name}"
        value = field(item, "arg", dict, where)
        if by_name and (name in dict(arguments) or not _NAME.fullmatch(name)):
            raise malformed(where, "is given twice, or its name is not an identifier")
        is_graph = not by_name and value.keys() == {"as_graph"}
        read = (
            _subgraph(value["as_graph"], types, where) if is_graph else read_argument(value, defined, where)
        )
        arguments.append((name, read))
    return arguments


def _subgraph(content: Any, types: TensorTypes, context: str) -> Graph:
    """Return the graph that a higher-order operator calls."""
    record = field(content, "graph", dict, context)
    types = types.of_subgraph(field(record, "tensor_values", dict, context), context)
    inputs, defined = [], set[str]()
    for value in field(record, "inputs", list, context):
        tag, content = union(value, context)
        name = field(content, "name" if tag == "as_tensor" else "as_name", str, context)
        define(name, defined)
        inputs.append(Input(name, types.of(name) if tag == "as_tensor" else None))
    nodes = read_nodes(field(record, "nodes", list, context), types, defined)
    outputs = field(record, "outputs", list, context)
    return Graph(
        inputs=tuple(inputs),
        nodes=nodes,
        outputs=tuple(read_argument(value, defined, context) for value in outputs),
        in_tree=Tree("tuple", (Tree("leaf"),) * len(inputs)),
        out_tree=Tree("tuple", (Tree("leaf"),) * len(outputs)),
    )


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
