"""The programs of a model: methods of one module, which share its tensors."""

import itertools
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxlstm.programs.graph import Graph, TensorType, Tree, live_graph, rewrite
from jaxlstm.programs.passes.channels_last import channels_last
from jaxlstm_converters.checkpoint.formats.pt2 import name_of_constant
from jaxlstm_converters.source.graph.calls import at_first_paths
from jaxlstm_converters.source.graph.closures import Closures
from jaxlstm_converters.source.graph.conditions import Axis, checked_axes
from jaxlstm_converters.source.graph.equal_graphs import content_of
from jaxlstm_converters.source.graph.padding import padded_graph
from jaxlstm_converters.source.graph.redundant import transposed_once, with_few_stops, without_copies
from jaxlstm_converters.source.graph.steps_to_scan import steps_to_scan
from jaxlstm_converters.source.graph.user_signatures import UserSignatures
from jaxlstm_converters.source.syntax import names

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ExportedMethod:
    """A program as a method of the model.

    Attributes:
        name: its name in torch.
        prefix: starts the names of its values in ``graph``.
        graph: its graph as a person would write it: padded batches, channels last, loops, and closures.
        declared: its graph before that, whose inputs have the names of the export.
        checked: axes of its inputs whose size a layer checks itself.
    """

    name: str
    prefix: str
    graph: Graph
    declared: Graph
    checked: Set[Axis]


class ExportedMethods:
    """All programs of a model.

    Attributes:
        methods: the programs.
        types: the types of all values, also in functions.
        signatures: the user's signatures of the calls in them.
    """

    def __init__(self, graphs: Mapping[str, Graph], tensors: Tensors, paths: Mapping[str, str]) -> None:
        """Take the graph of each method; ``paths`` has the other paths of modules, see `first_paths`."""
        numbered = {f"{number}.": graph for number, graph in enumerate(graphs.values())}
        declared = {prefix: at_first_paths(graph, paths, prefix) for prefix, graph in numbered.items()}
        closures, self.methods = Closures(), list[ExportedMethod]()
        for name, (prefix, graph) in zip(graphs, declared.items(), strict=True):
            owners = {**graph.parameters, **graph.buffers, **graph.constants}
            held = {v: TensorType(tensors[name].dtype, tensors[name].shape) for v, name in owners.items()}
            opened = closures.opened(_as_written(graph, held, tensors), held, prefix)
            self.methods.append(ExportedMethod(name, prefix, opened, graph, checked_axes(graph)))
        self.types, self.signatures = closures.types, UserSignatures(declared)

    @property
    def graph(self) -> Graph:
        """All graphs as one, with the results of all methods."""
        graphs, none = [method.graph for method in self.methods], Tree("none")
        kinds = ("parameters", "buffers", "constants")
        held: Any = {kind: {v: n for g in graphs for v, n in vars(g)[kind].items()} for kind in kinds}
        changed = dict.fromkeys(name for graph in graphs for name in graph.mutations)
        return Graph(
            **held,
            inputs=tuple(itertools.chain(*(graph.inputs for graph in graphs))),
            nodes=tuple(itertools.chain(*(graph.nodes for graph in graphs))),
            outputs=tuple(itertools.chain(*(graph.outputs for graph in graphs))),
            in_tree=none,
            out_tree=none,
            mutations={n: tuple(g.mutations[n] for g in graphs if n in g.mutations) for n in changed},
        )


def _as_written(graph: Graph, held: Mapping[str, TensorType], tensors: Tensors) -> Graph:
    """Return a graph with padded batches, channels last, and loops."""
    graph = rewrite(with_few_stops(graph, held), without_copies, transposed_once, types=held)
    graph = live_graph(channels_last(padded_graph(graph, held), tensors))
    graph = steps_to_scan(rewrite(graph, transposed_once, types=held), held)
    return live_graph(rewrite(graph, transposed_once, types=held))


def with_shared_tensors(method: str, graph: Graph, own: Tensors, shared: dict[str, np.ndarray]) -> Graph:
    """Add the tensors of a method to the shared ones, and return its graph with their names.

    Equal tensors that forward makes get one name, and a constant that differs from another one of its name
    gets a new name.

    Raises:
        ValueError: a parameter or buffer differs.
    """
    constants = {name: name for name in graph.constants.values()}
    made = {content_of(array): name for name, array in shared.items() if _is_made(name)}
    for name, array in own.items():
        if name in constants and _is_made(name):
            constants[name] = made.setdefault(content_of(array), name)
        known = shared.setdefault(constants.get(name, name), array)
        if known is array or content_of(known) == content_of(array):
            continue
        if name not in constants:
            raise ValueError(
                f"programs of one class must be methods of one module, but {name} of {method!r} has other "
                "values. Export all methods of the module in the same state"
            )
        made[content_of(array)] = constants[name] = names.unique(
            name_of_constant(name, method), {*shared, *own}
        )
        shared[constants[name]] = array
    return replace(graph, constants={value: constants[name] for value, name in graph.constants.items()})


def _is_made(name: str) -> bool:
    """Return True for the name that torch gives to a tensor that forward makes."""
    return name.rpartition(".")[2].startswith("lifted_tensor_")
