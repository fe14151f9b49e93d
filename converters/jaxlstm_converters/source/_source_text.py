"""`source_text`: programs as the text of a Python file with Flax NNX modules."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from jaxlstm.programs.graph import Graph, all_nodes
from jaxlstm.programs.program import Program
from jaxlstm_converters.source.classes import written_classes
from jaxlstm_converters.source.graph.branches import with_branches
from jaxlstm_converters.source.graph.calls import SCAN, first_paths, with_tied_buffers
from jaxlstm_converters.source.graph.guarded_results import guarded, with_asserted_values
from jaxlstm_converters.source.graph.longest_sequence import without_longer_steps
from jaxlstm_converters.source.graph.programs import ExportedMethods, with_shared_tensors
from jaxlstm_converters.source.methods.method import Method
from jaxlstm_converters.source.module_tree import module_tree
from jaxlstm_converters.source.modules.model import Model
from jaxlstm_converters.source.text import file_text
from jaxlstm_converters.source.training import Training

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
        methods: name of a program -> the method of the model.
    """

    text: str
    class_names: tuple[str, ...]
    tensors: Mapping[str, np.ndarray]
    remarks: tuple[str, ...]
    methods: Mapping[str, str]


def source_text(programs: Mapping[str, Program], *, comments: bool = False) -> WrittenSource:
    """Return the Flax source of programs.

    Args:
        programs: the methods of one module by name; ``forward`` becomes ``__call__``.
        comments: write the lines of the user's code as comments.
    """
    tensors, tied, remarks = dict[str, np.ndarray](), dict[str, str](), dict[str, None]()
    graphs, paths = dict[str, Graph](), dict[str, str]()
    for name, program in programs.items():
        held = {**program.params, **program.buffers, **program.constants}
        own = {name: np.asarray(tensor) for name, tensor in held.items()}
        tied |= (others := with_tied_buffers(program.graph, program.tied, own))
        in_training = getattr(program.at_sizes, "in_training", None)  # of a live module only
        trained = Training(program.graph, own, in_training() if in_training else None, others)
        remarks |= dict.fromkeys(trained.remarks)
        buffers = {value: others.get(name, name) for value, name in trained.graph.buffers.items()}
        graph, whole = without_longer_steps(program, replace(trained.graph, buffers=buffers))
        graph, asserted = with_asserted_values(graph)
        if not whole:
            graph, asserted = with_branches(graph, asserted, program, own)
        graph = guarded(graph, [*whole, *asserted])
        graph = with_shared_tensors(name, graph, own, tensors)
        graphs[name] = graph
        paths |= first_paths(graph, others)
    model = Model(ExportedMethods(graphs, tensors, paths), tensors)
    if any(node.op == SCAN and "steps" in node.kwargs for node in all_nodes(model.graph)):
        remarks[_LENGTH] = None
    parts = module_tree(model, paths, remarks)
    held = {name: parts.written_name(name) for name in model.held_tensors()}
    remarks |= {f"{name} is named {new}": None for name, new in held.items() if name != new}
    others = {name: held[first] for name, first in tied.items() if first in held}
    methods = dict[int, Method]()
    classes = written_classes(model, parts, methods, remarks)
    classes[-1].tied = {name: first for name, first in others.items() if not parts.has(name)}
    text = file_text(classes, comments=comments)
    arrays = {new: np.asarray(model.tensors[name]) for name, new in held.items()}
    arrays |= {name: arrays[first] for name, first in others.items()}
    of_programs = {exported.name: methods[key].name for key, exported in model.exported.items()}
    return WrittenSource(text, tuple(c.name for c in classes), arrays, tuple(remarks), of_programs)
