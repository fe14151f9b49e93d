"""The spelling of nodes, run beside the registered operators."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jaxlstm
from jaxlstm.programs.graph import Graph, Node, TensorType, Value
from jaxlstm.programs.operators.registry import Options, find_operator
from jaxlstm.programs.program import Program
from jaxlstm_converters.porting_warning import PortingWarning
from jaxlstm_converters.source.spelling import LayerSpelling, layer_of, spell, spell_call
from testing.graphs import program_of_function, to_numpy
from testing.op_samples import require_close

MODULES = {"jnp": jnp, "jax": jax, "lax": jax.lax, "nnx": nnx, "jaxlstm": jaxlstm}


def name_of(argument: Any) -> ast.expr:
    """Return the tree of a value: its name."""
    assert isinstance(argument, Value), argument
    return ast.Name(argument.name, ast.Load())


def types_of(graph: Graph, arrays: Mapping[str, Any]) -> dict[str, TensorType]:
    """Return the types of all tensors of a graph by name of value, those of ``arrays`` included."""
    types = {name: TensorType(np.dtype(a.dtype), tuple(a.shape)) for name, a in arrays.items()}
    types |= {i.name: i.type for i in graph.inputs if i.type is not None}
    for node in graph.nodes:
        types |= node.types
    return types


class SpelledNode:
    """A node with its operator and its spelling, as functions of the values that it takes."""

    def __init__(self, node: Node, types: Mapping[str, TensorType], values: Mapping[str, Any]) -> None:
        self.node, self.types, self.values = node, types, values
        self.spelling = spell(node, types, name_of)
        self.text = ast.unparse(self.spelling.expr)
        self.names = sorted({leaf.name for leaf in _leaves(node) if isinstance(leaf, Value)})

    def operator(self, *arrays: Any) -> Any:
        """Run the registered operator."""
        given = dict(zip(self.names, arrays, strict=True))
        operator = find_operator(self.node.op)
        assert operator is not None
        kwargs = operator.arguments({key: _resolved(value, given) for key, value in self.node.kwargs.items()})
        options = {"options": Options()} if operator.takes_options else {}
        return operator.function(*(_resolved(value, given) for value in self.node.args), **kwargs, **options)

    def spelled(self, *arrays: Any) -> Any:
        """Run the printed expression."""
        return eval(self.text, {**MODULES, **dict(zip(self.names, arrays, strict=True))})

    def results(self, run: Callable[..., Any], *arrays: Any) -> list[Any]:
        """Return the results that the graph uses."""
        found = run(*arrays)
        outputs = self.node.outputs
        if not outputs:
            return []
        if len(outputs) == 1:
            return list(found) if isinstance(outputs[0], tuple) else [found]
        return [result for result, output in zip(found, outputs, strict=True) if output is not None]

    def require_equal(self, *, gradients: bool) -> None:
        """Assert equal results, and equal gradients of all arrays."""
        require_same(
            partial(self.results, self.spelled),
            partial(self.results, self.operator),
            [self.values[name] for name in self.names],
            self.names if gradients else (),
            self.names,
        )


class SpelledLayer:
    """A node with the layer that computes it."""

    def __init__(self, spelled: SpelledNode, layer: LayerSpelling) -> None:
        self.spelled, self.layer = spelled, layer
        receiver = ast.Name("layer", ast.Load())
        self.text = ast.unparse(spell_call(layer, spelled.node, receiver, name_of))

    def module(self) -> Any:
        """Return the layer in evaluation mode, filled by ``load_state_dict`` without names."""
        layer = self.layer
        rngs = {"rngs": nnx.Rngs(0)} if layer.rngs else {}
        module = eval(layer.constructor, MODULES)(*layer.args.values(), **layer.kwargs, **rngs)
        module.eval()
        if layer.tensors:
            values = self.spelled.values
            tensors = {name: np.asarray(values[value]) for name, value in layer.tensors.items()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PortingWarning)
                jaxlstm.load_state_dict(module, tensors)
        return module

    def require_equal(self, *, gradients: bool) -> None:
        """Assert equal results, and equal gradients of the inputs."""
        names, values = self.spelled.names, self.spelled.values
        graph, state = nnx.split(self.module())

        def ours(*arrays: Any) -> list[Any]:
            given = {"layer": nnx.merge(graph, state), **dict(zip(names, arrays, strict=True))}
            return jax.tree.leaves(eval(self.text, {**MODULES, **given}))

        weights = {*self.layer.tensors.values(), *self.layer.consumed}
        require_same(
            ours,
            lambda *arrays: jax.tree.leaves(self.spelled.operator(*arrays)),
            [values[name] for name in names],
            [name for name in names if name not in weights] if gradients else (),
            names,
        )


def require_same(
    ours: Callable[..., list[Any]],
    theirs: Callable[..., list[Any]],
    arrays: Sequence[Any],
    differentiated: Sequence[str],
    names: Sequence[str],
) -> None:
    """Assert that two functions give equal results of equal dtypes, and equal gradients.

    Args:
      ours, theirs: the functions of arrays.
      arrays: their arguments.
      differentiated: the names of the arguments whose gradients are compared, if they are floats.
      names: the names of all arguments.
    """
    for actual, expected in zip(ours(*arrays), theirs(*arrays), strict=True):
        if isinstance(expected, jax.Array):
            actual = jnp.asarray(actual)
            assert actual.dtype == expected.dtype, (actual.dtype, expected.dtype)
            require_close(actual, np.asarray(expected))
        else:
            assert actual == expected
    inputs = {
        name: a for name, a in zip(names, arrays, strict=True) if _is_float(a) and name in differentiated
    }

    def of(run: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        given = dict(zip(names, arrays, strict=True))
        return lambda inputs: [result for result in run(*(given | inputs).values()) if _is_float(result)]

    if inputs:
        results, pull = jax.vjp(of(theirs), inputs)
        random = np.random.default_rng(0)
        seeds = [jnp.asarray(random.standard_normal(r.shape), r.dtype) for r in results]
        (expected,), (actual,) = pull(seeds), jax.vjp(of(ours), inputs)[1](seeds)
        for name in inputs:
            require_close(actual[name], np.asarray(expected[name]))


def spelled_layers(
    program: Program, inputs: Mapping[str, Any]
) -> Iterator[tuple[SpelledNode, SpelledLayer | None]]:
    """Yield the nodes of a program with their layers."""
    graph = program.graph
    tensors = {**graph.parameters, **graph.buffers}
    producers = {name: node for node in graph.nodes for name in node.outputs if isinstance(name, str)}
    for spelled in spelled_nodes(program, inputs):
        layer = layer_of(spelled.node, spelled.types, tensors, producers)
        yield spelled, None if layer is None else SpelledLayer(spelled, layer)


def spelled_nodes(program: Program, inputs: Mapping[str, Any]) -> Iterator[SpelledNode]:
    """Yield the nodes of a program of one module, each with the values that it takes."""
    graph = program.graph
    tensors = {**program.params, **program.buffers, **program.constants}
    names = {**graph.parameters, **graph.buffers, **graph.constants}
    values = {value: jnp.array(tensors[name]) for value, name in names.items()}
    values |= {name: jnp.array(array) for name, array in inputs.items()}
    types = types_of(graph, values)
    for node in graph.nodes:
        spelled = SpelledNode(node, types, values)
        yield spelled
        arrays = [values[name] for name in spelled.names]
        _store(node, spelled.operator(*arrays), values)


def traced_nodes(function: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Iterator[SpelledNode]:
    """Yield the nodes of a function of tensors."""
    copies = [tensor.detach().clone() for tensor in tensors]
    program = program_of_function(function, copies)
    inputs = {i.name: to_numpy(t) for i, t in zip(program.graph.inputs, tensors, strict=True)}
    return spelled_nodes(program, inputs)


def _store(node: Node, result: Any, values: dict[str, Any]) -> None:
    results = (result,) if len(node.outputs) == 1 else result or ()
    for output, value in zip(node.outputs, results, strict=False):
        if isinstance(output, str):
            values[output] = value
        elif output is not None:
            values.update(zip(output, value, strict=True))


def _leaves(node: Node) -> list[Any]:
    return jax.tree.leaves([*node.args, *node.kwargs.values()], is_leaf=lambda x: isinstance(x, Value))


def _resolved(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, tuple):
        return tuple(_resolved(item, values) for item in argument)
    return values[argument.name] if isinstance(argument, Value) else argument


def _is_float(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
