"""The arguments of torch's layers that no state dict records, from the graph of a program."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxlstm.programs.graph import Graph, Node, used_values, values_in
from jaxlstm_converters.checkpoint.errors import CheckpointError
from jaxlstm_converters.checkpoint.formats.pt2 import name_of_constant
from jaxlstm_converters.pt2._read_pt2 import read_programs

SETTINGS_KEY = "jaxlstm.settings"
"""The key of the settings in the metadata of a safetensors file."""
_CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_RECURRENT = {"batch_first": False, "dropout": 0.0}
_LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"conv{n}d": (f"Conv{n}d", _CONVOLUTION) for n in (1, 2, 3)},
    **{
        f"conv_transpose{n}d": (f"ConvTranspose{n}d", {**_CONVOLUTION, "output_padding": 0})
        for n in (1, 2, 3)
    },
    "batch_norm": ("BatchNorm", {"eps": 1e-5, "momentum": 0.1}),
    "instance_norm": ("InstanceNorm", {"eps": 1e-5, "momentum": 0.1}),
    "layer_norm": ("LayerNorm", {"eps": 1e-5}),
    "group_norm": ("GroupNorm", {"num_groups": None, "eps": 1e-5}),
    "rms_norm": ("RMSNorm", {"eps": None}),
    "embedding": ("Embedding", {"padding_idx": -1}),
    "linear": ("Linear", {}),
    "prelu": ("PReLU", {}),
    "lstm": ("LSTM", _RECURRENT),
    "gru": ("GRU", _RECURRENT),
    "rnn_tanh": ("RNN", _RECURRENT),
    "rnn_relu": ("RNN", _RECURRENT),
}
"""Operator -> the layer that calls it, and the arguments that no state dict records with torch's defaults."""
_KINDS = {"eps": float, "momentum": float, "num_groups": int, "batch_first": bool, "nonlinearity": str}

LayerSettings = Mapping[str, Mapping[str, Any]]
"""Path of a module -> name of an argument of torch's layer -> value."""


def layer_settings(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return the settings of the layers in a graph."""
    found: dict[str, dict[str, Any]] = {}
    for node in graph.nodes:
        if settings := _of_node(node):
            found.setdefault(node.module_path, {}).update(settings)
    return found


def recorded_arguments(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return prefix -> arguments of the layer with its tensors, and its type as "type"."""
    found: dict[str, dict[str, Any]] = {}
    for node in graph.nodes:
        operator = _operator(node)
        if operator in _LAYERS:
            kind, defaults = _LAYERS[operator]
            arguments = {name: node.kwargs.get(name, default) for name, default in defaults.items()}
            plain = {name: value for name, value in arguments.items() if _is_plain(value)}
            found.setdefault(_prefix(node, graph), {"type": kind, **plain, **_of_node(node)})
    return found


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(part is None or isinstance(part, int | float | str) for part in parts)


def _convolutions(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return path -> attributes of each convolution of torch whose input no other operator pads."""
    padded = {node.module_path for node in graph.nodes if _operator(node) == "pad"}
    found: dict[str, dict[str, Any]] = {}
    for prefix, recorded in recorded_arguments(graph).items():
        kind, path = recorded["type"], prefix.removesuffix(".")
        if kind.startswith("Conv") and path not in padded:
            each = {
                name: (value,) * int(kind[-2]) if isinstance(value, int) else value
                for name in ("stride", "padding", "dilation")
                if (value := recorded.get(name)) is not None
            }
            found[path] = {**each, "padding_mode": "zeros", "transposed": "Transpose" in kind}
    return found


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


def _of_node(node: Node) -> dict[str, Any]:
    operator = _operator(node)
    _, names = _LAYERS.get(operator, ("", {}))
    settings = {name: node.kwargs[name] for name in names if name in node.kwargs}
    if operator in ("rnn_tanh", "rnn_relu"):
        settings["nonlinearity"] = operator[-4:]
    return _plain(settings)


class ProgramRecords(NamedTuple):
    """The facts that a program records about its layers and tensors.

    Attributes:
        settings: the settings of its layers.
        unused: the constants, and the names of parameters and buffers that no operator uses.
    """

    settings: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - never changed
    unused: frozenset[str] = frozenset()


def read_records(path: str) -> ProgramRecords:
    """Return the records of a `.pt2` file; none if its graph cannot be read."""
    try:
        files = read_programs(path).items()
    except CheckpointError:
        return ProgramRecords()
    settings, used, names = dict[str, dict[str, Any]](), set[str](), set[str]()
    for program, (graph, *_) in files:
        settings |= {**layer_settings(graph), **_convolutions(graph)}
        tensors, constants = {**graph.parameters, **graph.buffers}, graph.constants.values()
        used |= {tensors[value] for value in used_values(graph) & tensors.keys()}
        names.update(tensors.values(), constants, (name_of_constant(name, program) for name in constants))
    return ProgramRecords(settings, frozenset(names - used))


def settings_text(settings: LayerSettings) -> str:
    """Return the text of settings in a file."""
    return json.dumps(settings, separators=(",", ":"), sort_keys=True)


def read_settings(text: str) -> dict[str, dict[str, Any]]:
    """Return the settings in a text of a file; none if it is not such a text."""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(settings, dict) or not all(isinstance(row, dict) for row in settings.values()):
        return {}
    return {path: _plain(row) for path, row in settings.items()}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that have the type of their argument. torch's None means its default."""
    return {name: value for name, value in settings.items() if type(value) is _KINDS.get(name)}
