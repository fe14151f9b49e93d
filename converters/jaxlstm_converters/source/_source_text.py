"""`source_text`: a program as the text of a Python file with Flax NNX modules."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxlstm.programs.acceptance import accept
from jaxlstm.programs.channels_last import channels_last
from jaxlstm.programs.graph import Argument, Graph, Input, Node, TensorType, Tree, Value
from jaxlstm_converters.source import names, trees
from jaxlstm_converters.source.calls import (
    Invocation,
    call_tree,
    connect,
    is_under,
    nodes_of,
    results_of,
    uses_of,
    walk,
)
from jaxlstm_converters.source.classes import Draft, WrittenClass, drop_defaults, unite
from jaxlstm_converters.source.functional import functional_graph
from jaxlstm_converters.source.modules import SELF, Part, access, initialized
from jaxlstm_converters.source.rolled import rolled
from jaxlstm_converters.source.sizes import Sizes
from jaxlstm_converters.source.spelling import LayerSpelling, Spelling, layer_of, spell, spell_call
from jaxlstm_converters.source.statements import (
    Called,
    Context,
    Method,
    MethodWriter,
    Pattern,
    Statement,
    marked,
    returned,
    structure,
)
from jaxlstm_converters.source.text import file_text

_SEQUENTIAL = "torch.nn.modules.container.Sequential"
_OF_TORCH = "torch.nn.modules."


class WrittenSource(NamedTuple):
    """Written source.

    Attributes:
        text: the text of the file.
        class_names: the classes, the model's last.
        tensors: name that the model expects -> tensor.
        remarks: what could not be written idiomatically.
    """

    text: str
    class_names: tuple[str, ...]
    tensors: dict[str, np.ndarray]
    remarks: tuple[str, ...]


def source_text(graph: Graph, tensors: Mapping[str, np.ndarray], *, comments: bool = False) -> WrittenSource:
    """Return the Flax source of a program.

    Args:
        graph: the graph of the program.
        tensors: name in torch -> value of every parameter, buffer and constant.
        comments: write the lines of the user's code as comments.

    Raises:
        ProgramError: the program has a part that cannot be written.
        ImportError: flax or ruff is not installed.
    """
    writer = _Writer(graph, tensors)
    classes = writer.classes()
    text = file_text(classes, comments=comments)
    names_ = tuple(written.name for written in classes)
    used = {writer.written_name(name): np.asarray(tensors[name]) for name in writer.used_tensors()}
    return WrittenSource(text, names_, used, tuple(writer.remarks))


class _Writer:
    def __init__(self, graph: Graph, tensors: Mapping[str, np.ndarray]) -> None:
        self._owners = {**graph.parameters, **graph.buffers, **graph.constants}
        self._parameters = frozenset(graph.parameters.values())
        self._tensors = tensors
        types = _types(graph, self._owners, tensors)
        graph = functional_graph(accept(graph), types)
        graph = channels_last(graph, tensors)
        self._graph = graph
        self._types = _types(graph, self._owners, tensors)
        self._sizes = Sizes(graph, self._types)
        self._root = call_tree(graph, self._sizes)
        returned = [*graph.outputs, *graph.mutations.values()]
        results = [value for output in returned for value in _values(output)]
        connect(self._root, self._sizes, self._owners, results)
        self._calls = list(walk(self._root))
        self._users = _users(graph)
        self._layers: dict[str, LayerSpelling] = {}
        self._layer_nodes: dict[str, LayerSpelling] = {}
        self._methods: dict[int, str] = {}
        self._parts = Part(kind="class")
        self._lists: set[str] = set()
        self.remarks: dict[str, None] = {}
        self._find_layers()
        self._write_out_defaults()
        self._find_parts()

    def used_tensors(self) -> list[str]:
        """Return the names of the tensors that the modules hold."""
        read = [self._owners[name] for name in self._owners if name in self._users]
        found = dict.fromkeys([*read, *self._graph.mutations])
        return [name for name in found if not self._is_literal(name)]

    def written_name(self, name: str) -> str:
        """Return the name of a tensor in the written model: torch's, unless Python or Flax cannot have it."""
        part, found = self._parts, []
        for inner in name.split("."):
            is_key = part.kind == "container" and part is not self._parts
            found.append(inner if part.is_list or is_key else names.attribute_name(inner))
            part = part.parts.get(inner, Part())
        written = ".".join(found)
        if written != name:
            self.remarks[f"{name} is named {written}"] = None
        return written

    # Which modules are layers of Flax, classes, lists

    def _find_layers(self) -> None:
        """Find the modules that are layers of Flax: all their calls are the same layer."""
        producers = {name: node for node in self._graph.nodes for name in results_of(node)}
        for node in self._graph.nodes:
            if (layer := layer_of(node, self._types, self._owners, producers)) is not None:
                self._layer_nodes[node.name] = layer
        rejected: set[str] = set()
        users: dict[str, set[str]] = {}
        found: list[tuple[str, LayerSpelling, set[str]]] = []
        for call in self._calls:
            layer = self._layer_of(call)
            if layer is None:
                rejected.add(call.path)
            else:
                found.append((call.path, layer, {node.name for node in nodes_of(call)}))
        for node in self._graph.nodes:
            layer = self._layer_nodes.get(node.name)
            if layer is not None and layer.path != node.module_path and layer.results is None:
                found.append((layer.path, layer, {node.name}))
        for path, layer, nodes in found:
            known = self._layers.setdefault(path, layer)
            if trees.shown(_constructed(known)) != trees.shown(_constructed(layer)):
                rejected.add(path)
            for value in layer.tensors.values():
                users.setdefault(value, set()).update(nodes)
        for path, layer in self._layers.items():
            others = any(self._users[value] - users[value] for value in layer.tensors.values())
            if others and layer.constructor not in _READABLE:
                rejected.add(path)
        self._layers = {path: layer for path, layer in self._layers.items() if path not in rejected}

    def _layer_of(self, call: Invocation) -> LayerSpelling | None:
        """Return the layer of Flax that a call is, or None."""
        if not all(isinstance(item, Node) for item in call.body) or not call.path:
            return None
        found = [node for node in nodes_of(call) if node.name in self._layer_nodes]
        if len(found) != 1:
            return None
        (main,) = found
        layer = self._layer_nodes[main.name]
        rest = {name for node in nodes_of(call) if node is not main for name in results_of(node)}
        own = all(is_under(self._owners[value], call.path) for value in layer.tensors.values())
        made = rest <= set(layer.consumed) and set(call.outputs) <= set(results_of(main))
        return layer if own and made else None

    def _write_out_defaults(self) -> None:
        """Write out a setting that another module of the same class has, so that they may share a class."""
        class_names = {call.path: call.class_name for call in self._calls if self._is_class(call)}
        groups: dict[tuple[str, str, str], list[str]] = {}
        for path, layer in self._layers.items():
            parent = path
            while (parent and parent not in class_names) or parent == path:
                parent = parent.rpartition(".")[0]
            relative = path.removeprefix(f"{parent}.")
            groups.setdefault((class_names[parent], relative, layer.constructor), []).append(path)
        for paths in groups.values():
            settings = dict.fromkeys(name for path in paths for name in self._layers[path].kwargs)
            for path in paths:
                layer = self._layers[path]
                kwargs = {
                    name: layer.kwargs.get(name, DEFAULTS.get(name))
                    for name in settings
                    if name in layer.kwargs or name in DEFAULTS
                }
                self._layers[path] = replace(layer, kwargs=kwargs)

    def _find_parts(self) -> None:
        """Build the tree of the parts: tensors in torch's order first, then modules without tensors."""
        for name in self.used_tensors():
            owner, _, _ = name.rpartition(".")
            if owner in self._layers:
                self._parts.at(owner)
            else:
                part = self._parts.at(name)
                part.kind, part.made = "tensor", self._made_tensor(name)
        for path, layer in self._layers.items():
            part = self._parts.at(path)
            part.kind, part.made = "layer", _constructed(layer)
        for call in reversed(self._calls):
            if self._is_class(call):
                self._parts.at(call.path).kind = "class"
            if call.class_name == _SEQUENTIAL and self._is_chain(call):
                self._find_elements(call)

    def _find_elements(self, call: Invocation) -> None:
        """Give a list its elements that are not layers."""
        for element in call.body:
            assert isinstance(element, Invocation)
            if element.class_name == _SEQUENTIAL:
                self._lists.add(element.path)
                self._parts.at(element.path).kind = "class"
            elif element.path not in self._layers and not self._is_class(element):
                part = self._parts.at(element.path)
                part.kind, part.made = "function", self._function(element)
        # A module without an operator, such as Identity, leaves no call.
        numbers = [
            int(element.path.rpartition(".")[2]) for element in call.body if isinstance(element, Invocation)
        ]
        for number in set(range(max(numbers))) - set(numbers):
            part = self._parts.at(f"{call.path}.{number}".lstrip("."))
            if part.made is None and not part.parts:
                part.kind, part.made = "function", trees.parsed("lambda x: x")

    def _is_class(self, call: Invocation) -> bool:
        if not call.path or call.path in self._lists:
            return True
        if call.path in self._layers or call.class_name == _SEQUENTIAL:
            return False
        if not call.class_name.startswith(_OF_TORCH):
            return True
        return any(is_under(name, call.path) for name in self._owners.values()) and not _is_container(call)

    def _is_literal(self, name: str) -> bool:
        """Return True for a small constant of forward, which stands in the source as a literal."""
        is_constant = name in self._graph.constants.values()
        return is_constant and "." not in name and self._tensors[name].size <= 16

    def _made_tensor(self, name: str) -> ast.expr:
        array = self._tensors[name]
        dtype = array.dtype.name
        text = f"jnp.zeros({array.shape}" + ("" if dtype == "float32" else f", jnp.{dtype}") + ")"
        text = text.replace("jnp.bool", "bool")
        kind = "nnx.Param" if name in self._parameters else "Buffer"
        return ast.parse(f"{kind}({text})", mode="eval").body

    # Calls

    def _context(self) -> Context:
        return Context(
            types=self._types,
            sizes=self._sizes,
            spell=self._spell,
            call=self._called,
            chain=self._chain,
            tensor=self._tensor,
            owners=self._owners,
        )

    def _spell(self, node: Node, expression: Callable[[Argument], ast.expr]) -> Spelling:
        layer = self._layer_nodes.get(node.name)
        if layer and layer.path in self._layers and layer.path != node.module_path and layer.results is None:
            target = access(self._parts, node.module_path, layer.path)
            return Spelling(spell_call(layer, node, target, expression), True)
        spelling = spell(node, self._types, expression)
        if not spelling.idiomatic:
            self.remarks[f"{node.op} is called through jaxlstm.programs"] = None
        return spelling

    def _called(self, call: Invocation, scope: str) -> Called | None:
        if call.path in self._layers:
            main = next(node for node in nodes_of(call) if node.name in self._layer_nodes)
            layer = self._layer_nodes[main.name]
            target = access(self._parts, scope, call.path)
            expression = spell_call(layer, main, target, _marked_argument)
            results = _pattern(0 if layer.results is None else layer.results, main)
            return Called(expression, results, tuple(_marks(expression)))
        if not self._is_class(call):
            return None
        target = access(self._parts, scope, call.path)
        method = self._methods.get(id(call), "__call__")
        function = target if method == "__call__" else ast.Attribute(target, method, ast.Load())
        arguments: list[ast.expr] = [marked(name) for name in call.inputs]
        results: Pattern = call.outputs[0] if len(call.outputs) == 1 else call.outputs
        return Called(ast.Call(function, arguments, []), results, call.inputs)

    def _chain(self, call: Invocation, scope: str) -> ast.expr | None:
        is_chain = call.class_name == _SEQUENTIAL and self._is_chain(call) and not self._is_class(call)
        return access(self._parts, scope, call.path) if is_chain else None

    def _is_chain(self, call: Invocation) -> bool:
        """Return True if a call passes one value through all elements of a list, one after the other."""
        elements = call.body
        if len(elements) < 2 or len(call.outputs) != 1:
            return False
        value, before = call.inputs, -1
        for element in elements:
            if isinstance(element, Node) or element.inputs != value or len(value) != 1:
                return False
            parent, _, number = element.path.rpartition(".")
            if parent != call.path or not number.isdecimal() or int(number) <= before:
                return False
            before, value = int(number), element.outputs
            if not self._is_element(element):
                return False
        return value == call.outputs

    def _is_element(self, call: Invocation) -> bool:
        """Return True if a call is that of a function of one value."""
        if call.path in self._layers:
            called = self._called(call, call.path)
            assert called is not None
            return isinstance(called.results, str)
        if call.class_name == _SEQUENTIAL:
            return self._is_chain(call)
        return self._is_class(call) or self._function(call) is not None

    def _function(self, call: Invocation) -> ast.expr | None:
        """Return the function that a module without tensors is, or None."""
        if not all(isinstance(item, Node) for item in call.body) or call.class_name == _SEQUENTIAL:
            return None
        method = MethodWriter(call, self._context()).method()
        (*others, last) = method.body
        if others or len(method.parameters) != 1 or not isinstance(last.tree, ast.Return):
            return None
        (parameter,) = method.parameters
        value = last.tree.value
        assert value is not None
        if trees.shown(value) == f"{trees.shown(getattr(value, 'func', value))}({parameter.arg})":
            assert isinstance(value, ast.Call)
            return value.func
        arguments = ast.arguments([], [parameter], None, [], [], None, [])
        return ast.Lambda(arguments, value)

    def _tensor(self, name: str, scope: str) -> ast.expr | None:
        """Return the expression of a parameter, buffer or constant."""
        if name not in self._owners:
            return None
        torch_name = self._owners[name]
        if self._is_literal(torch_name):
            return _literal(self._tensors[torch_name])
        if not is_under(torch_name, scope):
            return None
        owner, _, last = torch_name.rpartition(".")
        if owner in self._layers:
            template = _READABLE[self._layers[owner].constructor][last]
            layer = access(self._parts, scope, owner)
            return _LayerInTemplate(layer).visit(ast.parse(template, mode="eval").body)
        reached = access(self._parts, scope, torch_name)
        return ast.Subscript(reached, ast.Constant(...), ast.Load())

    # Classes

    def classes(self) -> list[WrittenClass]:
        """Return the classes, each after those that it uses."""
        by_path: dict[str, list[Invocation]] = {}
        for call in self._calls:
            if self._is_class(call):
                by_path.setdefault(call.path, []).append(call)
        heights: dict[int, list[str]] = {}
        for path in by_path:
            heights.setdefault(self._parts.at(path).height(), []).append(path)
        found: list[WrittenClass] = []
        taken = {"Buffer", "Any"} | names.RESERVED
        for height in sorted(heights):
            drafts = [self._draft(path, by_path[path]) for path in heights[height]]
            for written in unite(drafts, taken):
                found.append(written)
                for path in written.arguments:
                    self._parts.at(path).made = written.construct(path)
        drop_defaults(found)
        return found

    def _draft(self, path: str, calls: list[Invocation]) -> Draft:
        part = self._parts.at(path)
        methods: dict[str, Method] = {}
        texts: dict[str, str] = {}
        for call in calls:
            method = self._method(call)
            text = _method_text(method)
            if text not in texts:
                name = "__call__" if not texts else f"call_{len(texts) + 1}"
                texts[text], methods[name] = name, method
            self._methods[id(call)] = texts[text]
        base = "nnx.List" if part.is_list else "nnx.Module"
        class_name = calls[0].class_name.rpartition(".")[2]
        return Draft(path, class_name, base, initialized(part), methods)

    def _method(self, call: Invocation) -> Method:
        if self._parts.at(call.path).is_list and self._is_chain(call) and call is not self._root:
            return _chain_method()
        writer = MethodWriter(call, self._context())
        method = writer.method() if call is not self._root else self._outermost(writer)
        lengths = {
            trees.shown(access(self._parts, call.path, part.path)): len(part.parts)
            for part in self._parts.at(call.path).walk()
            if part.is_list and part.path != call.path
        }
        method.body = returned(rolled(method.body, lengths))
        return method

    def _outermost(self, writer: MethodWriter) -> Method:
        signature, bound = _signature(self._graph)
        leaves = self._graph.outputs

        def result(argument: Callable[[Argument], ast.expr]) -> ast.expr:
            return structure(self._graph.out_tree, iter([argument(leaf) for leaf in leaves]))

        changed = [
            (trees.item(access(self._parts, "", name), ...), value)
            for name, value in self._graph.mutations.items()
        ]
        return writer.outermost(signature, bound, result, changed)


def _chain_method() -> Method:
    """Return the method of a list whose elements run one after the other."""
    x, layer = trees.name("x"), trees.name("layer")
    loop = trees.loop(layer, SELF, [trees.assign(x, trees.call(layer, x))])
    return Method([ast.arg("x")], [Statement(loop), Statement(ast.Return(x))])


# How other operators read the tensors of a layer, in torch's layout.
_READABLE: dict[str, dict[str, str]] = {
    "nnx.Embed": {"weight": "layer.embedding[...]"},
    "nnx.Linear": {"weight": "layer.kernel[...].T", "bias": "layer.bias[...]"},
}


class _LayerInTemplate(ast.NodeTransformer):
    """Puts a layer into a template."""

    def __init__(self, layer: ast.expr) -> None:
        self._layer = layer

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._layer if node.id == "layer" else node


def _types(
    graph: Graph, owners: Mapping[str, str], tensors: Mapping[str, np.ndarray]
) -> dict[str, TensorType]:
    """Return the types of all values of a graph."""
    found = {value: TensorType(tensors[name].dtype, tensors[name].shape) for value, name in owners.items()}
    found |= {declared.name: declared.type for declared in graph.inputs if declared.type is not None}
    for node in graph.nodes:
        found |= node.types
    return found


def _values(argument: Argument) -> Iterator[str]:
    if isinstance(argument, Value):
        yield argument.name
    elif isinstance(argument, tuple):
        for item in argument:
            yield from _values(item)


def _users(graph: Graph) -> dict[str, set[str]]:
    """Return the names of the nodes that use each value; "" for the results of the graph."""
    users: dict[str, set[str]] = {}
    for node in graph.nodes:
        for name in uses_of(node):
            users.setdefault(name, set()).add(node.name)
    for output in (*graph.outputs, *graph.mutations.values()):
        for name in _values(output):
            users.setdefault(name, set()).add("")
    return users


def _is_container(call: Invocation) -> bool:
    return call.class_name.startswith("torch.nn.modules.container.")


# The defaults of Flax's layers, and of this library's.
DEFAULTS: dict[str, object] = {
    "strides": 1,
    "padding": "SAME",
    "kernel_dilation": 1,
    "feature_group_count": 1,
    "use_bias": True,
    "use_scale": True,
    "momentum": 0.99,
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
}


def _constructed(layer: LayerSpelling) -> ast.expr:
    """Return the expression that makes a layer, whose literals know the names of their parameters."""
    function = trees.parsed(layer.constructor)
    values = {name: _literal_of(value, name) for name, value in {**layer.args, **layer.kwargs}.items()}
    args = [values[name] for name in layer.args]
    kwargs = {name: values[name] for name in layer.kwargs}
    return trees.call(function, *args, **kwargs, **({"rngs": trees.name("rngs")} if layer.rngs else {}))


def _literal_of(value: object, hint: str) -> ast.expr:
    tree = trees.parsed(repr(value))
    tree.hint = hint  # type: ignore[attr-defined]
    return tree


def _marked_argument(argument: Argument) -> ast.expr:
    """Return an argument of a layer in which marked names stand for values."""
    if isinstance(argument, Value):
        return marked(argument.name)
    if isinstance(argument, tuple):
        return ast.Tuple([_marked_argument(item) for item in argument], ast.Load())
    assert not isinstance(argument, Graph)
    return ast.Constant(argument)


def _marks(tree: ast.expr) -> list[str]:
    return [node.id[1:] for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id.startswith("%")]


def _pattern(results: object, node: Node) -> Pattern:
    """Return the names of the results of a layer; ``results`` holds their numbers."""
    if isinstance(results, tuple):
        return tuple(_pattern(part, node) for part in results)
    assert isinstance(results, int)
    output = node.outputs[results] if results < len(node.outputs) else None
    return output if isinstance(output, str) else None


def _literal(array: np.ndarray) -> ast.expr:
    """Return a small constant as an array of its dtype."""
    return ast.parse(f"jnp.array({array.tolist()!r}, jnp.{array.dtype.name})", mode="eval").body


def _method_text(method: Method) -> str:
    body = [trees.shown(statement.tree) for statement in method.body]
    return "\n".join([*(p.arg for p in method.parameters), *body])


def _signature(graph: Graph) -> tuple[Method, dict[str, ast.expr]]:
    """Return the parameters of the model, and the expression of each input."""
    inputs = iter(graph.inputs)
    bound: dict[str, ast.expr] = {}
    taken: set[str] = set()
    method = Method([], [])
    positional, named = graph.in_tree.children
    for child in positional.children:
        leaves = [next(inputs) for _ in range(_leaf_count(child))]
        name = names.valid_name(_common(leaves), taken, default="x")
        taken.add(name)
        method.parameters.append(ast.arg(name))
        _bind(child, iter(leaves), trees.name(name), bound)
    for key, child in zip(named.keys, named.children, strict=True):
        leaves = [next(inputs) for _ in range(_leaf_count(child))]
        name = str(key) if names.is_name(str(key)) else names.valid_name(str(key), taken)
        taken.add(name)
        method.keywords.append(ast.arg(name))
        _bind(child, iter(leaves), trees.name(name), bound)
    return method, bound


def _bind(tree: Tree, inputs: Iterator[Input], expression: ast.expr, bound: dict[str, ast.expr]) -> None:
    if tree.kind == "leaf":
        bound[next(inputs).name] = expression
        return
    keys = tree.keys if tree.kind == "dict" else range(len(tree.children))
    for key, child in zip(keys, tree.children, strict=True):
        _bind(child, inputs, ast.Subscript(expression, ast.Constant(key), ast.Load()), bound)


def _leaf_count(tree: Tree) -> int:
    return 1 if tree.kind == "leaf" else sum(map(_leaf_count, tree.children))


def _common(inputs: list[Input]) -> str:
    """Return the name of an argument: torch numbers its parts."""
    if not inputs:
        return "unused"
    name = inputs[0].name
    return name if len(inputs) == 1 else name.rpartition("_")[0] or name
