"""The arguments of torch's layers that no state dict records, from the graph of a program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxlstm.programs.graph import Graph, Node, used_values
from jaxlstm_converters.checkpoint.errors import CheckpointError
from jaxlstm_converters.pt2._read_pt2 import read_pt2

SETTINGS_KEY = "jaxlstm.settings"
"""The key of the settings in the metadata of a safetensors file."""
_BY_ARGUMENT = {
    **{f"aten.{name}_norm": ("eps", "momentum") for name in ("batch", "layer", "rms", "instance")},
    "aten.group_norm": ("eps", "num_groups"),
    **{f"aten.{name}": ("batch_first",) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **{f"jaxlstm.packed_{name}": ("batch_first",) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
}
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


def _of_node(node: Node) -> dict[str, Any]:
    op = node.op.rpartition(".")[0]
    settings = {name: node.kwargs[name] for name in _BY_ARGUMENT.get(op, ()) if name in node.kwargs}
    if op.endswith(("rnn_tanh", "rnn_relu")):
        settings["nonlinearity"] = op[-4:]
    return _plain(settings)


class ProgramRecords(NamedTuple):
    """What a program records about its layers and tensors.

    Attributes:
        settings: the settings of its layers.
        unused: the constants, and the names of parameters and buffers that no operator uses.
    """

    settings: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - never changed
    unused: frozenset[str] = frozenset()


def read_records(path: str) -> ProgramRecords:
    """Return the records of a `.pt2` file; none if its graph cannot be read."""
    try:
        graph = read_pt2(path).graph
    except CheckpointError:
        return ProgramRecords()
    used = used_values(graph)
    tensors = {**graph.parameters, **graph.buffers}
    unused = {name for value, name in tensors.items() if value not in used}
    return ProgramRecords(layer_settings(graph), frozenset(unused | set(graph.constants.values())))


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
