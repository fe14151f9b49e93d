"""The modules of a program that are layers of Flax or of this library."""

import ast
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from jaxlstm.programs.graph import Graph, Node, TensorType, all_nodes, results_of, users_of
from jaxlstm_converters.source.graph.calls import Invocation, is_under, nodes_of
from jaxlstm_converters.source.modules.attention import attention_layers
from jaxlstm_converters.source.modules.call_form import Called, Pattern
from jaxlstm_converters.source.spelling import LayerSpelling, layer_of, spell_call
from jaxlstm_converters.source.spelling.layers import attributes_of, defaults_of
from jaxlstm_converters.source.syntax import trees
from jaxlstm_converters.source.syntax.template import filled, tree_of

# How other operators read the tensors of a layer, in torch's layout.
_READABLE: dict[str, dict[str, str]] = {
    "jaxlstm.nnx.Embed": {"weight": "layer.embedding[...]"},
    "nnx.Embed": {"weight": "layer.embedding[...]"},
    "nnx.Linear": {"weight": "layer.kernel[...].T", "bias": "layer.bias[...]"},
}


class Layers:
    """The layers of a graph by the path of their module.

    Attributes:
        bases: path of a module that calls a layer with its own tensors, beside other operators -> the layer.
    """

    def __init__(
        self,
        graph: Graph,
        calls: Sequence[Invocation],
        types: Mapping[str, TensorType],
        owners: Mapping[str, str],
    ) -> None:
        """Find the layers."""
        self._owners = owners
        self._of_nodes: dict[str, LayerSpelling] = {}
        self._of_paths: dict[str, LayerSpelling] = {}
        self.bases: dict[str, LayerSpelling] = {}
        called = {call.path for node in all_nodes(graph) for call in node.calls}
        self._taken = [*owners.values(), *called]
        self._dropouts: dict[str, LayerSpelling] = {}
        self.producers = {name: node for node in all_nodes(graph) for name in results_of(node)}
        for node in all_nodes(graph):
            if (layer := layer_of(node, types, owners, self.producers)) is not None:
                self._of_nodes[node.name] = self._with_path(layer, node)
        for name, layer in attention_layers(calls, types, owners).items():
            for value in layer.consumed:
                self._of_nodes.pop(value, None)
            self._of_nodes[name] = layer
        self._find(graph, calls)

    def __contains__(self, path: str) -> bool:
        return path in self._of_paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._of_paths)

    def holds(self, tensor: str) -> bool:
        """Return True if a tensor belongs to a layer."""
        owner, _, name = tensor.rpartition(".")
        around = self._of_paths.get(owner.rpartition(".")[0])
        is_inner = around is not None and tensor.removeprefix(f"{around.path}.") in around.tensors
        return is_inner or owner in self or (owner in self.bases and name in self.bases[owner].tensors)

    def made(self, path: str) -> ast.expr:
        """Return the expression that makes a layer, whose literals know the names of their arguments."""
        return _made(self._of_paths[path])

    def made_base(self, path: str) -> ast.stmt:
        """Return the statement that makes the layer from which a module is derived."""
        made = _made(self.bases[path])
        made.func = trees.parsed("super().__init__")
        return ast.Expr(made)

    def called(self, call: Invocation, target: ast.expr) -> Called:
        """Return the call of the layer that ``target`` reaches."""
        main = next(node for node in nodes_of(call) if node.name in self._of_nodes)
        layer = self._of_nodes[main.name]
        expression = spell_call(layer, main, target)
        expression = expression if main.with_gradient else without_gradient(expression)
        results = _pattern(0 if layer.results is None else layer.results, main)
        return Called(expression, results)

    def of_node(self, node: Node) -> LayerSpelling | None:
        """Return the layer that an operator is although its module is not called."""
        layer = self._of_nodes.get(node.name)
        if layer is None or layer.results is not None:
            return None
        return layer if layer.path in (self._of_paths, self.bases)[layer.path == node.module_path] else None

    def tensor(self, path: str, name: str, layer: ast.expr) -> ast.expr:
        """Return the expression of a tensor of the layer at a path, in torch's layout."""
        template = _READABLE[(self._of_paths | self.bases)[path].constructor][name]
        return filled(template, {"layer": layer})

    def write_out_defaults(self, class_names: Mapping[str, str]) -> None:
        """Write out a setting that another module of the same class has, so that they may share a class."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for path, layer in (self._of_paths | self.bases).items():
            parent = path if path in self.bases else path.rpartition(".")[0]
            while parent not in class_names:
                parent = parent.rpartition(".")[0]
            relative = path[len(parent) :]
            groups.setdefault((class_names[parent], relative, layer.constructor), []).append(path)
        for paths in groups.values():
            layers = self.bases if paths[0] in self.bases else self._of_paths
            settings = dict.fromkeys(name for path in paths for name in layers[path].kwargs)
            for path in paths:
                known = {**defaults_of(layers[path].constructor), **layers[path].kwargs}
                layers[path] = replace(layers[path], kwargs={name: known[name] for name in settings})

    def _with_path(self, layer: LayerSpelling, node: Node) -> LayerSpelling:
        """Return a layer that has a path: functional dropout belongs to the module around it."""
        numbers = itertools.count(1)
        while not (layer.path or layer.tensors):
            number = next(numbers)
            path = f"{node.module_path}.dropout{f'_{number}' * (number > 1)}".lstrip(".")
            other = self._dropouts.get(path)
            is_same = other is None or (other.args, other.kwargs) == (layer.args, layer.kwargs)
            if is_same and not any(is_under(name, path) for name in self._taken):
                layer = replace(layer, path=path)
                self._dropouts.setdefault(path, layer)
        return layer

    def _find(self, graph: Graph, calls: Sequence[Invocation]) -> None:
        """Keep the modules of which every use is the same layer."""
        users = {value: {node.name for node in found} for value, found in users_of(graph).items()}
        explained: dict[str, set[str]] = {}
        rejected: set[str] = set()
        found: list[tuple[str, LayerSpelling, set[str]]] = []
        for call in calls:
            layer = self._of_call(call)
            if layer is None:
                rejected.add(call.path)
            else:
                found.append((call.path, layer, {node.name for node in nodes_of(call)}))
        for node in all_nodes(graph):
            layer = self._of_nodes.get(node.name)
            if layer is not None and layer.path != node.module_path and layer.results is None:
                found.append((layer.path, layer, {node.name}))
        for path, layer, nodes in found:
            known = self._of_paths.setdefault(path, layer)
            if trees.shown(_made(known)) != trees.shown(_made(layer)):
                rejected.add(path)
            for value in layer.tensors.values():
                explained.setdefault(value, set()).update(nodes)
        for path, layer in self._of_paths.items():
            others = any(users[value] - explained[value] for value in layer.tensors.values())
            # A parameter or buffer that the user added to the module.
            added = (value for value, name in self._owners.items() if name.rpartition(".")[0] == path)
            is_added = not users.keys().isdisjoint({*added} - {*layer.tensors.values(), *graph.constants})
            if is_added or (others and layer.constructor not in _READABLE):
                rejected.add(path)
        self._of_paths = {path: layer for path, layer in self._of_paths.items() if path not in rejected}
        for path in self._dropouts.keys() & self._of_paths.keys():
            if path.rpartition(".")[0] in self._of_paths:  # The module around is this layer itself.
                del self._of_paths[path]
        self._find_bases(calls, users)

    def _find_bases(self, calls: Sequence[Invocation], users: Mapping[str, set[str]]) -> None:
        """Find the modules that hold no other module, and whose method runs one layer on their tensors."""
        runs: dict[str, set[str]] = {}
        for call in calls:
            own = (node for node in call.body if isinstance(node, Node) and node.module_path == call.path)
            runs.setdefault(call.path, set()).update(node.name for node in own)
        for path, nodes in runs.items():
            layers = {name: layer for name, layer in self._of_nodes.items() if layer.path == path}
            if path in self._of_paths or not layers or not nodes.issuperset(layers):
                continue
            layer, *others = layers.values()
            inner = (name for name in (*self._owners.values(), *runs) if name.startswith(f"{path}."))
            below = {name[len(path) + 1 :] for name in inner} - {*layer.tensors}
            is_read = any(users[value] - {*layers} for value in layer.tensors.values())
            if (
                all(trees.shown(_made(other)) == trees.shown(_made(layer)) for other in others)
                and layer.results is None
                and not layer.operands
                and not any("." in name for name in below)
                and not below & attributes_of(layer.constructor)
                and (not is_read or layer.constructor in _READABLE)
            ):
                self.bases[path] = layer

    def _of_call(self, call: Invocation) -> LayerSpelling | None:
        """Return the layer that a call is, or None."""
        nodes = [item for item in call.body if isinstance(item, Node)]
        found = [node for node in nodes if node.name in self._of_nodes]
        if len(nodes) != len(call.body) or len(found) != 1 or not call.path:
            return None
        (main,) = found
        layer = self._of_nodes[main.name]
        rest = {name for node in nodes if node is not main for name in results_of(node)}
        own = all(is_under(self._owners[value], call.path) for value in layer.tensors.values())
        if not layer.tensors:
            own = not any(is_under(name, call.path) for name in self._owners.values())
        made = rest <= set(layer.consumed) and set(call.outputs) <= set(results_of(main))
        return layer if own and made else None


def without_gradient(tree: ast.expr) -> ast.expr:
    """Return an expression through which no gradient flows."""
    return trees.call(trees.parsed("lax.stop_gradient"), tree)


def _made(layer: LayerSpelling) -> ast.Call:
    settings = {**layer.args, **layer.kwargs}
    values = {name: trees.hinted(tree_of(value), name) for name, value in settings.items()}
    args = [values[name] for name in layer.args]
    kwargs = {name: values[name] for name in layer.kwargs}
    rngs = {"rngs": trees.name("rngs")} if layer.rngs else {}
    return trees.call(trees.parsed(layer.constructor), *args, **kwargs, **rngs)


def _pattern(results: object, node: Node) -> Pattern:
    """Return the names of the results of a layer; ``results`` holds their numbers."""
    if isinstance(results, tuple):
        return tuple(_pattern(part, node) for part in results)
    assert isinstance(results, int)
    output = node.outputs[results] if results < len(node.outputs) else None
    return output if isinstance(output, str) else None
