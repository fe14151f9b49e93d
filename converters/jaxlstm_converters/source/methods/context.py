"""A program as the methods of one module see it: how they call modules and operators, and read tensors."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from jaxlstm.programs.graph import Node, Structure, TensorType, place_of, results_of, uses_of
from jaxlstm_converters.source.graph.calls import Item, is_under, nodes_of
from jaxlstm_converters.source.methods.method import Method
from jaxlstm_converters.source.modules.call_form import Called, Pattern
from jaxlstm_converters.source.modules.layers import without_gradient
from jaxlstm_converters.source.modules.model import Model
from jaxlstm_converters.source.modules.parts import SELF, Part, access
from jaxlstm_converters.source.spelling import Spelling, spell, spell_call
from jaxlstm_converters.source.spelling.layers import attributes_of, changes_in_training, drop_rate
from jaxlstm_converters.source.syntax import names, trees
from jaxlstm_converters.source.syntax.template import Expression, filled, marked

SINGLE = trees.parsed("jnp.float32")
_MAKERS = ("jnp.zeros", "jnp.ones", "jnp.full", "jnp.array", "jnp.arange", "jnp.linspace", "jnp.eye")


@dataclass(frozen=True)
class Context:
    """The surroundings of the methods of one module.

    Attributes:
        model: the program.
        parts: its tree of modules.
        methods: id of a call in these methods, of a module that is a class -> the method that it calls.
        remarks: the operators and layers without an idiomatic spelling; spelling a node adds to them.
        path: the path of the module.
        modules: path of a module -> the variable that holds it, in a loop over a list of modules.
        in_function: True in a function of ``jax.lax``.
    """

    model: Model
    parts: Part
    methods: Mapping[int, Method]
    remarks: dict[str, None]
    path: str = ""
    modules: Mapping[str, ast.expr] = field(default_factory=dict)
    in_function: bool = False

    def access(self, path: str) -> ast.expr:
        """Return the expression that reaches a part of the module."""
        return access(self.parts, self.path, path, self.modules)

    @property
    def dtype(self) -> ast.expr:
        """The attribute that holds the dtype of new floats, which a layer of Flax has too.

        An operator that makes floats of none has torch's float32, also in JAX's 64-bit mode.
        """
        path = self.model.class_of(self.path)
        layer = self.model.layers.bases.get(path)
        taken = {*self.parts.at(path).parts, *(attributes_of(layer.constructor) if layer else ())}
        return trees.attribute(SELF, names.unique("dtype", taken))

    def _spelled(self, node: Node, expression: Expression) -> ast.expr:
        """Return a node as an expression of marked values."""
        model = self.model
        if (layer := model.layers.of_node(node)) is not None:
            is_base = layer.path in model.layers.bases
            called = spell_call(layer, node, self.access(layer.path), is_base=is_base)
            if changes_in_training(node) and self.in_function:
                what = f"{layer.constructor} in a function of jax.lax, where Flax refuses training"
                self.remarks[f"{place_of(node)}: {what}"] = None
            return called if node.with_gradient else without_gradient(called)
        spelling = spell(node, model.types, expression, model.layers.producers)
        if drop_rate(node) or node.op.startswith(("aten.batch_norm.", "aten.rrelu.")):
            self.remarks[f"{place_of(node)}: {node.op} is written as in evaluation"] = None
        if not spelling.idiomatic:
            self.remarks[f"{node.op} is called through jaxlstm.programs"] = None
        return _with_dtype(spelling, node, model.types, self.dtype)

    def called(self, call: Item, expression: Expression = marked) -> Called | None:
        """Return a node, or the call of a module; None for a module whose items are written in the parent."""
        if isinstance(call, Node):
            results = call.outputs[0] if len(call.outputs) == 1 else call.outputs
            return Called(self._spelled(call, expression), results)
        layers, is_chain = self.model.layers, self.parts.find(call.path).is_chain
        if call.path in layers:
            return layers.called(call, self.access(call.path))
        if not (self.model.is_class(call) or is_chain):
            return None
        method = self.methods.get(id(call)) or Method([], inputs=[p.value for p in call.parameters])
        target = self.access(call.path)
        function = target if method.name == "__call__" else trees.attribute(target, method.name)
        tree: ast.expr = trees.call(function, *map(trees.marked_parts, method.inputs))
        *_, last = nodes_of(call)
        # The layers of a chain are called by the chain.
        if is_chain and not last.with_gradient and last.module_path in layers:
            tree = without_gradient(tree)
        return Called(tree, _without_repeats(call.results, set()), method.results(), call.is_whole)

    def tensor(self, name: str) -> ast.expr | None:
        """Return the expression of a parameter, buffer or constant of the module; None for other values."""
        torch_name = self.model.owners.get(name)
        if torch_name is None:
            return None
        if self.model.is_literal(torch_name):
            return self._literal(self.model.tensors[torch_name])
        if not is_under(torch_name, self.path):
            return None
        owner, _, last = torch_name.rpartition(".")
        if self.model.layers.holds(torch_name):
            return self.model.layers.tensor(owner, last, self.access(owner))
        return trees.item(self.access(torch_name), ...)

    def _literal(self, array: np.ndarray) -> ast.expr:
        """Return a small constant as an array of its dtype. JAX has held 64-bit integers in 32 bits."""
        usual = array.dtype in (np.int64, np.int32, np.bool_)
        template = "jnp.array(values)" if usual else "jnp.array(values, dtype)"
        dtype = self.dtype if array.dtype == np.float32 else array.dtype
        return filled(template, {"values": array.tolist(), "dtype": dtype})


def _without_repeats(results: Structure, taken: set[str]) -> Pattern:
    """Return the pattern of results in which only the first place of a value has its name."""
    if isinstance(results, tuple):
        return tuple(_without_repeats(part, taken) for part in results)
    is_new = results not in taken
    taken.add(results or "")
    return results if is_new else None


def _with_dtype(spelling: Spelling, node: Node, types: Mapping[str, TensorType], dtype: ast.expr) -> ast.expr:
    """Return the spelling of a node in which new floats have a dtype, also in the place of Python's float."""

    def other(tree: ast.AST) -> ast.AST | None:
        if isinstance(tree, ast.Call) and trees.shown(tree.func) == "float":
            return tree  # It may convert a size.
        return dtype if isinstance(tree, ast.Name) and tree.id == "float" else None

    before, tree = trees.shown(spelling.expr), trees.replaced(spelling.expr, other)
    made, given = ([types[n] for n in names if n in types] for names in (results_of(node), uses_of(node)))
    has_number = any(type(node.kwargs.get(key)) is int for key in ("self", "other", "exponent"))
    kinds = [{type_.dtype.kind for type_ in part} for part in (made, given)]
    if has_number and kinds == [{"i"}, {"b"}] and spelling.idiomatic:
        # To JAX, a Boolean and a number are an integer that takes the dtype of the next operand.
        return trees.call(trees.attribute(tree, "astype"), trees.name("int"))
    is_single = any(type_.dtype == np.float32 for type_ in made)
    function = trees.shown(tree.func) if isinstance(tree, ast.Call) else ""
    if not is_single or not spelling.idiomatic or trees.shown(tree) != before:
        return tree
    if isinstance(tree, ast.Call) and function in _MAKERS:
        positional = function in _MAKERS[:4]
        tree.args += [dtype] * positional
        tree.keywords += [ast.keyword("dtype", dtype)] * (not positional)
    elif not any(jnp.issubdtype(type_.dtype, np.inexact) for type_ in given):
        tree = trees.call(trees.attribute(tree, "astype"), dtype)
    return tree
