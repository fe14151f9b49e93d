"""``jaxlstm inspect`` on a ``.pt2`` file: inputs, free axes, results and operators of the program."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Argument, Graph, TensorType, Value, shown_shape, unused_inputs
from jaxlstm.programs.tree import leaf_names


def describe(graph: Graph) -> dict[str, Any]:
    """Return inputs, free axes, results and operators of a graph as JSON."""
    types = graph.input_types
    types.update(item for node in graph.nodes for item in node.types.items())
    names = leaf_names(graph.out_tree)
    return {
        "inputs": [
            {"name": declared.name, **_describe_type(declared.type, declared.constant)}
            for declared in graph.inputs
        ],
        "free_axes": {axis: list(graph.size_range(axis)) for axis in graph.free_axes},
        "results": [
            {"name": name, **_describe_result(output, types)}
            for name, output in zip(names, graph.outputs, strict=True)
        ],
        "warnings": unused_inputs(graph),
        "nodes": len(graph.nodes),
        "operators": dict(Counter(node.op for node in graph.nodes).most_common()),
        "refused": _refusal(graph),
    }


def shape_text(type_: dict[str, Any]) -> str:
    """Return dtype and shape of an entry of :func:`describe`: "int64 (s77, s68)"."""
    if "constant" in type_:
        return f"fixed to {type_['constant']!r}"
    return f"{type_['dtype']} {shown_shape(type_['shape'])}"


def program_lines(described: dict[str, Any]) -> list[str]:
    """Return the lines of ``jaxlstm inspect`` about a program."""
    lines = [f"input {entry['name']}: {shape_text(entry)}" for entry in described["inputs"]]
    for axis, (low, high) in described["free_axes"].items():
        bounds = f"{low or 1} to {high}" if high is not None else f"at least {low}" if low > 1 else "any size"
        lines.append(f"free axis {axis}: {bounds}")
    lines += [f"result {entry['name']}: {shape_text(entry)}" for entry in described["results"]]
    counts: Counter[str] = Counter()
    for op, count in described["operators"].items():
        counts[op.removeprefix("aten.").removeprefix("_operator.").partition(".")[0]] += count
    operators = ", ".join(f"{name} x{n}" if n > 1 else name for name, n in counts.most_common())
    lines.append(f"{described['nodes']} nodes: {operators}")
    lines += [f"warning: {warning}" for warning in described["warnings"]]
    return lines


def _describe_type(type_: TensorType | None, constant: Any) -> dict[str, Any]:
    if type_ is None:
        return {"constant": constant}
    return {"dtype": str(type_.dtype), "shape": list(type_.shape)}


def _describe_result(output: Argument, types: Mapping[str, TensorType]) -> dict[str, Any]:
    if not isinstance(output, Value):
        return {"constant": output}
    # The value of a size has no tensor type.
    return _describe_type(types.get(output.name, TensorType(np.dtype(int), ())), None)


def _refusal(graph: Graph) -> str:
    """Return the reason why the program cannot run, or an empty string."""
    from jaxlstm.programs.acceptance import accept
    from jaxlstm.programs.errors import ProgramError

    try:
        accept(graph)
    except ProgramError as error:
        return str(error)
    return ""
