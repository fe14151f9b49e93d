"""A program as text: inputs, one line for each call with its shapes, results."""

from jaxlstm.programs.graph import Argument, Graph, Input, Node, TensorType, Value
from jaxlstm.programs.inputs import why_fixed
from jaxlstm.programs.operators.registry import IGNORED

_SHORT = {"float": "f", "int": "i", "uint": "u", "bfloat": "bf", "complex": "c"}


def listing(graph: Graph) -> str:
    """Return the text of a graph."""
    torch_names = {**graph.parameters, **graph.buffers, **graph.constants}
    lines = ["inputs:", *(f"  {_input(declared)}" for declared in graph.inputs)]
    for declared in graph.inputs:
        lines += [
            f"  axis {axis} of {declared.name} is fixed: {why_fixed(declared, axis) or 'unknown reason'}"
            for axis, size in enumerate(declared.type.shape if declared.type else ())
            if isinstance(size, int)
        ]
    for name in graph.ranges:
        low, high = graph.size_range(name)
        reason = f" ({graph.narrowed[name].reason})" if name in graph.narrowed else ""
        lines.append(f"  {name}: {low} to {'any size' if high is None else high}{reason}")
    path = None
    for node in graph.nodes:
        if node.module_path != path:
            path = node.module_path
            lines.append(f"{path or 'outermost module'}:")
        lines.append(f"  {_node(node, torch_names)}")
    results = ", ".join(_argument(output, torch_names) for output in graph.outputs)
    return "\n".join([*lines, f"results: {results}"])


def _input(declared: Input) -> str:
    if declared.type is None:
        return f"{declared.name} = {declared.constant!r}"
    return f"{declared.name}: {_type(declared.type)}"


def _type(type_: TensorType) -> str:
    name = type_.dtype.name
    letters = name.rstrip("0123456789")
    sizes = ", ".join("?" if size is None else str(size) for size in type_.shape)
    return f"{_SHORT.get(letters, letters)}{name[len(letters) :]}[{sizes}]"


def _node(node: Node, torch_names: dict[str, str]) -> str:
    results = ", ".join(_result(output, node) for output in node.outputs)
    arguments = [_argument(argument, torch_names) for argument in node.args]
    shown_kwargs = {name: argument for name, argument in node.kwargs.items() if name not in IGNORED}
    for index, (name, argument) in enumerate(shown_kwargs.items()):
        # Leading tensors are clear without their names.
        text = _argument(argument, torch_names)
        arguments.append(text if index == 0 or isinstance(argument, Value) else f"{name}={text}")
    call = f"{node.op.removeprefix('aten.').removesuffix('.default')}({', '.join(arguments)})"
    return f"{results} = {call}" if results else call


def _result(output: str | tuple[str, ...] | None, node: Node) -> str:
    if output is None:
        return "_"
    if isinstance(output, tuple):
        return "[" + ", ".join(_result(name, node) for name in output) + "]"
    return f"{output}: {_type(node.types[output])}" if output in node.types else output


def _argument(argument: Argument, torch_names: dict[str, str]) -> str:
    if isinstance(argument, Value):
        return torch_names.get(argument.name, argument.name)
    if isinstance(argument, tuple):
        return "[" + ", ".join([_argument(item, torch_names) for item in argument]) + "]"
    if isinstance(argument, Graph):
        return f"<graph of {len(argument.nodes)} nodes>"
    return repr(argument) if isinstance(argument, str) else str(argument)
