"""The arguments of torch's layers that no state dict records, from the graph of a program."""

from collections.abc import Iterator
from typing import Any

from jaxlstm.programs.graph import Graph, Node, used_values, values_in
from jaxlstm_converters.checkpoint.errors import CheckpointError
from jaxlstm_converters.checkpoint.formats.pt2 import name_of_constant
from jaxlstm_converters.layer_kinds import KINDS, is_plain, typed_settings
from jaxlstm_converters.pt2._read_pt2 import read_graphs


def layer_settings(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return path -> settings of each layer, of a convolution if no other operator pads its input."""
    padded = {node.module_path for node in graph.nodes if _operator(node) == "pad"}
    found: dict[str, dict[str, Any]] = {}
    for node, recorded in _layers(graph):
        kind, path = recorded["type"], _prefix(node, graph).removesuffix(".") or node.module_path
        settings = typed_settings(recorded)
        if kind.startswith("Conv") and path not in padded:
            settings = {"padding_mode": "zeros", "transposed": "Transpose" in kind}
            for name in ("stride", "padding", "dilation"):
                if (value := recorded.get(name)) is not None:
                    settings[name] = (value,) * int(kind[-2]) if isinstance(value, int) else value
        if settings:
            found.setdefault(path, {}).update(settings)
    return found


def recorded_arguments(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return prefix -> arguments of the layer with its tensors, and its type as "type"."""
    found: dict[str, dict[str, Any]] = {}
    for node, recorded in _layers(graph):
        found.setdefault(_prefix(node, graph), recorded)
    return found


def _layers(graph: Graph) -> Iterator[tuple[Node, dict[str, Any]]]:
    """Yield the calls of layers, with their type and the arguments that are numbers and words."""
    names = {kind.name.format(k=k): kind.settings for kind in KINDS for k in (1, 2, 3)}
    kinds = {name.lower(): name for name in names}
    for node in graph.nodes:
        operator = _operator(node)
        nonlinearity = {"nonlinearity": operator[-4:]} if operator in ("rnn_tanh", "rnn_relu") else {}
        if kind := kinds.get("rnn" if nonlinearity else operator.replace("_", "")):
            values = {name: node.kwargs.get(name, default) for name, default in names[kind].items()}
            plain = {name: value for name, value in values.items() if is_plain(value)}
            yield node, {"type": kind, **plain, **nonlinearity}


def _prefix(node: Node, graph: Graph) -> str:
    """Return the prefix of the tensors of a layer: the path of torch's module, or else of a weight."""
    if node.calls and node.calls[-1].class_name.startswith("torch.nn.modules."):
        return f"{node.module_path}." if node.module_path else ""
    weights = values_in((node.kwargs.get("weight"), node.kwargs.get("params")))
    name = graph.parameters.get(next(weights, ""), "")
    return name[: name.rfind(".") + 1]


def _operator(node: Node) -> str:
    """Return the name of the operator without namespace and overload: "lstm" of jaxlstm.packed_lstm too."""
    return node.op.partition(".")[2].partition(".")[0].removeprefix("packed_")


def read_records(path: str) -> tuple[dict[str, dict[str, Any]], frozenset[str]]:
    """Return the settings and unused tensors of a `.pt2` file; none if its graph cannot be read.

    The settings are by the prefix of their layer. The unused tensors are the constants, and the names of
    parameters and buffers that no operator uses.
    """
    try:
        graphs = read_graphs(path)
    except CheckpointError:
        return {}, frozenset()
    settings, used, names = dict[str, dict[str, Any]](), set[str](), set[str]()
    for program, graph in graphs.items():
        settings |= {path and f"{path}.": row for path, row in layer_settings(graph).items()}
        tensors, constants = {**graph.parameters, **graph.buffers}, graph.constants.values()
        used |= {tensors[value] for value in used_values(graph) & tensors.keys()}
        names.update(tensors.values(), constants, (name_of_constant(name, program) for name in constants))
    return settings, frozenset(names - used)
