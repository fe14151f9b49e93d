"""The plan of a conversion: which tensors of torch belong to which arrays of a model."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from flax import linen

from jaxlstm_converters.flax.layer import FlaxLayer, Shape, Slot, TensorPair, join, pair
from jaxlstm_converters.flax.layer_types import layer_type, require_unstacked
from jaxlstm_converters.flax.names import Names


@dataclass(frozen=True)
class Assignment:
    """Tensors of torch, by name, and the arrays of a model that hold the same numbers.

    Attributes:
      torch: names in torch.
      pair: the row of the table that joins them.
      torch_shapes: the shapes that the tensors of torch must have.
    """

    torch: tuple[str, ...]
    slots: tuple[Slot, ...]
    pair: TensorPair
    layer: FlaxLayer
    torch_shapes: list[Shape]

    @property
    def flax(self) -> str:
        """The path of the first array, and the number of the others, for messages."""
        first = self.slots[0].path if self.slots else ""
        return first if len(self.slots) < 2 else f"{first} and {len(self.slots) - 1} more"


@dataclass
class ConversionPlan:
    """All assignments of a model.

    Attributes:
      assignments: in the order of the layers.
      flax_names: the name in Flax of every tensor, before ``names`` applies.
      failures: one line for each layer that cannot be converted.
    """

    assignments: list[Assignment] = field(default_factory=list)
    flax_names: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def torch_names(self) -> list[str]:
        """The name of every tensor in torch."""
        return [name for assignment in self.assignments for name in assignment.torch]

    def assign(self, layer: FlaxLayer, pairing: TensorPair, names: Names) -> None:
        """Add the assignments of one pairing: one for each name that its layer has in torch."""
        flax = [join(layer.torch_path, name) for name in pairing.torch]
        slots = tuple(layer.slots[name] for name in pairing.flax)
        shapes = pairing.layout.torch_shapes([slot.shape for slot in slots])
        self.flax_names += flax
        options = [names.to_torch(name) for name in flax]
        for name, option in zip(flax, options, strict=True):
            if not option:
                raise ValueError(
                    f"names gives the tensor {name!r} to {names.to_flax(name)!r}, so that this layer has "
                    f"none; add an entry with {layer.path!r} as its value"
                )
        # A tensor with fewer names than another of its pairing has the first of them throughout.
        rows = [
            tuple(name or first[0] for name, first in zip(names_, options, strict=True))
            for names_ in zip_longest(*options)
        ]
        self.assignments += [Assignment(torch, slots, pairing, layer, shapes) for torch in rows or [()]]


def make_plan(
    layers: list[FlaxLayer], names: Names, has: Callable[[str], bool] | None = None
) -> ConversionPlan:
    """Apply the rules to every layer, and the names to every tensor."""
    plan = ConversionPlan()
    claimed: set[str] = set()
    for layer, own_slots in _with_own_slots(layers):
        if has is not None:
            layer = dataclasses.replace(layer, has=_below(layer, names, has))
        rule = layer_type(layer.module).rule
        if not all(slot.path in claimed for slot in layer.slots.values()):
            try:
                require_unstacked(layer)
                for pairing in rule(layer) if rule else ():
                    plan.assign(layer, pairing, names)
                    claimed.update(layer.slots[name].path for name in pairing.flax)
            except (ValueError, KeyError) as error:
                plan.failures.append(_failure(layer, error))
                claimed.update(slot.path for slot in layer.slots.values())
        for name, slot in own_slots.items():
            if slot.path not in claimed:
                try:
                    plan.assign(layer, pair(name, name), names)
                except ValueError as error:
                    plan.failures.append(f"{slot.path}: {error}")
    for name, first in _tied(layers):
        plan.assignments += [
            dataclasses.replace(a, torch=tuple(name if torch == first else torch for torch in a.torch))
            for a in plan.assignments
            if first in a.torch
        ]
    return plan


def _tied(layers: list[FlaxLayer]) -> Iterator[tuple[str, str]]:
    """Yield other names of tensors in torch and the first ones, which the class of a written model has."""
    for layer in layers:
        tied = getattr(type(layer.module), "tied", None)
        for names in tied.items() if isinstance(tied, dict) else ():
            yield join(layer.torch_path, names[0]), join(layer.torch_path, names[1])


def plan_alone(layers: list[FlaxLayer], names: Mapping[str, str] | None) -> ConversionPlan:
    """Return the plan of a model without a source; raise ValueError for names that match no layer."""
    name_map = Names(names, layers)
    plan = make_plan(layers, name_map)
    name_map.require_flax_prefixes(plan.flax_names)
    return plan


def _failure(layer: FlaxLayer, error: ValueError | KeyError) -> str:
    shapes = ", ".join(f"{name} {slot.shape}" for name, slot in layer.slots.items())
    reason = str(error)
    if isinstance(error, KeyError):
        reason = f"has no array {error}"
        if isinstance(layer.module, linen.BatchNorm):
            reason += "; variables must hold every collection that init returns, batch_stats too"
    return f"{layer.path or 'the model'} ({type(layer.module).__name__} with {shapes}): {reason}"


def _with_own_slots(layers: list[FlaxLayer]) -> Iterator[tuple[FlaxLayer, dict[str, Slot]]]:
    """Yield each layer with the arrays that are in it, but in none of its submodules."""
    owner = {slot.path: layer.path for layer in layers for slot in layer.slots.values()}
    for layer in layers:
        yield layer, {name: slot for name, slot in layer.slots.items() if owner[slot.path] == layer.path}


def _below(layer: FlaxLayer, names: Names, has: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda name: any(map(has, names.to_torch(join(layer.torch_path, name))))
