"""Run the nodes of a graph, one after the other, on arrays or on JAX's tracers."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

from jax.core import Tracer

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Graph, Node, results_of, uses_of
from jaxlstm.programs.node_step import NodeStep, Values, resolve
from jaxlstm.programs.operators.dtypes import doubles_by_default
from jaxlstm.programs.operators.registry import Options, find_operator
from jaxlstm.programs.operators.sizes import ASSERTIONS
from jaxlstm.programs.sizes.prefix import SIZE_OF, is_among

_MOST_FORMS = 16
"""Sets of constants with which an operator of one graph is compiled."""

_READERS = frozenset(
    (
        *ASSERTIONS,
        *(f"aten.{name}.default" for name in ("item", "_local_scalar_dense", "masked_select", "nonzero")),
        *("aten.index.Tensor", "aten.index_put.default", "aten.repeat_interleave.Tensor"),
        "jaxlstm.pack_padded.default",
    )
)
"""Operators whose results have sizes that depend on values, or whose conditions do."""


class Steps:
    """An accepted graph, each node of which is bound to its operator.

    Attributes:
      graph: the graph.
    """

    def __init__(self, graph: Graph) -> None:
        """Bind the nodes of a graph that :func:`jaxlstm.programs.acceptance.accept` returned."""
        self.graph = graph
        makers = {name: node for node in graph.nodes for name in results_of(node)}
        read = _read_values(graph)
        self._steps = [
            _bound(node, graph, makers, not read.isdisjoint(results_of(node))) for node in graph.nodes
        ]
        self._compile()

    def _compile(self) -> None:
        """Compile elementwise operators for calls outside of ``jit``, except with many sets of constants."""
        forms = [(step, step.operator.name, step.form) for step in self._steps]
        counts = Counter(name for name, form in {(name, form) for _, name, form in forms})
        for step, name, form in forms:
            if form is not None and counts[name] <= _MOST_FORMS:
                step.compile()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the graph only: operators are functions, which another process may not have."""
        return Steps, (self.graph,)

    def run(self, values: Values, options: Options) -> None:
        """Run all nodes; ``values`` gets their results by name."""
        for step in self._steps:
            step.run(values, options)

    def run_each(self, values: Values, options: Options, record: Callable[[Node, Any], None]) -> None:
        """Run all nodes, and call ``record`` with each node and its result."""
        for step in self._steps:
            record(step.node, step.run(values, options))


def _read_values(graph: Graph) -> set[str]:
    """Return the names of the values on which readers of values depend."""
    found = set[str]()
    for node in reversed(graph.nodes):
        if node.op in _READERS or not found.isdisjoint(results_of(node)):
            found.update(uses_of(node))
    return found


def _bound(node: Node, graph: Graph, makers: dict[str, Node], is_read: bool) -> NodeStep:
    operator = find_operator(node.op)
    if operator is None:
        raise ProgramError("unsupported-operator", f"no operator {node.op} is registered in this process")
    subgraphs = {place: Steps(item) for place, item in enumerate(node.args) if isinstance(item, Graph)}
    functions = {
        place: functools.partial(functools.partial, _run_function, steps)
        for place, steps in subgraphs.items()
    }
    compared = _compared(node, graph, makers) if node.op in ASSERTIONS else ()
    return NodeStep(node, operator, functions, compared, is_read)


def _run_function(steps: Steps, options: Options, *operands: Any) -> tuple[Any, ...]:
    """Run a graph that is the argument of an operator, and return its results."""
    names = [declared.name for declared in steps.graph.inputs]
    values = Values(zip(names, operands, strict=True))
    values.irregular = is_among(operands)
    values.is_traced = any(isinstance(operand, Tracer) for operand in operands)
    with doubles_by_default(False):
        steps.run(values, options)
    asserted = [values[name] for node in steps.graph.nodes if node.op in ASSERTIONS for name in uses_of(node)]
    if any(isinstance(x, Tracer) for x in asserted) or any(name.startswith(SIZE_OF) for name in values):
        raise ProgramError(
            "node-failed",
            "a loop or branch asserts a value, or fixed a size, that is unknown under jit. Call the program "
            "outside of jit",
        )
    return tuple(resolve(output, values) for output in steps.graph.outputs)


def _compared(assertion: Node, graph: Graph, makers: dict[str, Node]) -> tuple[str, ...]:
    """Return the names of the values that the condition of an assertion compares."""
    names, compare = (
        list(uses_of(assertion)),
        ("all", "eq", "ge", "gt", "isclose", "le", "lt", "ne", "sym_not"),
    )
    while names and (maker := makers.get(names[0])) and maker.op.split(".")[1] in compare:
        names = [name for name in uses_of(maker) if name not in graph.constants]
    return tuple(names)
