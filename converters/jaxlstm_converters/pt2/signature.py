"""The signature of a program: the role of each placeholder and result, and the structures of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlstm.programs.graph import Tree
from jaxlstm_converters.checkpoint.errors import CheckpointError, printable
from jaxlstm_converters.pt2.arguments import read_argument
from jaxlstm_converters.pt2.fields import field, malformed, typed, union, unsupported
from jaxlstm_converters.pt2.tree_spec import count_leaves, read_tree_spec

Constant = int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class UserInput:
    """An input of the user: a tensor, or a value that the export fixed."""

    name: str
    is_tensor: bool
    constant: Constant = None


@dataclass(slots=True)
class Signature:
    """The signature of a program; `jaxlstm.programs.graph.Graph` explains the fields of the same names.

    `placeholders` lists the names of all placeholders in order, with None for each constant.
    `outputs` and the values of `mutations` are arguments that have not been read.
    """

    parameters: dict[str, str] = dataclasses.field(default_factory=dict)
    buffers: dict[str, str] = dataclasses.field(default_factory=dict)
    constants: dict[str, str] = dataclasses.field(default_factory=dict)
    inputs: list[UserInput] = dataclasses.field(default_factory=list)
    placeholders: list[str | None] = dataclasses.field(default_factory=list)
    outputs: list[Any] = dataclasses.field(default_factory=list)
    mutations: dict[str, Any] = dataclasses.field(default_factory=dict)
    in_tree: Tree = dataclasses.field(default_factory=lambda: Tree("leaf"))
    out_tree: Tree = dataclasses.field(default_factory=lambda: Tree("leaf"))


def read_signature(module: Mapping[str, Any]) -> Signature:
    """Return the signature of a graph module.

    Args:
        module: the field `graph_module` of the program.

    Raises:
        CheckpointError: pt2-malformed, pt2-unsupported or too-deep.
    """
    record = field(module, "signature", dict, "the signature")
    signature = Signature()
    for spec in field(record, "input_specs", list, "the signature"):
        _add_input(signature, *union(spec, "an input of the signature"))
    for spec in field(record, "output_specs", list, "the signature"):
        _add_output(signature, *union(spec, "an output of the signature"))
    signature.in_tree, signature.out_tree = _trees(module)
    _check_leaves("arguments", signature.in_tree, len(signature.inputs))
    _check_leaves("results", signature.out_tree, len(signature.outputs))
    kinds = [child.kind for child in signature.in_tree.children]
    if signature.in_tree.kind != "tuple" or kinds != ["tuple", "dict"]:
        raise malformed("arguments", "the structure is not (args, kwargs)")
    return signature


def _add_input(signature: Signature, kind: str, spec: Any) -> None:
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
        signature.inputs.append(UserInput(name, is_tensor=True))
        signature.placeholders.append(name)
    elif kind == "constant_input":
        name = field(spec, "name", str, context)
        value: Any = read_argument(field(spec, "value", dict, context), frozenset(), context)
        if value is not None and type(value) not in (int, float, bool, str):
            raise malformed(context, "the value is not a plain constant")
        signature.inputs.append(UserInput(name, is_tensor=False, constant=value))
        signature.placeholders.append(None)
    else:
        raise unsupported(context, "is not supported")


def _add_output(signature: Signature, kind: str, spec: Any) -> None:
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


def _trees(module: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """Return the structures of the call of the root module."""
    namedtuples = {
        name: tuple(typed(n, str, "a namedtuple") for n in field(d, "field_names", list, "a namedtuple"))
        for name, d in typed(module.get("treespec_namedtuple_fields", {}), dict, "namedtuples").items()
    }
    for entry in field(module, "module_call_graph", list, "the graph module"):
        if field(entry, "fqn", str, "a module call") == "":
            call = field(entry, "signature", dict, "the call of the root module")
            return (
                read_tree_spec(field(call, "in_spec", str, "arguments"), namedtuples, "arguments"),
                read_tree_spec(field(call, "out_spec", str, "results"), namedtuples, "results"),
            )
    raise CheckpointError("pt2-malformed", "the program has no call of its root module")


def _check_leaves(context: str, tree: Tree, count: int) -> None:
    if count_leaves(tree) != count:
        raise malformed(
            context, f"the structure has {count_leaves(tree)} leaves, but the graph {count} values"
        )
