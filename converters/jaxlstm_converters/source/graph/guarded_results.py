"""Results that are NaN unless the conditions on values hold under which a graph is right."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import (
    Argument,
    Graph,
    Node,
    Site,
    TensorType,
    Value,
    results_of,
    rewrite,
    uses_of,
    with_arguments,
)
from jaxlstm.programs.graph.graph import RESULT
from jaxlstm.programs.graph.rewrite import new_node, twin_of
from jaxlstm.programs.operators.dtypes import held
from jaxlstm.programs.operators.sizes import ASSERTIONS
from jaxlstm.programs.passes.packed_lengths import ITEMS

TRUTH = TensorType(np.dtype(bool), ())
_NUMBERS = {int: TensorType(np.dtype(np.int64), ()), float: TensorType(np.dtype(np.float32), ())}
OPPOSITES = {"ge": "lt", "gt": "le", "le": "gt", "lt": "ge", "eq": "ne", "ne": "eq"}
# A size -> the size without what torch has recorded.
_SIZES = {"aten.sym_size.int": "jaxlstm.sym_size.int", "aten.sym_numel.default": "jaxlstm.sym_numel.default"}
_STRICT = {"ge": ("gt", -1), "le": ("lt", 1)}
_PACKED = ("jaxlstm.pack_padded.default", "jaxlstm.pad_packed.default")
Condition: TypeAlias = tuple[str, Argument, Argument]


class Added:
    """Nodes that a rule adds in front of a node."""

    def __init__(self, node: Node, site: Site) -> None:
        self.nodes, self._site = list[Node](), site
        # The line would give its names to other values.
        self._calls = tuple(call._replace(line="") for call in node.calls)

    def __call__(self, op: str, kwargs: Mapping[str, Argument], type_: TensorType | None = None) -> Value:
        """Add a node, and return its result."""
        name = self._site.fresh(op.split(".")[1])
        types = {name: type_} if type_ else {}
        self.nodes.append(Node(name, op, (), kwargs, (name,), self._calls, types))
        self._site.types.update(types)
        return Value(name)


def with_asserted_values(graph: Graph) -> tuple[Graph, list[Value]]:
    """Return the graph, and the conditions on values that its assertions have."""
    rule = _Asserted()
    graph = rewrite(graph, rule)
    return graph, [value for key, value in rule.conditions.items() if not rule.is_implied(*key)]


class _Asserted:
    """A rule that makes tensors of asserted conditions on numbers, which are values of tensors."""

    def __init__(self) -> None:
        self.conditions: dict[Condition, Value] = {}
        self._integers: set[Argument] = set()  # what conditions compare
        self._of_values: set[str] = set()  # numbers
        self._twins: dict[str, Value] = {}

    def is_implied(self, kind: str, one: Argument, other: Argument) -> bool:
        """Return True for a bound that torch has derived from another condition."""
        if kind not in _STRICT or type(other) is not int:
            return False
        strict, step = _STRICT[kind]
        exact = (strict, one, other + step) in self.conditions and one in self._integers
        return exact or ("eq", one, other) in self.conditions

    def __call__(self, node: Node, site: Site) -> list[Node] | None:
        if node.op not in ASSERTIONS:
            return self._number(node, site)
        node = with_arguments(node, lambda value: self._twins.get(value.name, value))
        add, asserted = Added(node, site), node.kwargs["self"]
        if isinstance(asserted, Value) and asserted.name in site.types:
            is_one = site.types[asserted.name] == TRUTH
            every = asserted if is_one else add("aten.all.default", {"self": asserted}, TRUTH)
            self.conditions["", asserted, None] = every
        else:
            self._add(asserted, site, add, is_true=True)
        return [*add.nodes, node]

    def _number(self, node: Node, site: Site) -> list[Node] | None:
        """Note whether a number depends on values of tensors, and compute it without recorded sizes.

        A tensor that the graph makes has other sizes than its inputs where values cut it: a graph asserts no
        others. torch may have recorded the size that a condition requires.
        """
        if node.types or len(results := results_of(node)) != 1:
            return None
        if node.op in _SIZES:
            made = site.maker(node.kwargs["self"])
            if made is None or made.op in _PACKED:
                return None
            twin = new_node(node, site, _SIZES[node.op], None, **node.kwargs)
            self._twins[results[0]] = Value(twin.name)
        else:
            twin = twin_of(node, site, self._twins)
            is_of_values = node.op in ITEMS or not self._of_values.isdisjoint(uses_of(node))
            self._of_values.update(results if is_of_values else ())
        self._of_values.update((twin.name,) if twin else ())
        return [node, twin] if twin else None

    def _add(self, condition: Argument, site: Site, add: Added, *, is_true: bool) -> None:
        maker = site.maker(condition)
        kind = maker.op.split(".")[1] if maker else ""
        if maker and kind == "sym_not":
            self._add(maker.args[0], site, add, is_true=not is_true)
            return
        one, other = (
            (_tensor(item, site) for item in maker.args) if maker and kind in OPPOSITES else (None, None)
        )
        if not isinstance(one, Value) or one.name not in site.types:
            if maker and not self._of_values.isdisjoint(results_of(maker)):
                kwargs = {"s": condition, "dtype": TRUTH.dtype}
                holds = add("aten.scalar_tensor.default", kwargs, TRUTH)
                holds = holds if is_true else add("aten.logical_not.default", {"self": holds}, TRUTH)
                if one is None:
                    self.conditions[str(is_true), condition, None] = holds
                    return
                self.conditions[kind if is_true else OPPOSITES[kind], one, other] = holds
                compared = site.maker(one)
                self._integers.update((one,) if compared and compared.op in _SIZES.values() else ())
            return
        kind, is_truth = kind if is_true else OPPOSITES[kind], site.types[one.name].dtype == bool
        if is_truth and (kind, other) in (("ge", 0), ("le", 1)):
            return
        if is_truth and (kind, other) in (("ge", 1), ("eq", 1), ("ne", 0)):
            self.conditions["", one, None] = one
            return
        if is_truth and (kind, other) in (("le", 0), ("eq", 0), ("ne", 1)):
            self.conditions["not", one, None] = add("aten.logical_not.default", {"self": one}, TRUTH)
            return
        form = "Tensor" if isinstance(other, Value) and other.name in site.types else "Scalar"
        made = add(f"aten.{kind}.{form}", {"self": one, "other": other}, TRUTH)
        self.conditions[kind, one, other] = made
        if site.types[one.name].dtype.kind in "iu":
            self._integers.add(one)


def _tensor(number: Argument, site: Site) -> Argument:
    """Return the tensor whose value is a number, or the number."""
    maker = site.maker(number)
    if maker and maker.op == "torch.sym_ite" and maker.args[1:] == (1, 0):
        maker = site.maker(maker.args[0])
    if not maker or maker.op not in ITEMS:
        return number
    tensor = maker.kwargs["self"]
    compared = site.maker(tensor)
    # The truth of a tensor of truths.
    if compared and compared.op == "aten.ne.Scalar" and compared.kwargs["other"] == 0:
        source = compared.kwargs["self"]
        if isinstance(source, Value) and site.types[source.name].dtype == bool:
            return source
    return tensor


def guarded(graph: Graph, conditions: Sequence[Value]) -> Graph:
    """Return the graph whose results are NaN, or the smallest integer, unless conditions hold.

    Raises:
        ProgramError: no result can show it.
    """
    return rewrite(graph, _Guarded(conditions)) if conditions else graph


class _Guarded:
    """The rule."""

    def __init__(self, conditions: Sequence[Value]) -> None:
        self._conditions = conditions

    def __call__(self, node: Node, site: Site) -> list[Node] | None:
        if node.op != RESULT:
            return None
        add, outputs = Added(node, site), [*node.args]
        holds, *others = self._conditions
        for other in others:
            holds = add("aten.logical_and.default", {"self": holds, "other": other}, TRUTH)
        for place, output in enumerate(outputs):
            # The export may have fixed a number.
            type_ = site.types.get(output.name) if isinstance(output, Value) else _NUMBERS.get(type(output))
            if type_ is not None and type_.dtype.kind != "b":
                kwargs = {"condition": holds, "self": output, "other": _number_of_no_result(type_.dtype)}
                op = "aten.where.ScalarOther" if isinstance(output, Value) else "aten.where.Scalar"
                outputs[place] = add(op, kwargs, type_)
        if outputs == [*node.args]:
            raise ProgramError(
                "unproven-source",
                "no result is a number, which could show that a condition of the model on values does not "
                "hold. Return a number too, or run the program",
            )
        return [*add.nodes, replace(node, args=tuple(outputs))]


def _number_of_no_result(dtype: np.dtype) -> float:
    """Return NaN, the smallest integer, or for unsigned integers the largest one."""
    limits = np.iinfo(held(dtype)) if dtype.kind in "iu" else None
    return limits.min or limits.max if limits else math.nan
