"""The layers of an NNX model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlstm_converters.flax.layer import FlaxLayer, Slot, join

Path = tuple[str, ...]
# The length of a module's path, and its slots.
_Open = tuple[int, dict[str, Slot]]
_NOT_WEIGHTS = (nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.Perturbation)

# Modules whose only child has no name in torch: the attribute that holds it.
_TRANSPARENT = {nnx.Sequential: "layers", nnx.WeightNorm: "layer_instance"}


def nnx_layers(model: nnx.Module) -> list[FlaxLayer]:
    """Return every module of a model, parents first. A shared module is returned once for each path."""
    layers: list[FlaxLayer] = []

    def visit(node: Any, path: Path, torch_path: str, parents: tuple[int, ...], open_: list[_Open]) -> None:
        if id(node) in parents:  # a reference to a parent
            return
        if isinstance(node, nnx.Variable):
            _add(_variable_slot(node, ".".join(path)), path, open_)
            return
        if isinstance(node, nnx.Module):
            slots: dict[str, Slot] = {}
            layers.append(FlaxLayer(node, ".".join(path), torch_path, slots))
            open_ = [*open_, (len(path), slots)]
        if isinstance(node, nnx.WeightNorm):
            scales = node.scales or {}
            for key in scales:
                at = (*path, "scales", *map(str, key))
                _add(_scale_slot(scales, key, ".".join(at)), at, open_)
        hidden = next((name for kind, name in _TRANSPARENT.items() if isinstance(node, kind)), None)
        for name, child in _children(node):
            shown = torch_path if name == hidden else join(torch_path, name)
            visit(child, (*path, name), shown, (*parents, id(node)), open_)

    visit(model, (), "", (), [])
    return layers


def _add(slot: Slot | None, path: Path, open_: list[_Open]) -> None:
    """Add a slot to the modules that contain it."""
    if slot is not None:
        for depth, slots in open_:
            slots[".".join(path[depth:])] = slot


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the named members of a module, list, tuple or dict that may hold arrays, in their order."""
    if isinstance(node, list | tuple | nnx.List):
        members = enumerate(node)
    elif isinstance(node, nnx.Pytree):
        members = ((name, value) for name, value in vars(node).items() if not name.startswith("_pytree__"))
    else:
        members = ((name, value) for name, value in node.items() if isinstance(name, str | int))
    for name, value in members:
        if isinstance(value, nnx.Pytree | nnx.Variable | Mapping | list | tuple):
            yield str(name), value


def _variable_slot(variable: nnx.Variable, path: str) -> Slot | None:
    if isinstance(variable, _NOT_WEIGHTS):
        return None
    value = variable.get_value()
    if not hasattr(value, "shape") or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    return Slot(path, id(variable), variable.get_value, lambda array: variable.set_value(array))


def _scale_slot(scales: dict[Any, jax.Array], key: Any, path: str) -> Slot:
    """Return the slot of a scale of WeightNorm, which is an array in a dict and not a Variable."""
    return Slot(path, (id(scales), key), lambda: scales[key], lambda array: scales.__setitem__(key, array))
