"""The JSON text of an exported program as a `Graph`.

`torch/_export/serde/schema.py` defines names and kinds. The signature gives the role of each placeholder and
result, and the structures of both.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlstm.programs.graph import Graph, Input, Tree
from jaxlstm_converters.checkpoint.errors import CheckpointError, printable
from jaxlstm_converters.pt2.schema.argument_kinds import read_argument
from jaxlstm_converters.pt2.schema.fields import field, malformed, typed, union, unsupported
from jaxlstm_converters.pt2.schema.nodes import define, read_nodes
from jaxlstm_converters.pt2.schema.tensor_types import TensorTypes
from jaxlstm_converters.pt2.schema.tree_spec import read_tree_spec

# torch writes "no upper bound" as null or as an integer near 2**63.
_UNBOUNDED = 1 << 62


@dataclass(slots=True)
class _Signature:
    """The signature of a program; `jaxlstm.programs.graph.Graph` explains the fields of the same names.

    `placeholders` lists the names of all placeholders in order, with None for each constant.
    `outputs` and the values of `mutations` are arguments that have not been read.
    """

    parameters: dict[str, str] = dataclasses.field(default_factory=dict)
    buffers: dict[str, str] = dataclasses.field(default_factory=dict)
    constants: dict[str, str] = dataclasses.field(default_factory=dict)
    inputs: list[Input] = dataclasses.field(default_factory=list)
    placeholders: list[str | None] = dataclasses.field(default_factory=list)
    outputs: list[Any] = dataclasses.field(default_factory=list)
    mutations: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_graph(document: Mapping[str, Any]) -> Graph:
    """Return the graph of a program.

    Args:
        document: the parsed JSON text `models/model.json`, of a known schema version.
    """
    module = field(document, "graph_module", dict, "the program")
    graph = field(module, "graph", dict, "the graph")
    types = recorded_types(document)
    signature = _read_signature(module, types)
    in_tree, out_tree = _trees(module, len(signature.inputs), len(signature.outputs))
    texts = {
        size: text
        for item in signature.inputs
        if item.type
        for size, text in zip(item.type.shape, item.type.expressions, strict=True)
        if type(size) is str
    }
    types.free_axes = texts.keys()
    types.sizes = typed(graph.get("sym_int_values", {}), dict, "the sizes")
    defined = _placeholders(graph, signature.placeholders)
    return Graph(
        parameters=signature.parameters,
        buffers=signature.buffers,
        constants=signature.constants,
        inputs=tuple(signature.inputs),
        nodes=read_nodes(field(graph, "nodes", list, "the graph"), types, defined),
        outputs=tuple(read_argument(value, defined, "an output") for value in signature.outputs),
        in_tree=in_tree,
        out_tree=out_tree,
        mutations={name: read_argument(v, defined, "a mutation") for name, v in signature.mutations.items()},
        ranges=_ranges(document, texts),
        guards=_guards(document),
    )


def recorded_types(document: Mapping[str, Any]) -> TensorTypes:
    """Return the types that a program records for its values."""
    module = field(document, "graph_module", dict, "the program")
    graph = field(module, "graph", dict, "the graph")
    return TensorTypes(field(graph, "tensor_values", dict, "the graph"))


def _read_signature(module: Mapping[str, Any], types: TensorTypes) -> _Signature:
    record = field(module, "signature", dict, "the signature")
    signature = _Signature()
    for spec in field(record, "input_specs", list, "the signature"):
        _add_input(signature, types, *union(spec, "an input of the signature"))
    for spec in field(record, "output_specs", list, "the signature"):
        _add_output(signature, *union(spec, "an output of the signature"))
    return signature


def _add_input(signature: _Signature, types: TensorTypes, kind: str, spec: Any) -> None:
    context = f"an input of kind {printable(kind)}"
    tensors = {
        "parameter": signature.parameters,
        "buffer": signature.buffers,
        "tensor_constant": signature.constants,
    }
    if kind in tensors:
        name = field(field(spec, "arg", dict, context), "name", str, context)
        tensors[kind][name] = field(spec, f"{kind}_name", str, context)
        signature.placeholders.append(name)
    elif kind == "user_input":
        tag, content = union(field(spec, "arg", dict, context), context)
        if tag != "as_tensor":
            problem = "is not a tensor; pass it as a tensor, or let the export fix its value"
            raise unsupported(f"{context} ({printable(tag)})", problem)
        name = field(content, "name", str, context)
        signature.inputs.append(Input(name, types.of(name), example=types.example(name)))
        signature.placeholders.append(name)
    elif kind == "constant_input":
        name = field(spec, "name", str, context)
        value: Any = read_argument(field(spec, "value", dict, context), frozenset(), context)
        if value is not None and type(value) not in (int, float, bool, str):
            raise malformed(context, "the value is not a plain constant")
        signature.inputs.append(Input(name, None, value))
        signature.placeholders.append(None)
    else:
        raise unsupported(context, "is not supported")


def _add_output(signature: _Signature, kind: str, spec: Any) -> None:
    context = f"an output of kind {printable(kind)}"
    if kind == "user_output":
        signature.outputs.append(field(spec, "arg", dict, context))
    elif kind == "buffer_mutation":
        buffer = field(spec, "buffer_name", str, context)
        if buffer in signature.mutations or buffer not in signature.buffers.values():
            raise malformed(context, f"{printable(buffer)!r} is not a buffer, or is changed twice")
        signature.mutations[buffer] = {"as_tensor": field(spec, "arg", dict, context)}
    elif kind == "user_input_mutation":
        raise unsupported(context, "the program changes its input in place; copy the input first")
    else:
        raise unsupported(context, "export the forward pass in evaluation mode")


def _trees(module: Mapping[str, Any], inputs: int, outputs: int) -> tuple[Tree, Tree]:
    """Return the structures of the arguments and results of the root module."""
    namedtuples = {
        name: tuple(typed(n, str, "a namedtuple") for n in field(d, "field_names", list, "a namedtuple"))
        for name, d in typed(module.get("treespec_namedtuple_fields", {}), dict, "namedtuples").items()
    }
    call = _root_call(module)
    trees = []
    for key, context, count in (("in_spec", "arguments", inputs), ("out_spec", "results", outputs)):
        tree = read_tree_spec(field(call, key, str, context), namedtuples, context)
        trees.append(tree)
        if tree.leaf_count() != count:
            problem = f"the structure has {tree.leaf_count()} leaves, but the graph {count} values"
            raise malformed(context, problem)
    if trees[0].kind != "tuple" or [child.kind for child in trees[0].children] != ["tuple", "dict"]:
        raise malformed("arguments", "the structure is not (args, kwargs)")
    return trees[0], trees[1]


def _root_call(module: Mapping[str, Any]) -> Any:
    for entry in field(module, "module_call_graph", list, "the graph module"):
        if field(entry, "fqn", str, "a module call") == "":
            return field(entry, "signature", dict, "the call of the root module")
    raise CheckpointError("pt2-malformed", "the program has no call of its root module")


def _placeholders(graph: Any, expected: list[str | None]) -> set[str]:
    """Return the names of the tensors among the placeholders, which must match the signature."""
    names: list[str | None] = []
    for value in field(graph, "inputs", list, "the graph"):
        tag, content = union(value, "a placeholder")
        names.append(field(content, "name", str, "a placeholder") if tag == "as_tensor" else None)
    if names != expected:
        raise malformed("the graph", "its placeholders differ from the signature")
    defined: set[str] = set()
    for name in names:
        if name is not None:
            define(name, defined)
    return defined


def _guards(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the conditions on sizes as text, each once; files before torch 2.9 have none."""
    texts = typed(document.get("guards_code", []), list, "the guards")
    return tuple(dict.fromkeys(typed(text, str, "a guard") for text in texts))


def _ranges(document: Any, axes: Mapping[str, str]) -> dict[str, tuple[int | None, int | None]]:
    """Return the smallest and largest size of each free axis, given torch's texts of the axes.

    Unless we marked a symbol, its graph lacks the conditions that hold from size 2 on, whatever its range.
    """
    ranges: dict[str, tuple[int | None, int | None]] = {}
    for name, bounds in field(document, "range_constraints", dict, "the program").items():
        if name not in axes:
            continue
        context = f"the range of {name}"
        low, high = (
            None if (bound := typed(bounds, dict, context).get(key)) is None else typed(bound, int, context)
            for key in ("min_val", "max_val")
        )
        low = max(low or 0, 1 if "nonzero=True" in axes[name] else 2)
        ranges[name] = (low, None if high is not None and high >= _UNBOUNDED else high)
    return ranges
