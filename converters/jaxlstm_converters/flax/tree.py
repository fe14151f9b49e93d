"""The layers of an NNX model or of a Linen model.

Linen creates its modules while it runs, so the modules are recorded during an abstract ``init``: Flax reports
each call with its module and path.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict, freeze
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxlstm_converters.flax.layer import FlaxLayer, Slot, join

Path = tuple[str, ...]
_LINEN_STATE = frozenset({"cache", "intermediates", "perturbations", "losses"})
# Modules whose children have no name in torch: the attribute that holds them.
_TRANSPARENT: dict[type, str] = {
    **dict.fromkeys((nnx.Sequential, nn.Sequential), "layers"),
    **dict.fromkeys((nnx.WeightNorm, nn.WeightNorm), "layer_instance"),
}


class Variables:
    """The arrays of a Linen model, which are replaced in a copy of the tree."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.frozen = isinstance(tree, FrozenDict)
        self.flat: dict[Path, Any] = flatten_dict(dict(tree), keep_empty_nodes=True)

    def tree(self) -> Mapping[str, Any]:
        """Return the variables as a tree of the type that was given."""
        tree = unflatten_dict(self.flat)
        return freeze(tree) if self.frozen else tree

    def slots(self) -> dict[Path, Slot]:
        """Return path without the collection -> slot."""
        slots: dict[Path, Slot] = {}
        for key in self.flat:
            if key[0] in _LINEN_STATE or not hasattr(nn.unbox(self.flat[key]), "shape"):
                continue
            if key[1:] in slots:
                raise ValueError(f"variables must not have {'.'.join(key[1:])!r} in two collections")
            slots[key[1:]] = self._slot(key)
        return slots

    def _slot(self, key: Path) -> Slot:
        def write(array: Any) -> None:
            old = self.flat[key]
            self.flat[key] = old.replace_boxed(array) if isinstance(old, nn.meta.AxisMetadata) else array

        return Slot(".".join(key[1:]), key, lambda: nn.unbox(self.flat[key]), write)


def linen_layers(
    module: nn.Module, variables: Variables, inputs: Any, kwargs: Mapping[str, Any], method: Any
) -> list[FlaxLayer]:
    """Return every submodule of a model that the call with ``inputs`` reaches, in the order of the calls."""
    modules = _modules(module, inputs, kwargs, method)
    slots = variables.slots()
    reached = {path[:k] for path in modules for k in range(len(path) + 1)}
    for path in slots:
        if path[:-1] not in reached:
            raise ValueError(
                f"inputs must reach every layer, but the call does not reach {'.'.join(path[:-1])!r}; pass "
                "other inputs or kwargs, or a method that calls all layers"
            )
    return [
        FlaxLayer(m, ".".join(path), ".".join(_torch_path(path, modules)), _slots_below(m, path, slots))
        for path, m in modules.items()
    ]


def _modules(module: nn.Module, inputs: Any, kwargs: Mapping[str, Any], method: Any) -> dict[Path, nn.Module]:
    """Return path -> module of each call in an abstract init."""
    modules: dict[Path, nn.Module] = {}

    def record(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        modules.setdefault(context.module.path, context.module)
        return call(*args, **kwargs)

    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    leaves, structure = jax.tree.flatten((inputs, dict(kwargs)))
    abstract = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]

    def init(arrays: list[Any]) -> Any:
        rest = iter(arrays)
        merged = [next(rest) if is_array else leaf for leaf, is_array in zip(leaves, abstract, strict=True)]
        args, kwargs = jax.tree.unflatten(structure, merged)
        return module.init(jax.random.key(0), *args, method=method, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(init, [leaf for leaf, is_array in zip(leaves, abstract, strict=True) if is_array])
    return modules


def _slots_below(module: nn.Module, path: Path, slots: Mapping[Path, Slot]) -> dict[str, Slot]:
    """Return the slots of a module by dotted name.

    A module that was given to the constructor, such as the cell of an RNN, may have a path elsewhere. Its
    slots are here under the name of the field.
    """
    by_name = {".".join(key[len(path) :]): slot for key, slot in slots.items() if key[: len(path)] == path}
    for field in getattr(type(module), "__dataclass_fields__", {}):
        child = getattr(module, field, None)
        if field != "parent" and isinstance(child, nn.Module) and child.scope is not None:
            for name, slot in _slots_below(child, child.path, slots).items():
                by_name.setdefault(f"{field}.{name}", slot)
    return by_name


def _torch_path(path: Path, modules: Mapping[Path, nn.Module]) -> Path:
    """Return the path in torch: "layers_0", which Linen makes of a list, is "layers", "0"."""
    if not path:
        return ()
    parent = modules.get(path[:-1])
    name = next(_attribute(parent, path[-1]), (path[-1],)) if parent is not None else (path[-1],)
    if any(isinstance(parent, kind) and name[0] == hidden for kind, hidden in _TRANSPARENT.items()):
        name = name[1:]
    return (*_torch_path(path[:-1], modules), *name)


def _attribute(parent: nn.Module, name: str) -> Iterator[Path]:
    """Yield the attribute, and the indices in it, of the child with a name."""

    def visit(value: Any, path: Path) -> Iterator[Path]:
        if isinstance(value, nn.Module):
            if value.name == name:
                yield path
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from visit(item, (*path, str(key)))
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield from visit(item, (*path, str(index)))

    for attribute, value in vars(parent).items():
        if attribute not in ("parent", "scope", "_state"):
            yield from visit(value, (attribute,))


# The length of a module's path, and its slots.
_Open = tuple[int, dict[str, Slot]]
_NNX_STATE = (nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.Perturbation)


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
                scale_path = (*path, "scales", *map(str, key))
                _add(_scale_slot(scales, key, ".".join(scale_path)), scale_path, open_)
        hidden = next((name for kind, name in _TRANSPARENT.items() if isinstance(node, kind)), None)
        for name, child in _children(node):
            child_torch_path = torch_path if name == hidden else join(torch_path, name)
            visit(child, (*path, name), child_torch_path, (*parents, id(node)), open_)

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
    if isinstance(variable, _NNX_STATE):
        return None
    value = variable.get_value()
    if not hasattr(value, "shape") or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    return Slot(path, id(variable), variable.get_value, lambda array: variable.set_value(array))


def _scale_slot(scales: dict[Any, jax.Array], key: Any, path: str) -> Slot:
    """Return the slot of a scale of WeightNorm, which is an array in a dict and not a Variable."""
    return Slot(path, (id(scales), key), lambda: scales[key], lambda array: scales.__setitem__(key, array))
