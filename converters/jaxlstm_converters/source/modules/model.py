"""Programs as calls of modules and layers: everything that is known before a line is written."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from jaxlstm.programs.graph import functions_of, used_values, values_in
from jaxlstm_converters.source.graph.calls import (
    SEQUENTIAL,
    Invocation,
    call_tree,
    connect,
    equal_calls,
    is_under,
    nodes_of,
    walk,
)
from jaxlstm_converters.source.graph.conditions import are_met
from jaxlstm_converters.source.graph.programs import ExportedMethods
from jaxlstm_converters.source.graph.sizes import Sizes
from jaxlstm_converters.source.modules.layers import Layers
from jaxlstm_converters.source.spelling.layers import TORCH
from jaxlstm_converters.source.syntax import names
from jaxlstm_converters.source.syntax.trees import leaves


class Model:
    """The programs of a model whose methods are to be written.

    Attributes:
        graph: all graphs as one.
        types: the types of all values, also in functions.
        tensors: name in torch -> value of the parameters, buffers and constants.
        owners: placeholder of a parameter, buffer or constant -> its name in torch.
        sizes: the sizes of the graph.
        exported: id of a call of the outermost module -> the program that it is.
        calls: all calls of modules, each after the calls in it.
        layers: the modules that are layers of Flax or of this library.
        classes: path of a module that is written as a class -> name of its class in torch.
    """

    def __init__(self, programs: ExportedMethods, tensors: Mapping[str, np.ndarray]) -> None:
        """Find the calls and layers of the programs."""
        graph = programs.graph
        self.graph, self.types, self.tensors = graph, programs.types, tensors
        self.owners = {**graph.parameters, **graph.buffers, **graph.constants}
        self.sizes = Sizes(graph, self.types)
        methods = [(call_tree(m.graph, self.sizes, m.name), m) for m in programs.methods]
        # A method comes before the methods that call it.
        methods.sort(key=lambda method: sum(not call.path for call in walk(method[0])))
        self.exported = {id(root): method for root, method in methods}
        self.calls = [call for root, _ in methods for call in walk(root)]
        outputs = [(root, (*m.graph.outputs, *m.graph.mutations.values())) for root, m in methods]
        connect(self.calls, self.sizes, self.owners, [(root, tuple(values_in(o))) for root, o in outputs])
        inner = (call for call in self.calls if id(call) not in self.exported)
        for group in (*equal_calls(inner), *([root] for root, _ in methods)):
            programs.signatures.apply(group)
        self.layers = Layers(graph, self.calls, self.types, self.owners)
        self._move_out_of_layers()
        self.classes = {call.path: call.class_name for call in self.calls if self.is_class(call)}
        self.layers.write_out_defaults(self.classes)

    def _move_out_of_layers(self) -> None:
        """Let the module around a layer hold its constants, for which Flax's layer has no place."""
        for value, name in self.graph.constants.items():
            owner, _, last = name.rpartition(".")
            if owner in self.layers:
                parent, _, layer = owner.rpartition(".")
                moved = names.unique(f"{parent}.{layer}_{last}".lstrip("."), self.tensors)
                self.owners[value] = moved
                self.tensors = {**self.tensors, moved: self.tensors[name]}
        constants = {value: self.owners[value] for value in self.graph.constants}
        self.graph = replace(self.graph, constants=constants)

    def may_run(self, method: Invocation, call: Invocation) -> bool:
        """Return True if the conditions of a method, if it has any, hold for all arguments of a call."""
        exported = self.exported.get(id(method))
        if exported is None:
            return True
        types = [self.types.get(leaf) for p in call.parameters for leaf in leaves(p.value)]
        if len(types) != len(exported.declared.input_types):
            return False
        around = next(other for other in self.exported.values() if call.key.startswith(other.prefix))
        return are_met(exported.declared, types, around.declared)

    def held_tensors(self) -> list[str]:
        """Return the names of the tensors that the modules hold."""
        read, constants = used_values(self.graph), self.graph.constants
        kept = [name for name in self.owners if name in read or name not in constants]
        found = dict.fromkeys([*(self.owners[name] for name in kept), *self.graph.mutations])
        return [name for name in found if not self.is_literal(name) and not self._is_counter(name)]

    def _is_counter(self, name: str) -> bool:
        """Return True for the number of batches that a norm has seen, which Flax does not count."""
        owner, _, last = name.rpartition(".")
        return last == "num_batches_tracked" and (owner in self.layers or owner in self.layers.bases)

    def is_literal(self, name: str) -> bool:
        """Return True for a small constant of forward, which is written as a literal."""
        _, is_inside, last = name.rpartition(".")
        # A module may also hold a tensor that is neither a parameter nor a buffer.
        is_forward = not is_inside or last.startswith("lifted_tensor_")
        return is_forward and name in self.graph.constants.values() and self.tensors[name].size <= 16

    def is_class(self, call: Invocation) -> bool:
        """Return True if a person would write the module of a call as a class."""
        if not call.path:
            return True
        if call.path in self.layers or call.class_name == SEQUENTIAL:
            return False
        has_parts = any(is_under(name, call.path) for name in (*self.owners.values(), *self.layers))
        if not call.class_name.startswith(TORCH):
            # A person writes one or two operators, such as a reshape, in the parent.
            inner = [function for node in nodes_of(call) for function in functions_of(node)]
            return has_parts or bool(inner) or len([*nodes_of(call)]) > 2
        return has_parts and not call.class_name.startswith(f"{TORCH}container.")

    def class_of(self, path: str) -> str:
        """Return the path of the innermost module around a part that is written as a class."""
        while path not in self.classes:
            path = path.rpartition(".")[0]
        return path
