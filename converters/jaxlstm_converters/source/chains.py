"""Lists of modules that a call runs one after the other, as ``nnx.Sequential`` does."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxlstm.programs.graph import Node
from jaxlstm_converters.source import trees
from jaxlstm_converters.source.calls import SEQUENTIAL, Invocation
from jaxlstm_converters.source.functions import MethodWriter
from jaxlstm_converters.source.layers import Layers
from jaxlstm_converters.source.method import Context


@dataclass(frozen=True)
class Chains:
    """Tells which calls are chains: each element takes the result of the one before."""

    layers: Layers
    is_class: Callable[[Invocation], bool]
    context: Context
    paths: Mapping[str, str]

    def is_chain(self, call: Invocation) -> bool:
        """Return True if a call passes one value through all elements of a list, one after the other."""
        value, before = call.inputs, -1
        for element in call.body:
            if isinstance(element, Node) or element.inputs != value or len(value) != 1:
                return False
            number = self.number(call, element)
            if number is None or number <= before:
                return False
            before, value = number, element.outputs
            if not self._is_element(element):
                return False
        return bool(call.body) and len(value) == 1 and value == call.outputs

    def number(self, call: Invocation, element: Invocation) -> int | None:
        """Return the number of an element in a list, None if it is not in there."""
        others = (other for other, first in self.paths.items() if first == element.path)
        for path in (element.path, *others):
            parent, _, number = path.rpartition(".")
            if parent == call.path and number.isdecimal():
                return int(number)
        return None

    def _is_element(self, call: Invocation) -> bool:
        """Return True if a call takes and returns one value."""
        if call.path in self.layers:
            return isinstance(self.layers.called(call, trees.name("layer")).results, str)
        if call.class_name == SEQUENTIAL:
            return self.is_chain(call)
        return self.is_class(call) or self.function(call) is not None

    def function(self, call: Invocation) -> ast.expr | None:
        """Return the function that a module without tensors is, or None."""
        if not all(isinstance(item, Node) for item in call.body) or call.class_name == SEQUENTIAL:
            return None
        method = MethodWriter(call, self.context).method()
        match method.parameters, [statement.tree for statement in method.body]:
            case [parameter], [ast.Return(ast.Call(function) as value)] if (
                trees.shown(value) == f"{trees.shown(function)}({parameter.arg})"
            ):
                return function
            # A copy of the model would keep the attributes of the original in the function.
            case [parameter], [ast.Return(ast.expr() as value)] if "self" not in trees.variables(value):
                return ast.Lambda(ast.arguments([], [parameter], None, [], [], None, []), value)
        return None
