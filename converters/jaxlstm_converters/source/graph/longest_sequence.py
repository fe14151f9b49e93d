"""A graph in which the steps after the longest packed sequence do not count, although batches keep them.

Torch cuts a packed batch after its longest sequence. Where the steps after it would change a number, such as
the mean of all steps, they are masked. Where no mask does it, such as in a convolution, the results are right
on the condition that a batch has no such steps.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import replace

import jax
import numpy as np

from jaxlstm.inference.artifact import shapes_at
from jaxlstm.inference.random_inputs import example_sizes_or_one
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Argument, Graph, Node, Site, TensorType, Value, results_of, rewrite
from jaxlstm.programs.graph.graph import RESULT
from jaxlstm.programs.graph.values import live_graph
from jaxlstm.programs.inputs import as_arguments
from jaxlstm.programs.passes.packed_lengths import PackedLengths
from jaxlstm.programs.program import Program
from jaxlstm_converters.source.graph.guarded_results import TRUTH, Added

_PACK, _PAD = "jaxlstm.pack_padded.default", "jaxlstm.pad_packed.default"
_SAME_LENGTHS = ("aten.sort.default", "aten.clone.default", "aten.to.dtype")
_ARITHMETIC = frozenset(f"aten.{name}.Tensor" for name in ("add", "sub", "mul", "div"))
_INTEGER = TensorType(np.dtype(np.int64), ())
_PRODUCTS = frozenset({"aten.bmm.default", "aten.matmul.default"})
_ZERO_AT_ZERO = frozenset({"dropout", "relu", "tanh", "index_select", "slice", "unsqueeze", "transpose"})
_SAME_SIGNS = frozenset(
    {"item", "_local_scalar_dense", "to", "view", "reshape", "unsqueeze", "squeeze", "expand"}
)
_NEUTRAL: Mapping[str, float] = {
    **dict.fromkeys(("aten.sum.dim_IntList", "aten.sum.default", "aten.mean.dim"), 0.0),
    **dict.fromkeys((f"aten.{name}" for name in ("max.dim", "max.default", "amax.default")), -math.inf),
    **dict.fromkeys((f"aten.{name}" for name in ("min.dim", "min.default", "amin.default")), math.inf),
    **dict.fromkeys(
        (f"aten.{n}" for n in ("softmax.int", "log_softmax.int", "logsumexp.default")), -math.inf
    ),
}
"""Operator along axes -> the number that changes none of its results."""


def without_longer_steps(program: Program, graph: Graph) -> tuple[Graph, list[Value]]:
    """Return the graph of a program in which the steps after the longest sequence do not count.

    The second result holds the conditions without which they do.
    """
    if not any(node.op == _PACK for node in graph.nodes):
        return graph, []
    rule = _LongestOnly(_counting(program), PackedLengths(graph))
    graph = rewrite(graph, rule)
    return graph, rule.conditions


def _counting(program: Program) -> set[str] | None:
    """Return the nodes for which steps after the longest sequence count; None if that is unknown."""
    found = set[str]()

    def run(params: Mapping[str, jax.Array], *tensors: jax.Array) -> None:
        args, kwargs = as_arguments(program.graph, tensors)
        values = program.evaluate(params, *args, record=lambda node, result: None, **kwargs)
        found.update(values.counting)

    try:
        jax.eval_shape(run, program.params, *shapes_at(program, example_sizes_or_one(program.graph)))
    except ProgramError:
        return None
    return found & {node.name for node in live_graph(program.graph).nodes}


class _LongestOnly:
    """A rule that masks the steps after the longest sequence.

    ``counting`` has the names of the nodes for which they count; None for any.
    """

    def __init__(self, counting: Set[str] | None, lengths: PackedLengths) -> None:
        self._lengths = lengths
        self._counting, self._is_right = counting or set(), counting is not None
        self._left = {*self._counting}
        self._longest: dict[str, Value] = {}  # torch's text of the size of a cut axis -> the longest length
        self._are_whole: list[Value] = []  # whether a batch has no more steps

    @property
    def conditions(self) -> list[Value]:
        """The conditions that batches have no more steps, unless no node counts them."""
        return [] if self._is_right and not self._left else self._are_whole

    def __call__(self, node: Node, site: Site) -> list[Node] | Node | None:
        if node.op == _PACK:
            return self._packed(node, site)
        if node.op == RESULT:
            return replace(node, args=tuple(self._number(item, site) or item for item in node.args))
        if node.name not in self._counting:
            return None
        self._left.remove(node.name)
        rules = self._with_number, self._reduced, self._product, self._at_places
        replacement = next((new for rule in rules if (new := rule(node, site))), None)
        self._is_right &= replacement is not None
        return replacement

    def _packed(self, node: Node, site: Site) -> list[Node]:
        axis, lengths = 1 if node.kwargs["batch_first"] else 0, node.kwargs["lengths"]
        while (maker := site.maker(lengths)) and maker.op in _SAME_LENGTHS:
            lengths = maker.kwargs["self"]
        add = Added(node, site)
        longest = add("aten.max.default", {"self": lengths}, _INTEGER)
        steps = add("aten.sym_size.int", {"self": node.kwargs["input"], "dim": axis})
        self._are_whole.append(add("aten.eq.Scalar", {"self": longest, "other": steps}, TRUTH))
        self._longest[site.types[results_of(node)[0]].expressions[axis]] = longest
        return [*add.nodes, node]

    def _number(self, argument: Argument, site: Site) -> Value | None:
        """Return the length of the longest sequence for a number that is the size of a cut axis."""
        maker = site.maker(argument)
        if maker is None or maker.op != "aten.sym_size.int":
            return None
        source, dim = maker.kwargs["self"], maker.kwargs["dim"]
        texts = site.types[source.name].expressions if isinstance(source, Value) else ()
        return self._longest.get(texts[dim]) if texts and isinstance(dim, int) else None

    def _with_number(self, node: Node, site: Site) -> Node | None:
        """Return arithmetic with the length of the longest sequence instead of a size."""
        longest = self._number(node.kwargs.get("other"), site)
        is_known = node.op in _ARITHMETIC and longest is not None
        return replace(node, kwargs={**node.kwargs, "other": longest}) if is_known else None

    def _axis(self, value: Argument, site: Site) -> int | None:
        """Return the only axis of a tensor that torch has cut, if it has one."""
        type_ = site.types.get(value.name) if isinstance(value, Value) else None  # None for a number.
        texts = type_.expressions if type_ is not None else ()
        cut = [axis for axis, text in enumerate(texts) if text in self._longest]
        return cut[0] if len(cut) == 1 else None

    def _masked(self, value: Value, fill: float, add: Added, site: Site) -> Value:
        """Return a tensor with another number after the longest sequence."""
        type_, axis = site.types[value.name], self._axis(value, site)
        assert axis is not None
        if fill == 0 and self._is_zero(value, site):
            return value
        mask = _steps_from(add, type_, self._longest[type_.expressions[axis]], value, axis)
        kwargs = {"self": value, "mask": mask, "value": np.asarray(fill, type_.dtype).item()}
        return add("aten.masked_fill.Scalar", kwargs, type_)

    def _is_zero(self, value: Argument, site: Site) -> bool:
        """Return True for a tensor that is known to be zero after the longest sequence."""
        maker = site.maker(value)
        if maker is None or maker.op == _PAD:
            return maker is not None and maker.kwargs["padding_value"] == 0
        kind, operands = maker.op.split(".")[1], (maker.kwargs.get("self"), maker.kwargs.get("other"))
        if kind == "mul":  # Zero times infinity would be NaN.
            zero = [self._is_zero(item, site) for item in operands]
            types = [site.types[item.name] for item in operands if isinstance(item, Value)]
            return all(zero) or (any(zero) and any(type_.dtype.kind == "b" for type_ in types))
        if kind == "softmax":  # `_reduced` has masked it.
            return maker.name in self._counting
        return kind in _ZERO_AT_ZERO and self._is_zero(operands[0] or maker.kwargs.get("input"), site)

    def _product(self, node: Node, site: Site) -> list[Node] | None:
        """Return a product of matrices that sums over the steps up to the longest sequence."""
        if node.op not in _PRODUCTS:
            return None
        operands = [node.kwargs.get("self"), node.kwargs.get("other", node.kwargs.get("mat2"))]
        axes = [self._axis(item, site) for item in operands]
        ranks = [len(site.types[item.name].shape) for item in operands if isinstance(item, Value)]
        if min(ranks) < 2 or axes != [ranks[0] - 1, ranks[1] - 2]:
            return None
        add, names = Added(node, site), [*node.kwargs][:2]
        masked = [self._masked(item, 0.0, add, site) for item in operands if isinstance(item, Value)]
        return [*add.nodes, replace(node, kwargs=dict(zip(names, masked, strict=True)))]

    def _at_places(self, node: Node, site: Site) -> Node | None:
        """Return a node that reads steps at places that it does not count from the end."""
        source, places = node.kwargs.get("self"), node.kwargs.get("indices", ())
        axis = self._axis(source, site)
        if axis is None or not isinstance(source, Value) or not isinstance(places, tuple):
            return None
        if node.op == "aten.select.int" and node.kwargs["dim"] in (
            axis,
            axis - len(site.types[source.name].shape),
        ):
            place = node.kwargs["index"]
        else:
            place = places[axis] if node.op == "aten.index.Tensor" and axis < len(places) else None
        return node if self._is_place(place, site) else None

    def _is_place(self, value: Argument, site: Site) -> bool:
        """Return True for numbers that are not negative, such as ``lengths - 1``."""
        if not isinstance(value, Value) or (maker := site.maker(value)) is None:
            return isinstance(value, int) and value >= 0
        kind, source = maker.op.split(".")[1], maker.kwargs.get("self", maker.args[0] if maker.args else None)
        if kind in _SAME_SIGNS:
            return self._is_place(source, site)
        less = maker.args[1] if maker.args[1:] else maker.kwargs.get("other")
        is_less = (kind, less) in (("sub", 1), ("add", -1)) and maker.kwargs.get("alpha", 1) == 1
        return self._lengths.hold(source) if is_less else kind in ("argmax", "argmin")

    def _reduced(self, node: Node, site: Site) -> list[Node] | None:
        """Return a function along the axis without the steps after the longest sequence."""
        source, fill, is_mean = node.kwargs.get("self"), _NEUTRAL.get(node.op), node.op == "aten.mean.dim"
        axis = self._axis(source, site)
        if fill is None or axis is None or not isinstance(source, Value):
            return None
        type_ = site.types[source.name]
        along = {dim % len(type_.shape) for dim in _integers(node.kwargs.get("dim"))}
        # Without axes, a function is along all of them.
        if (
            (axis not in along and along)
            or (is_mean and (along != {axis} or type_.dtype.itemsize < 4))  # The sum may overflow.
            or (fill and type_.dtype.kind != "f")
        ):
            return None
        add, longest = Added(node, site), self._longest[type_.expressions[axis]]
        kwargs = {**node.kwargs, "self": self._masked(source, fill, add, site)}
        if not is_mean:
            return [*add.nodes, replace(node, kwargs=kwargs)]
        total = add("aten.sum.dim_IntList", kwargs, node.types[results_of(node)[0]])
        return [*add.nodes, replace(node, op="aten.div.Tensor", kwargs={"self": total, "other": longest})]


def _integers(argument: Argument) -> list[int]:
    items = argument if isinstance(argument, tuple) else (argument,)
    return [item for item in items if isinstance(item, int)]


def _steps_from(add: Added, type_: TensorType, longest: Value, source: Value, axis: int) -> Value:
    """Return the mask of the steps of a tensor from the longest length on."""
    steps = add("aten.sym_size.int", {"self": source, "dim": axis})
    counted = TensorType(np.dtype(np.int64), (type_.shape[axis],), (type_.expressions[axis],))
    places = add("aten.arange.start", {"start": 0, "end": steps}, counted)
    for dim in range(1, len(type_.shape) - axis):
        counted = counted.with_axis(dim, 1, inserted=True)
        places = add("aten.unsqueeze.default", {"self": places, "dim": dim}, counted)
    truths = replace(counted, dtype=np.dtype(bool))
    return add("aten.ge.Tensor", {"self": places, "other": longest}, truths)
