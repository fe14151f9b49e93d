"""The layers of a Linen model.

Linen creates its modules while it runs, so the modules are recorded during an abstract ``init``: Flax reports
each call with its module and path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax.core import FrozenDict, freeze
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxlstm_converters.flax.layer import FlaxLayer, Slot

Path = tuple[str, ...]
_NOT_WEIGHTS = frozenset({"cache", "intermediates", "perturbations", "losses"})
# Modules whose children are unnamed in torch: the attribute that holds them.
_TRANSPARENT: dict[type, str] = {nn.Sequential: "layers", nn.WeightNorm: "layer_instance"}


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
            value = nn.unbox(self.flat[key])
            if key[0] in _NOT_WEIGHTS or not hasattr(value, "shape"):
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
    """Return every submodule of a model that the call with ``inputs`` reaches, in the order of the calls.

    Raises:
      ValueError: the call does not reach the module of a variable.
    """
    found = _modules(module, inputs, kwargs, method)
    slots = variables.slots()
    reached = {path[:k] for path in found for k in range(len(path) + 1)}
    for path in slots:
        if path[:-1] not in reached:
            raise ValueError(
                f"inputs must reach every layer, but the call does not reach {'.'.join(path[:-1])!r}; pass "
                "other inputs or kwargs, or a method that calls all layers"
            )
    return [
        FlaxLayer(own, ".".join(path), ".".join(_torch_path(path, found)), _slots_below(own, path, slots))
        for path, own in found.items()
    ]


def _modules(module: nn.Module, inputs: Any, kwargs: Mapping[str, Any], method: Any) -> dict[Path, nn.Module]:
    """Return path -> module of each call in an abstract init."""
    found: dict[Path, nn.Module] = {}

    def record(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        found.setdefault(context.module.path, context.module)
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
    return found


def _slots_below(module: nn.Module, path: Path, slots: Mapping[Path, Slot]) -> dict[str, Slot]:
    """Return the slots of a module by dotted name.

    A module that was given to the constructor, such as the cell of an RNN, may have a path elsewhere. Its
    slots are here under the name of the field.
    """
    below = {".".join(key[len(path) :]): slot for key, slot in slots.items() if key[: len(path)] == path}
    for field in getattr(type(module), "__dataclass_fields__", {}):
        child = getattr(module, field, None)
        if field != "parent" and isinstance(child, nn.Module) and child.scope is not None:
            for name, slot in _slots_below(child, child.path, slots).items():
                below.setdefault(f"{field}.{name}", slot)
    return below


def _torch_path(path: Path, found: Mapping[Path, nn.Module]) -> Path:
    """Return the path in torch: "layers_0", which Linen makes of a list, is "layers", "0"."""
    if not path:
        return ()
    parent = found.get(path[:-1])
    name = next(_attribute(parent, path[-1]), (path[-1],)) if parent is not None else (path[-1],)
    if any(isinstance(parent, kind) and name[0] == hidden for kind, hidden in _TRANSPARENT.items()):
        name = name[1:]
    return (*_torch_path(path[:-1], found), *name)


def _attribute(parent: nn.Module, name: str) -> Iterator[Path]:
    """Yield the attribute, and the indices in it, of the child with a name."""

    def visit(value: Any, at: Path) -> Iterator[Path]:
        if isinstance(value, nn.Module):
            if value.name == name:
                yield at
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from visit(item, (*at, str(key)))
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield from visit(item, (*at, str(index)))

    for attribute, value in vars(parent).items():
        if attribute not in ("parent", "scope", "_state"):
            yield from visit(value, (attribute,))
