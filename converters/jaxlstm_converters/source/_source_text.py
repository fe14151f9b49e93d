"""`source_text`: a program as the text of a Python file with Flax NNX modules."""

import ast
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from jaxlstm.programs.acceptance import accept
from jaxlstm.programs.graph.graph import Argument, Graph, Node, TensorType, place_of
from jaxlstm.programs.graph.rewrite import Site, rewrite
from jaxlstm.programs.graph.values import all_nodes, live_graph, used_values, values_in
from jaxlstm.programs.passes.channels_last import channels_last
from jaxlstm_converters.pt2._read_pt2 import ProgramFile
from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.calls import (
    SEQUENTIAL,
    Invocation,
    at_first_paths,
    call_tree,
    connect,
    first_paths,
    is_under,
    nodes_of,
    walk,
    with_tied_buffers,
)
from jaxlstm_converters.source.chains import Chains
from jaxlstm_converters.source.classes import Draft, WrittenClass, drop_defaults, unite
from jaxlstm_converters.source.closures import Closures
from jaxlstm_converters.source.conditions import assertions
from jaxlstm_converters.source.copies import without_copies
from jaxlstm_converters.source.float_dtype import SINGLE, with_dtype
from jaxlstm_converters.source.functions import MethodWriter
from jaxlstm_converters.source.gradients import with_few_stops
from jaxlstm_converters.source.host_arrays import with_updates
from jaxlstm_converters.source.layers import Layers, without_gradient
from jaxlstm_converters.source.listed import listed
from jaxlstm_converters.source.looped import looped_graph
from jaxlstm_converters.source.method import Called, Context, Method, Pattern, Statement, returned
from jaxlstm_converters.source.modules import SELF, Part, access, initialized
from jaxlstm_converters.source.own_sizes import with_own_sizes
from jaxlstm_converters.source.padding import padded_graph
from jaxlstm_converters.source.rolled import rolled
from jaxlstm_converters.source.signature import checked_axes, signature, structure
from jaxlstm_converters.source.sizes import Sizes
from jaxlstm_converters.source.spelling import Spelling, spell, spell_call
from jaxlstm_converters.source.spelling.layers import TORCH, attributes_of, changes_in_training, drop_rate
from jaxlstm_converters.source.spelling.template import filled, tree_of
from jaxlstm_converters.source.text import file_text
from jaxlstm_converters.source.training import Training
from jaxlstm_converters.source.transpositions import transposed_once

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
    writer = _Writer(graph, tensors, first_paths(graph, tied), trained)
    written = {name: writer.written_name(name) for name in writer.held_tensors()}
    others = {name: written[first] for name, first in tied.items() if first in written}
    classes = writer.classes(others)
    text = file_text(classes, comments=comments)
    arrays = {written[name]: np.asarray(writer.tensors[name]) for name in written}
    arrays |= {name: arrays[first] for name, first in others.items()}
    return WrittenSource(text, tuple(c.name for c in classes), arrays, tuple(writer.remarks))


class _Writer:
    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, np.ndarray],
        other_paths: Mapping[str, str],
        trained: Training,
    ) -> None:
        graph = at_first_paths(graph, other_paths)
        self._checked = checked_axes(graph)
        self._owners = {**graph.parameters, **graph.buffers, **graph.constants}
        self._parameters = frozenset(graph.parameters.values())
        self.tensors = tensors
        held = {v: TensorType(tensors[name].dtype, tensors[name].shape) for v, name in self._owners.items()}
        self._graph = graph = _with_loops(graph, tensors, held, trained.rates)
        self._types = held | graph.types
        graph = live_graph(with_own_sizes(graph, Sizes(graph, self._types), self._owners))
        closures = Closures(graph, held)
        self._graph, self._types = graph, _ = closures.graph, closures.types
        self._inner = {node.name for node in all_nodes(graph)} - {node.name for node in graph.nodes}
        self._sizes = Sizes(graph, self._types)
        self._root = call_tree(graph, self._sizes)
        results = values_in((*graph.outputs, *graph.mutations.values()))
        connect(self._root, self._sizes, self._owners, tuple(results))
        self._calls = [call for call in walk(self._root) if not call.is_loop]
        self.remarks = dict.fromkeys(trained.remarks)
        if any(call.is_loop for call in walk(self._root)):
            self.remarks[_LENGTH] = None
        self._layers = Layers(graph, self._calls, self._types, self._owners)
        self._move_out_of_layers()
        self._context = Context(
            self._types, self._sizes, self._spell, self._called, self._tensor, self._owners
        )
        self._methods: dict[int, str] = {}
        self._returned: dict[int, Sequence[ast.expr]] = {}
        self._parts = Part(kind="class")
        self._chains = Chains(self._layers, self._is_class, self._context, other_paths)
        self._is_chain: dict[str, bool] = {}
        self._classes = {call.path: call.class_name for call in self._calls if self._is_class(call)}
        self._layers.write_out_defaults(self._classes)
        self._find_parts()

    def _move_out_of_layers(self) -> None:
        """Let the module around a layer hold its constants, for which Flax's layer has no place."""
        for value, name in self._graph.constants.items():
            owner, _, last = name.rpartition(".")
            if owner in self._layers:
                parent, _, layer = owner.rpartition(".")
                moved = names.unique(f"{parent}.{layer}_{last}".lstrip("."), self.tensors)
                self._owners[value] = moved
                self.tensors = {**self.tensors, moved: self.tensors[name]}
        constants = {value: self._owners[value] for value in self._graph.constants}
        self._graph = replace(self._graph, constants=constants)

    def held_tensors(self) -> list[str]:
        """Return the names of the tensors that the modules hold."""
        read, constants = used_values(self._graph), self._graph.constants
        kept = [name for name in self._owners if name in read or name not in constants]
        found = dict.fromkeys([*(self._owners[name] for name in kept), *self._graph.mutations])
        return [name for name in found if not self._is_literal(name) and not self._is_counter(name)]

    def _is_counter(self, name: str) -> bool:
        """Return True for the number of batches that a norm has seen, which Flax does not count."""
        owner, _, last = name.rpartition(".")
        return last == "num_batches_tracked" and (owner in self._layers or owner in self._layers.bases)

    def written_name(self, name: str) -> str:
        """Return the name of a tensor in the written model: torch's, unless Python or Flax cannot have it."""
        part, found = self._parts, []
        for inner in name.split("."):
            is_key = part.kind == "container" and part is not self._parts
            found.append(inner if part.is_list or is_key else part.attribute(inner))
            part = part.parts.get(inner, Part())
        written = ".".join(found)
        if written != name:
            self.remarks[f"{name} is named {written}"] = None
        return written

    # Kinds of modules: layers of Flax, classes, lists

    def _find_parts(self) -> None:
        """Build the tree of the parts: tensors in torch's order first, then modules without tensors."""
        read = {self._owners.get(value) for value in used_values(self._graph)} | {*self._graph.mutations}
        for name in self.held_tensors():
            if self._layers.holds(name):
                self._parts.at(name.rpartition(".")[0])
            else:
                part = self._parts.at(name)
                part.kind, part.made = "tensor", self._made_tensor(name)
                part.is_used = name in read
        for path in self._layers:
            part = self._parts.at(path)
            part.kind, part.made = "layer", self._layers.made(path)
        for call in reversed(self._calls):
            if self._is_class(call):
                self._parts.at(call.path).kind = "class"
            names_of_parts = self._parts.at(call.path).parts
            if all(map(str.isdecimal, names_of_parts)) and call.path and call.path not in self._layers.bases:
                is_chain = self._chains.is_chain(call)
                self._is_chain[call.path] = is_chain and self._is_chain.get(call.path, True)
        for call in reversed(self._calls):
            if self._is_chain.get(call.path):
                self._find_elements(call)

    def _find_elements(self, call: Invocation) -> None:
        """Give a chain its elements that are not layers."""
        part = self._parts.at(call.path)
        part.is_chain = True
        for element in call.body:
            assert isinstance(element, Invocation)
            is_module = element.path in self._layers or self._is_class(element)
            made = self._parts.at(f"{call.path}.{self._chains.number(call, element)}")
            if made.path != element.path:
                other = access(self._parts, self._class_of(call.path), element.path)
                made.kind, made.made = "function", other
            elif not is_module and element.class_name != SEQUENTIAL:
                made.kind, made.made = "function", self._chains.function(element)
        # A module without an operator, such as Identity, leaves no call.
        for number in range(max(map(int, part.parts))):
            made = self._parts.at(f"{call.path}.{number}")
            if made.made is None and not made.parts and made.kind == "container":
                made.kind, made.made = "function", trees.parsed("lambda x: x")

    def _is_class(self, call: Invocation) -> bool:
        if not call.path:
            return True
        if call.path in self._layers or call.class_name == SEQUENTIAL:
            return False
        has_parts = any(is_under(name, call.path) for name in (*self._owners.values(), *self._layers))
        if not call.class_name.startswith(TORCH):
            # A person writes one or two operators, such as a reshape, in the parent.
            return has_parts or len([*nodes_of(call)]) > 2
        return has_parts and not call.class_name.startswith(f"{TORCH}container.")

    def _class_of(self, path: str) -> str:
        """Return the path of the innermost module around a part that is written as a class."""
        while path not in self._classes:
            path = path.rpartition(".")[0]
        return path

    def _is_literal(self, name: str) -> bool:
        """Return True for a small constant of forward, which is written as a literal."""
        _, is_inside, last = name.rpartition(".")
        # A module may also hold a tensor that is neither a parameter nor a buffer.
        is_forward = not is_inside or last.startswith("lifted_tensor_")
        return is_forward and name in self._graph.constants.values() and self.tensors[name].size <= 16

    def _made_tensor(self, name: str) -> ast.expr:
        array = self.tensors[name]
        template = f"{'nnx.Param' if name in self._parameters else 'Buffer'}(jnp.zeros(shape, dtype))"
        shape = trees.hinted(tree_of(array.shape), f"{name.rpartition('.')[2]}_shape")
        dtype = SINGLE if array.dtype == np.float32 else array.dtype
        return filled(template, {"shape": shape, "dtype": dtype})

    # Calls

    def _spell(self, node: Node, scope: str, expression: Callable[[Argument], ast.expr]) -> Spelling:
        layer = self._layers.of_node(node)
        if layer is not None:
            target = access(self._parts, scope, layer.path)
            is_base = layer.path in self._layers.bases
            called = spell_call(layer, node, target, is_base=is_base)
            if node.name in self._inner and changes_in_training(node):
                what = f"{layer.constructor} in a function of jax.lax, where Flax refuses training"
                self.remarks[f"{place_of(node)}: {what}"] = None
            return Spelling(called if node.with_gradient else without_gradient(called), True)
        spelling = spell(node, self._types, expression)
        if drop_rate(node) or node.op.startswith(("aten.batch_norm.", "aten.rrelu.")):
            self.remarks[f"{place_of(node)}: {node.op} is written without what it does in training"] = None
        if not spelling.idiomatic:
            self.remarks[f"{node.op} is called through jaxlstm.programs"] = None
        return with_dtype(spelling, node, self._types, self._dtype(scope))

    def _dtype(self, scope: str) -> ast.expr:
        """Return the attribute of the class at a path that holds the dtype of new floats."""
        path = self._class_of(scope)
        layer = self._layers.bases.get(path)
        taken = {*self._parts.at(path).parts, *(attributes_of(layer.constructor) if layer else ())}
        return trees.attribute(SELF, names.unique("dtype", taken))

    def _called(self, call: Invocation, scope: str) -> Called | None:
        if call.path in self._layers:
            return self._layers.called(call, access(self._parts, scope, call.path))
        if call.is_loop or not (self._is_class(call) or self._is_chain.get(call.path)):
            return None
        target = access(self._parts, scope, call.path)
        method = self._methods.get(id(call), "__call__")
        function = target if method == "__call__" else trees.attribute(target, method)
        results: Pattern = call.outputs[0] if len(call.outputs) == 1 else call.outputs
        expression: ast.expr = trees.call(function, *map(trees.marked, call.inputs))
        *_, last = nodes_of(call)
        # The layers of a chain are called by the chain.
        if self._is_chain.get(call.path) and not last.with_gradient and last.module_path in self._layers:
            expression = without_gradient(expression)
        return Called(expression, results, self._returned.get(id(call), ()))

    def _tensor(self, name: str, scope: str) -> ast.expr | None:
        """Return the expression of a parameter, buffer or constant."""
        if name not in self._owners:
            return None
        torch_name = self._owners[name]
        if self._is_literal(torch_name):
            return _literal(self.tensors[torch_name], self._dtype(scope))
        if not is_under(torch_name, scope):
            return None
        owner, _, last = torch_name.rpartition(".")
        if self._layers.holds(torch_name):
            return self._layers.tensor(owner, last, access(self._parts, scope, owner))
        return trees.item(access(self._parts, scope, torch_name), ...)

    # Classes

    def classes(self, tied: Mapping[str, str]) -> list[WrittenClass]:
        """Return the classes, each after the classes that it uses; ``tied`` has other names of tensors."""
        by_path: dict[str, list[Invocation]] = {}
        for call in self._calls:
            if self._is_class(call):
                by_path.setdefault(call.path, []).append(call)
        heights = {path: self._parts.at(path).height() for path in by_path}
        found: list[WrittenClass] = []
        taken = {"Buffer", "Any"} | names.RESERVED
        for _, paths in itertools.groupby(sorted(by_path, key=heights.__getitem__), heights.get):
            drafts = [self._draft(path, by_path[path]) for path in paths]
            for written in unite(drafts, taken):
                found.append(written)
                for path in written.arguments:
                    self._parts.at(path).made = written.construct(path)
        drop_defaults(found)
        found[-1].draft.tied = {name: first for name, first in tied.items() if not self._parts.has(name)}
        return found

    def _draft(self, path: str, calls: list[Invocation]) -> Draft:
        part = self._parts.at(path)
        methods: dict[str, Method] = {}
        texts: dict[str, str] = {}
        for call in () if part.is_chain else calls:
            method = self._method(call)
            body = [trees.shown(statement.tree) for statement in method.body]
            text = "\n".join([*(p.arg for p in method.parameters), *body])
            if text not in texts:
                name = "__call__" if not texts else names.unique(f"call_{len(texts) + 1}", part.parts)
                texts[text], methods[name] = name, method
            self._methods[id(call)] = texts[text]
            self._returned[id(call)] = method.results()
        base = "nnx.Sequential" if part.is_chain else "nnx.List" if part.is_list else "nnx.Module"
        init = initialized(part)
        if (layer := self._layers.bases.get(path)) is not None:
            base, init = layer.constructor, [self._layers.made_base(path), *init]
        dtype = self._dtype(path)
        statements = (statement.tree for method in methods.values() for statement in method.body)
        if any(trees.shown(node) == trees.shown(dtype) for tree in statements for node in ast.walk(tree)):
            init = [*init, trees.assign(dtype, SINGLE)]
        class_name = calls[0].class_name.rpartition(".")[2]
        return Draft(path, class_name, base, init, methods)

    def _method(self, call: Invocation) -> Method:
        writer = MethodWriter(call, self._context)
        method = writer.method() if call is not self._root else self._outermost(writer)
        with_updates(method.body, [p.arg for p in (*method.parameters, *method.keywords)])
        lengths = {
            trees.shown(access(self._parts, call.path, part.path)): len(part.parts)
            for part in self._parts.at(call.path).walk()
            if part.is_whole_list and part.path != call.path
        }
        method.body = returned(listed(rolled(method.body, lengths), lengths))
        if call is not self._root:
            # A layer may make the state that needed a size.
            read = {name for statement in method.body for name in trees.variables(statement.tree)}
            given = zip(call.inputs, method.parameters, strict=True)
            call.inputs = tuple(value for value, parameter in given if parameter.arg in read)
            method.parameters = [parameter for parameter in method.parameters if parameter.arg in read]
        return method

    def _outermost(self, writer: MethodWriter) -> Method:
        parameters, bound = signature(self._graph, writer)
        result = partial(structure, self._graph.out_tree)
        buffers = [trees.item(access(self._parts, "", name), ...) for name in self._graph.mutations]
        changed = [*zip(buffers, self._graph.mutations.values(), strict=True)]
        method = writer.outermost(parameters, bound, self._graph.outputs, result, changed)
        method.body[:0] = map(Statement, assertions(self._graph, bound, self._checked))
        return method


def _with_loops(
    graph: Graph,
    tensors: Mapping[str, np.ndarray],
    held: Mapping[str, TensorType],
    rates: Mapping[str, float],
) -> Graph:
    """Return a graph as a person would write it: with functions, padded batches, channels last, and loops.

    ``held`` has the types of parameters, buffers and constants, ``rates`` the dropout of attention by node.
    """
    graph, _ = accept(graph, held)
    graph = with_few_stops(graph, held)

    def with_dropout(node: Node, site: Site) -> Node | None:
        rate = rates.get(node.name)
        return replace(node, kwargs={**node.kwargs, "dropout_p": rate}) if rate else None

    graph = rewrite(graph, with_dropout, without_copies, transposed_once, types=held)
    graph = live_graph(channels_last(padded_graph(graph, held), tensors))
    graph = looped_graph(rewrite(graph, transposed_once, types=held), held)
    return live_graph(rewrite(graph, transposed_once, types=held))


def _literal(array: np.ndarray, single: ast.expr) -> ast.expr:
    """Return a small constant as an array of its dtype. JAX has held 64-bit integers in 32 bits."""
    usual = array.dtype in (np.int64, np.int32, np.bool_)
    template = "jnp.array(values)" if usual else "jnp.array(values, dtype)"
    dtype = single if array.dtype == np.float32 else array.dtype
    return filled(template, {"values": array.tolist(), "dtype": dtype})
