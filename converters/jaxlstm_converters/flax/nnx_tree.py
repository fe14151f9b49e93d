"""The layers of an NNX model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlstm_converters.flax.layer import Layer, Slot, join

_NOT_WEIGHTS = (nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.Perturbation)

# Modules whose only child has no name in torch: the attribute that holds it.
TRANSPARENT = {nnx.Sequential: "layers", nnx.WeightNorm: "layer_instance"}


def nnx_layers(model: nnx.Module) -> list[Layer]:
    """Return every module of a model, parents first. A shared module is returned once for each path."""
    return [
        Layer(module, path, torch_path, _slots(module, path)) for module, path, torch_path in _walk(model)
    ]


def _walk(model: Any) -> Iterator[tuple[nnx.Module, str, str]]:
    """Yield (module, path, path in torch), depth first, in the order of the attributes."""

    def visit(node: Any, path: str, torch_path: str, active: tuple[int, ...]) -> Iterator[Any]:
        if id(node) in active:  # a reference to a parent
            return
        if isinstance(node, nnx.Module):
            yield node, path, torch_path
        hidden = TRANSPARENT.get(type(node))
        for name, child in _children(node):
            if not isinstance(child, nnx.Variable):
                shown = torch_path if name == hidden else join(torch_path, name)
                yield from visit(child, join(path, name), shown, (*active, id(node)))

    yield from visit(model, "", "", ())


def _slots(module: Any, path: str) -> dict[str, Slot]:
    """Return every array below a module by its path below the module."""
    slots: dict[str, Slot] = {}

    def visit(node: Any, name: str, active: tuple[int, ...]) -> None:
        if isinstance(node, nnx.Variable):
            slot = None if isinstance(node, _NOT_WEIGHTS) else _variable_slot(node, join(path, name))
            if slot is not None:
                slots[name] = slot
        elif id(node) not in active:
            if isinstance(node, nnx.WeightNorm) and node.scales:
                for key in node.scales:
                    below = join(name, "scales", *map(str, key))
                    slots[below] = _scale_slot(node.scales, key, join(path, below))
            for key, child in _children(node):
                visit(child, join(name, key), (*active, id(node)))

    visit(module, "", ())
    return slots


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the named members of a module, list, tuple or dict that may hold arrays."""
    if isinstance(node, nnx.List):
        members = enumerate(node)
    elif isinstance(node, nnx.Module):
        members = ((name, value) for name, value in vars(node).items() if not name.startswith("_pytree__"))
    elif isinstance(node, Mapping):
        members = ((name, value) for name, value in node.items() if isinstance(name, str | int))
    elif isinstance(node, list | tuple):
        members = enumerate(node)
    else:
        return
    for name, value in members:
        if isinstance(value, nnx.Module | nnx.Variable | Mapping | list | tuple):
            yield str(name), value


def _variable_slot(variable: nnx.Variable, path: str) -> Slot | None:
    value = variable.get_value()
    if not hasattr(value, "shape") or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    return Slot(
        path,
        tuple(value.shape),
        np.dtype(value.dtype),
        id(variable),
        variable.get_value,
        lambda array: variable.set_value(array),
    )


def _scale_slot(scales: dict[Any, jax.Array], key: Any, path: str) -> Slot:
    """Return the slot of a scale of WeightNorm, which is an array in a dict and not a Variable."""
    value = scales[key]
    return Slot(
        path,
        tuple(value.shape),
        np.dtype(value.dtype),
        (id(scales), key),
        lambda: scales[key],
        lambda array: scales.__setitem__(key, array),
    )
