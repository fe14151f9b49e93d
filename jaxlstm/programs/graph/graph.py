"""The graph of an exported program as plain data: no torch, no JAX arrays, nothing to execute.

``jaxlstm_converters.pt2`` builds a graph from a ``.pt2`` file; ``jaxlstm.programs.program`` runs it. The
words are used as in ``torch.export``: a node calls an operator, a placeholder is a parameter, a buffer,
a constant or a user input, and a symbolic size is the size of an axis that was exported as dynamic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import numpy as np


@dataclass(frozen=True)
class Value:
    """A reference to the value that a placeholder or a node defines: a tensor or a symbolic integer."""

    name: str


# An argument of a node. torch's devices, layouts and memory formats become None: JAX has no counterpart.
# A graph is the function that ``cond`` and the like call.
Argument: TypeAlias = (
    "Value | int | float | complex | bool | str | np.dtype | Graph | tuple[Argument, ...] | None"
)

# The size of an axis: an integer, the name of a free axis ("s77"), or None for an expression of free axes.
Size: TypeAlias = int | str | None

RESULT = "graph.result"
"""The operator of :attr:`Graph.result`."""


@dataclass(frozen=True)
class TensorType:
    """The dtype and shape of a tensor, with named free axes.

    ``expressions`` is torch's text of each size, which tells whether two sizes are equal; () if not known.
    """

    dtype: np.dtype
    shape: tuple[Size, ...]
    expressions: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def permuted(self, order: Sequence[int]) -> TensorType:
        """Return the type with its axes in another order."""
        expressions = tuple(self.expressions[axis] for axis in order) if self.expressions else ()
        return TensorType(self.dtype, tuple(self.shape[axis] for axis in order), expressions)

    def with_axis(self, axis: int, size: int, *, inserted: bool = False) -> TensorType:
        """Return the type with another size of an axis, or with a new axis in its place."""
        next_axis = axis + (not inserted)
        texts = (*self.expressions[:axis], str(size), *self.expressions[next_axis:])
        shape = (*self.shape[:axis], size, *self.shape[next_axis:])
        return TensorType(self.dtype, shape, texts if self.expressions else ())


def same_size(first: TensorType, axis: int, second: TensorType, other_axis: int) -> bool:
    """Return True if the sizes of two axes are known to be equal."""
    size = first.shape[axis]
    if size is not None and size == second.shape[other_axis]:
        return True
    texts = first.expressions, second.expressions
    return all(texts) and texts[0][axis] == texts[1][other_axis]


def same_sizes(first: TensorType, second: TensorType, without: int | None = None) -> bool:
    """Return True if two shapes are known to be equal, except for one axis."""
    axes = [axis for axis in range(len(first.shape)) if axis != without]
    ranks = len(first.shape) == len(second.shape)
    return ranks and all(same_size(first, axis, second, axis) for axis in axes)


class ModuleCall(NamedTuple):
    """One call of a module, as printable text from the file.

    Attributes:
      key: "fc@1"; differs between the calls of one module.
      path: "fc"; "" for the outermost module.
      class_name: "torch.nn.modules.linear.Linear".
      line: the line of this module's ``forward`` that led to the node; "" if unknown.
      method: the method that was called instead of ``forward``, or "".
    """

    key: str
    path: str
    class_name: str
    line: str
    method: str = ""


Structure: TypeAlias = "str | tuple[Structure, ...] | None"
"""The names of values in nested tuples; None for another argument or result."""


class CallSignature(NamedTuple):
    """The arguments of a call of a module, under the names of its ``forward``, and its results."""

    arguments: tuple[tuple[str, Structure], ...]
    results: Structure


@dataclass(frozen=True)
class Node:
    """One call of an operator.

    Attributes:
      name: torch's name of the node, unique in the graph.
      op: the operator with its overload, for example ``"aten.lstm.input"`` or ``"_operator.add"``.
      args: arguments for which torch records no name (Python operators).
      kwargs: all other arguments under the names of the operator's schema; ``self`` is an ordinary name.
      outputs: one entry per result: the name of the value, a tuple of names for a list of tensors, or
        None for a result that the graph does not use.
      calls: the calls of modules that led to this call, outermost first; none if torch inserted the node.
      types: the types that torch recorded for the outputs, by name of value.
      with_gradient: False inside of ``torch.no_grad``, where no gradient flows to the results.
      casts_done: True for a node whose casts by ``torch.autocast`` are nodes of the graph.
      size: torch's text of the size that the node computes, see :class:`TensorType`; "" for other results.
    """

    name: str
    op: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    outputs: tuple[str | tuple[str, ...] | None, ...]
    calls: tuple[ModuleCall, ...] = ()
    types: Mapping[str, TensorType] = field(default_factory=dict)
    with_gradient: bool = True
    casts_done: bool = False
    size: str = field(default="", compare=False, repr=False)

    @property
    def module_path(self) -> str:
        """Path of the module that made the call, for example ``"encoder.lstm"``; "" at the root."""
        return self.calls[-1].path if self.calls else ""


@dataclass(frozen=True)
class Tree:
    """A structure of arguments or results, as in ``torch.utils._pytree``.

    ``kind`` is "leaf", "none", "tuple", "list", "dict" or "namedtuple"; ``keys`` holds the keys of a dict or
    the field names of a namedtuple, ``children`` the subtrees, in the order in which they are flattened.
    """

    kind: str
    children: tuple[Tree, ...] = ()
    keys: tuple[str | int, ...] = ()
    name: str = ""

    def leaf_count(self) -> int:
        """Return the number of leaves."""
        return 1 if self.kind == "leaf" else sum(child.leaf_count() for child in self.children)


@dataclass(frozen=True)
class Input:
    """A user input of the program: a tensor, or a constant that the export fixed (then ``type`` is None).

    Attributes:
      name: name of the value.
      type: dtype and shape, in which a string names a free axis.
      constant: value of a constant.
      fixed: axis -> why its size is fixed, where this is known: a condition, or a line of the model's code.
      example: the shape of the example of the export; () if not recorded.
    """

    name: str
    type: TensorType | None
    constant: int | float | bool | str | None = None
    fixed: Mapping[int, str] = field(default_factory=dict)
    example: tuple[int, ...] = ()


class AxisRange(NamedTuple):
    """The sizes of a free axis that a condition of the model allows.

    Attributes:
      low, high: smallest and largest size; None where unbounded.
      reason: the condition, and the line of the model's code if it is known.
    """

    low: int
    high: int | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An exported program: placeholders, nodes in order of execution, and results.

    Attributes:
      parameters, buffers, constants: name of the value in the graph -> name in torch ("lstm.weight_ih_l0").
      inputs: the user inputs, flattened by ``in_tree``.
      nodes: the calls, each after all calls that it depends on.
      outputs: the user's results, flattened by ``out_tree``.
      in_tree: structure of (args, kwargs).
      out_tree: structure of the results.
      mutations: name in torch of a buffer that the program changes -> value that it holds afterwards.
      ranges: name of a free axis -> (smallest, largest) size as recorded; None where unbounded. See
        :meth:`size_range`.
      guards: conditions on the sizes of the inputs under which the graph is valid, see
        :mod:`jaxlstm.programs.sizes.guards`.
      lines: guard -> line of the model's code that made it, for example ``"model.py:12: if n > 4:"``.
      narrowed: name of a free axis -> the sizes that the guards leave of its range.
      shared: groups of names in torch whose tensors share memory.
      signatures: key of a call of a module -> its signature, where the export recorded it.
      captured: values of the graph around a function that it uses by name; none in an exported program.
    """

    parameters: Mapping[str, str] = field(default_factory=dict)
    buffers: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Argument, ...]
    in_tree: Tree
    out_tree: Tree
    mutations: Mapping[str, Argument] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    guards: tuple[str, ...] = ()
    lines: Mapping[str, str] = field(default_factory=dict)
    narrowed: Mapping[str, AxisRange] = field(default_factory=dict)
    shared: tuple[tuple[str, ...], ...] = ()
    signatures: Mapping[str, CallSignature] = field(default_factory=dict)
    captured: tuple[str, ...] = ()

    @property
    def input_types(self) -> dict[str, TensorType]:
        """Name -> type of each tensor among the inputs."""
        return {declared.name: declared.type for declared in self.inputs if declared.type is not None}

    @property
    def types(self) -> dict[str, TensorType]:
        """Name -> recorded type of each tensor among the inputs and the results of nodes."""
        computed = {name: type_ for node in self.nodes for name, type_ in node.types.items()}
        return {**self.input_types, **computed}

    @property
    def result(self) -> Node:
        """A node that takes the results and the mutations, as if it were the last."""
        calls = self.nodes[-1].calls[:1] if self.nodes else ()
        return Node("", RESULT, self.outputs, self.mutations, (), calls)

    def with_nodes(self, nodes: Iterable[Node], result: Node | None = None) -> Graph:
        """Return the graph with other nodes, and with the arguments of ``result`` as its results."""
        last = result or self.result
        return replace(self, nodes=tuple(nodes), outputs=last.args, mutations=last.kwargs)

    @property
    def free_axes(self) -> list[str]:
        """The free axes of the inputs."""
        sizes = (size for type_ in self.input_types.values() for size in type_.shape)
        return list(dict.fromkeys(size for size in sizes if isinstance(size, str)))

    def size_range(self, axis: str) -> tuple[int, int | None]:
        """Return the smallest and the largest size of a free axis; None where unbounded."""
        if axis in self.narrowed:
            return self.narrowed[axis][:2]
        low, high = self.ranges.get(axis, (None, None))
        return low or 0, high

    def is_taken_as_positive(self, axis: str) -> bool:
        """Return True for an axis that the export took to be at least 1 or 2 for no condition of the model.

        Then the graph lacks the conditions that only smaller sizes break, such as ``x.shape[0] != 1``.
        """
        return axis not in self.narrowed and self.size_range(axis)[0] in (1, 2)


def place_of(node: Node) -> str:
    """Return the module of a node for a message."""
    return f"module {node.module_path}" if node.module_path else "the outermost module"


def shown_shape(shape: Sequence[Size]) -> str:
    """Return a shape for people: named axes by name, expressions of free axes as "?"."""
    sizes = ["?" if size is None else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"
