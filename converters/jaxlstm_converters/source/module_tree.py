"""The tree of the modules of a program: tensors, layers, classes, lists, and chains of modules."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from jaxlstm.programs.graph import Node, used_values
from jaxlstm_converters.source.graph.calls import SEQUENTIAL, Invocation
from jaxlstm_converters.source.methods.context import SINGLE, Context
from jaxlstm_converters.source.methods.functions import MethodWriter
from jaxlstm_converters.source.modules.model import Model
from jaxlstm_converters.source.modules.parts import Part, access
from jaxlstm_converters.source.syntax import trees
from jaxlstm_converters.source.syntax.template import filled, tree_of


def module_tree(model: Model, paths: Mapping[str, str], remarks: dict[str, None]) -> Part:
    """Return the tree of a program: tensors in torch's order first, then modules without tensors.

    ``paths`` has the other paths of modules, see `first_paths`. Functions add their remarks to ``remarks``.
    """
    root, layers = Part(kind="class"), model.layers
    read = {model.owners.get(value) for value in used_values(model.graph)} | {*model.graph.mutations}
    for name in model.held_tensors():
        if layers.holds(name):
            root.at(name.rpartition(".")[0])
        else:
            part = root.at(name)
            part.kind, part.made, part.is_used = "tensor", _made_tensor(model, name), name in read
    for path in layers:
        part = root.at(path)
        part.kind, part.made = "layer", layers.made(path)
    chains = _Chains(model, Context(model, Part(), {}, remarks), paths)
    lists: dict[str, list[Invocation]] = {}
    for call in reversed(model.calls):
        if model.is_class(call):
            root.at(call.path).kind = "class"
        is_list = all(map(str.isdecimal, root.at(call.path).parts))
        if is_list and call.path and call.path not in layers.bases:
            lists.setdefault(call.path, []).append(call)
    for calls in lists.values():
        if all(map(chains.is_chain, calls)):
            for call in calls:
                chains.add_elements(root, call)
    return root


def _made_tensor(model: Model, name: str) -> ast.expr:
    array = model.tensors[name]
    is_parameter = name in model.graph.parameters.values()
    template = f"{'nnx.Param' if is_parameter else 'Buffer'}(jnp.zeros(shape, dtype))"
    shape = trees.hinted(tree_of(array.shape), f"{name.rpartition('.')[2]}_shape")
    dtype = SINGLE if array.dtype == np.float32 else array.dtype
    return filled(template, {"shape": shape, "dtype": dtype})


@dataclass(frozen=True)
class _Chains:
    """Lists of modules that a call runs one after the other, as ``nnx.Sequential`` does."""

    model: Model
    context: Context
    paths: Mapping[str, str]

    def is_chain(self, call: Invocation) -> bool:
        """Return True if a call passes one value through all elements of a list, one after the other."""
        value, before = call.inputs, -1
        for element in call.body:
            if isinstance(element, Node) or element.method or element.inputs != value or len(value) != 1:
                return False
            number = self._number(call, element)
            if number is None or number <= before:
                return False
            before, value = number, element.outputs
            if not self._is_element(element):
                return False
        return bool(call.body) and len(value) == 1 and value == call.outputs

    def _number(self, call: Invocation, element: Invocation) -> int | None:
        """Return the number of an element in a list, None if it is not in there."""
        others = (other for other, first in self.paths.items() if first == element.path)
        for path in (element.path, *others):
            parent, _, number = path.rpartition(".")
            if parent == call.path and number.isdecimal():
                return int(number)
        return None

    def _is_element(self, call: Invocation) -> bool:
        """Return True if a call takes and returns one value."""
        layers = self.model.layers
        if call.path in layers:
            called = layers.called(call, trees.name("layer"))
            texts = [f"layer({trees.MARK}{name})" for name in call.inputs]
            # The chain passes its input on as it is.
            is_plain = trees.shown(called.expression) in (*texts, *map("lax.stop_gradient({})".format, texts))
            return is_plain and isinstance(called.results, str)
        if call.class_name == SEQUENTIAL:
            return self.is_chain(call)
        return self.model.is_class(call) or self._function(call) is not None

    def _function(self, call: Invocation) -> ast.expr | None:
        """Return the function that a module without tensors is, or None."""
        if not all(isinstance(item, Node) for item in call.body) or call.class_name == SEQUENTIAL:
            return None
        method = MethodWriter(call, replace(self.context, path=call.path)).method()
        match method.parameters, [statement.tree for statement in method.body]:
            case [parameter], [ast.Return(ast.Call(function) as value)] if (
                trees.shown(value) == f"{trees.shown(function)}({parameter.arg})"
            ):
                return function
            # A copy of the model would keep the attributes of the original in the function.
            case [parameter], [ast.Return(ast.expr() as value)] if "self" not in trees.variables(value):
                return ast.Lambda(ast.arguments([], [parameter], None, [], [], None, []), value)
        return None

    def add_elements(self, root: Part, call: Invocation) -> None:
        """Give a chain its elements that are not layers."""
        part = root.at(call.path)
        part.is_chain = True
        for element in call.body:
            assert isinstance(element, Invocation)
            is_module = element.path in self.model.layers or self.model.is_class(element)
            made = root.at(f"{call.path}.{self._number(call, element)}")
            if made.path != element.path:
                other = access(root, self.model.class_of(call.path), element.path)
                made.kind, made.made = "function", other
            elif not is_module and element.class_name != SEQUENTIAL:
                made.kind, made.made = "function", self._function(element)
        # A module without an operator, such as Identity, leaves no call.
        for number in range(max(map(int, part.parts))):
            made = root.at(f"{call.path}.{number}")
            if made.made is None and not made.parts and made.kind == "container":
                made.kind, made.made = "function", trees.parsed("lambda x: x")
