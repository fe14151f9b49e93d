"""`source_text`: a program as the text of a Python file with Flax NNX modules."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from jaxlstm.programs.graph import Graph, TensorType, all_nodes, live_graph, rewrite
from jaxlstm.programs.passes.channels_last import channels_last
from jaxlstm_converters.pt2._read_pt2 import ProgramFile
from jaxlstm_converters.source.calls import SCAN, at_first_paths, first_paths, with_tied_buffers
from jaxlstm_converters.source.classes import written_classes
from jaxlstm_converters.source.closures import Closures
from jaxlstm_converters.source.conditions import checked_axes
from jaxlstm_converters.source.model import Model
from jaxlstm_converters.source.module_tree import module_tree
from jaxlstm_converters.source.padding import padded_graph
from jaxlstm_converters.source.redundant import transposed_once, with_few_stops, without_copies
from jaxlstm_converters.source.steps_to_scan import steps_to_scan
from jaxlstm_converters.source.text import file_text
from jaxlstm_converters.source.training import Training
from jaxlstm_converters.source.user_signatures import UserSignatures

_LENGTH = (
    "loops have the length of the example, and other numbers may depend on it: assertions of sizes must stay"
)


@dataclass(frozen=True)
class WrittenSource:
    """Written source.

    Attributes:
        text: the source.
        class_names: its classes; the last is the model's.
        tensors: name that the model expects -> tensor.
        remarks: one line for each operator without a counterpart in Flax or JAX, for each other name, and
            for the length of loops.
    """

    text: str
    class_names: tuple[str, ...]
    tensors: Mapping[str, np.ndarray]
    remarks: tuple[str, ...]


def source_text(
    graph: Graph,
    tensors: Mapping[str, np.ndarray],
    tied: Mapping[str, str] | None = None,
    training: ProgramFile | str | None = None,
    *,
    comments: bool = False,
) -> WrittenSource:
    """Return the Flax source of a program.

    Args:
        graph: the graph of the program.
        tensors: name in torch -> value of every parameter, buffer and constant.
        tied: another name of a tensor -> its first name, as in ``Program.tied``.
        training: the same model exported in training, or why there is none; None for a program of a file.
        comments: write the lines of the user's code as comments.
    """
    tied = with_tied_buffers(graph, tied or {}, tensors)
    trained = Training(graph, tensors, training, tied)
    graph = trained.graph
    graph = replace(graph, buffers={value: tied.get(name, name) for value, name in graph.buffers.items()})
    paths = first_paths(graph, tied)
    model = _model(at_first_paths(graph, paths), tensors)
    remarks = dict.fromkeys(trained.remarks)
    if any(node.op == SCAN and "steps" in node.kwargs for node in all_nodes(model.graph)):
        remarks[_LENGTH] = None
    parts = module_tree(model, paths, remarks)
    held = {name: parts.written_name(name) for name in model.held_tensors()}
    remarks |= {f"{name} is named {new}": None for name, new in held.items() if name != new}
    others = {name: held[first] for name, first in tied.items() if first in held}
    classes = written_classes(model, parts, remarks)
    classes[-1].tied = {name: first for name, first in others.items() if not parts.has(name)}
    text = file_text(classes, comments=comments)
    arrays = {new: np.asarray(model.tensors[name]) for name, new in held.items()}
    arrays |= {name: arrays[first] for name, first in others.items()}
    return WrittenSource(text, tuple(c.name for c in classes), arrays, tuple(remarks))


def _model(graph: Graph, tensors: Mapping[str, np.ndarray]) -> Model:
    """Return the model of a graph as a person would write it: padded batches, channels last, and loops."""
    owners = {**graph.parameters, **graph.buffers, **graph.constants}
    held = {v: TensorType(tensors[name].dtype, tensors[name].shape) for v, name in owners.items()}
    checked, signatures = checked_axes(graph), UserSignatures(graph)
    graph = rewrite(with_few_stops(graph, held), without_copies, transposed_once, types=held)
    graph = live_graph(channels_last(padded_graph(graph, held), tensors))
    graph = steps_to_scan(rewrite(graph, transposed_once, types=held), held)
    graph = live_graph(rewrite(graph, transposed_once, types=held))
    closures = Closures(graph, held)
    return Model(closures.graph, closures.types, tensors, checked, signatures)
