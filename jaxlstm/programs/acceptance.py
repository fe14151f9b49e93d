"""The checks of a graph at load time, before any array exists.

Every operator must be registered and called with arguments that it knows, every value must be defined before
it is used, and the model must have been exported in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# Imported to register the operators.
from jaxlstm.programs import operators as operators
from jaxlstm.programs.aliases import Write, mutated_placeholders, place_of, plan_writes, values_in
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Argument, Graph, Node
from jaxlstm.programs.operators.registry import Operator, find_operator, functional_name, is_in_place


@dataclass(frozen=True)
class Plan:
    """An accepted graph: its nodes with their operators and the writes of in-place nodes.

    Attributes:
      graph: the graph.
      operators: the operator of each node.
      writes: index of an in-place node -> its effect on other values.
      mutated: the placeholders that the program changes.
    """

    graph: Graph
    operators: tuple[Operator, ...]
    writes: Mapping[int, Write]
    mutated: frozenset[str]


def accept(graph: Graph) -> Plan:
    """Return the plan of a graph.

    Raises:
      ProgramError: the graph is malformed, calls an unknown operator, is in training mode, or depends on
        whether two tensors share memory.
    """
    _require_defined_values(graph)
    found = _operators_of(graph)
    _require_evaluation_mode(graph)
    for node, operator in zip(graph.nodes, found, strict=True):
        _require_known_arguments(node, operator)
    mutated = mutated_placeholders(graph, found) & _placeholders(graph)
    _require_unshared(graph, mutated)
    return Plan(graph, found, plan_writes(graph, found), frozenset(mutated))


def _require_unshared(graph: Graph, mutated: Iterable[str]) -> None:
    """Raise if the program changes a tensor that shares memory with another."""
    names = {**graph.parameters, **graph.buffers, **graph.constants}
    changed = {names[value] for value in mutated if value in names} | graph.mutations.keys()
    for group in graph.shared:
        for name in sorted(changed & set(group)):
            others = ", ".join(other for other in group if other != name)
            raise ProgramError(
                "unsupported-alias",
                f"the program changes {name}, which shares memory with {others}. Give each its own memory "
                "with .clone() in the model, and export again",
            )


def _placeholders(graph: Graph) -> set[str]:
    return {*graph.parameters, *graph.buffers, *graph.constants, *(i.name for i in graph.inputs)}


def _require_defined_values(graph: Graph) -> None:
    defined = _placeholders(graph)
    for node in graph.nodes:
        _require(values_in((*node.args, *node.kwargs.values())), defined, f"node {node.name}")
        for output in node.outputs:
            defined.update((output,) if isinstance(output, str) else output or ())
    _require(values_in((*graph.outputs, *graph.mutations.values())), defined, "the result of the graph")


def _require(names: Iterable[str], defined: set[str], user: str) -> None:
    for name in names:
        if name not in defined:
            raise ProgramError(
                "malformed-graph", f"{user} uses the value {name}, which is not defined before"
            )


# Operators that the package does not run, and the reason.
_NOT_AN_LSTM = (
    "recurrent networks other than the LSTM are not supported; run_decompositions() of the exported program "
    "replaces them"
)
_REFUSED = dict.fromkeys(
    ("gru", "gru_cell", "rnn_tanh", "rnn_tanh_cell", "rnn_relu", "rnn_relu_cell"), _NOT_AN_LSTM
)
_FIX = (
    "Register an implementation with jaxlstm.programs.register_operator before loading, or export the model "
    "without these operators"
)


def _operators_of(graph: Graph) -> tuple[Operator, ...]:
    found, missing = [], {}
    for node in graph.nodes:
        operator = find_operator(node.op)
        if operator is None:
            missing.setdefault(node.op, []).append(node.module_path or "the outermost module")
        else:
            found.append(operator)
    if not missing:
        return tuple(found)
    lines = []
    for name, paths in sorted(missing.items()):
        reason = _REFUSED.get(name.split(".")[1] if name.startswith("aten.") else name)
        places = ", ".join(dict.fromkeys(paths))
        lines.append(f"  {name} in {places}" + (f" ({reason})" if reason else ""))
    raise ProgramError(
        "unsupported-operator",
        f"the program calls {len(missing)} unsupported operator{'s' * (len(missing) > 1)}:\n"
        + "\n".join(lines)
        + f".\n{_FIX}",
    )


def _is_true(*names: str) -> Callable[[Mapping[str, Argument]], bool]:
    return lambda kwargs: any(bool(kwargs.get(name)) for name in names)


def _drops_elements(kwargs: Mapping[str, Argument]) -> bool:
    return bool(kwargs.get("train")) and bool(kwargs.get("dropout")) and kwargs.get("num_layers") != 1


def _updates_statistics(kwargs: Mapping[str, Argument]) -> bool:
    uses_batch = kwargs.get("training") or kwargs.get("use_input_stats")
    return bool(uses_batch) and kwargs.get("running_mean") is not None


# The arguments that show that a model was exported in training mode.
_TRAINING: dict[str, Callable[[Mapping[str, Argument]], bool]] = {
    **dict.fromkeys(
        ("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout"),
        _is_true("train"),
    ),
    **dict.fromkeys(("aten.batch_norm", "aten.instance_norm"), _updates_statistics),
    "aten.lstm": _drops_elements,
    "aten.scaled_dot_product_attention": _is_true("dropout_p"),
    "aten.rrelu": _is_true("training"),
}


def _require_evaluation_mode(graph: Graph) -> None:
    found = [
        f"{node.op} in {place_of(node)}"
        for node in graph.nodes
        if _TRAINING.get(functional_name(node.op).rpartition(".")[0], lambda kwargs: False)(node.kwargs)
    ]
    if found:
        shown = ", ".join(dict.fromkeys(found))
        raise ProgramError(
            "training-mode",
            f"the model was exported in training mode: {shown}. Its results would depend on random numbers "
            "or on the other rows of the batch. Call model.eval() before torch.export.export",
        )


def _require_known_arguments(node: Node, operator: Operator) -> None:
    kwargs = dict(node.kwargs)
    if is_in_place(node.op):
        kwargs = {operator.first_parameter if name == "self" else name: v for name, v in kwargs.items()}
    if operator.takes_options:
        kwargs["options"] = None
    try:
        operator.signature.bind(*node.args, **operator.known_kwargs(kwargs))
    except TypeError as error:
        raise ProgramError(
            "malformed-graph", f"node {node.name} ({node.op}, {place_of(node)}): {error}"
        ) from None
