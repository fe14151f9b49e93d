"""Hints for a state dict that does not fit: likely causes, and a proposal for ``names``."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from jaxlstm_converters.flax.located import Located
from jaxlstm_converters.flax.plan import Assignment, Plan
from jaxlstm_converters.flax.result import LoadResult

Shape = tuple[int, ...]


def shape_hint(shape: Shape, expected: Shape) -> str:
    """Return how a tensor of one shape could become one of another: transposed or reshaped."""
    if len(shape) == len(expected) <= 5:
        for axes in itertools.permutations(range(len(shape))):
            if tuple(shape[axis] for axis in axes) == expected:
                return f"transposed by {axes} it would fit"
    if math.prod(shape) == math.prod(expected):
        return "reshaped it would fit"
    return ""


def missing_hint(name: str, assignment: Assignment, located: Located) -> str:
    """Return a hint for a layer of torch that exists, but lacks one of the tensors."""
    prefix, _, last = name.rpartition(".")
    siblings = {other.rpartition(".")[2] for other in located.tensors if other.rpartition(".")[0] == prefix}
    if last == "bias" and "weight" in siblings and "bias" not in siblings:
        return "the torch layer has no bias: create the layer with use_bias=False"
    if last in ("running_mean", "running_var") and siblings:
        return "the torch layer has track_running_stats=False, so it keeps no statistics"
    return ""


def tied_hint(name: str, tensor: Any, others: Mapping[str, Any]) -> str:
    """Return a hint for an unexpected tensor that shares its memory with one that the model has."""
    place = _memory(tensor)
    twin = next((other for other, own in others.items() if place and _memory(own) == place), None)
    if twin is None:
        return ""
    layers = [full.rpartition(".")[0] for full in (name, twin)]
    return (
        f"it is the same tensor as {twin!r} (tied weights): "
        f"names={{{layers[0]!r}: {layers[1]!r}, {layers[1]!r}: {layers[1]!r}}} accepts both"
    )


def _memory(tensor: Any) -> object:
    """Return an identity of the memory of a torch tensor or of a tensor in a file; None if unknown."""
    if hasattr(tensor, "data_ptr") and tensor.numel():
        return tensor.data_ptr(), tuple(tensor.shape)
    if hasattr(tensor, "storage") and not callable(tensor.storage):
        return id(tensor.storage), getattr(tensor, "_offset", 0), tuple(tensor.shape)
    return None


def advise(plan: Plan, result: LoadResult, located: Located) -> list[str]:
    """Return lines below the list of differences."""
    if located.root:
        names = f"names={{{located.root!r}: ''}}"
        return [
            f"most of the model is below {located.root!r} in the source: pass {names} to read only that part"
        ]
    proposal = propose_names(plan, result, located)
    if proposal:
        return [f"by shapes and order these names fit; check them: names={proposal!r}"]
    return []


def propose_names(plan: Plan, result: LoadResult, located: Located) -> dict[str, str]:
    """Return names that would join missing layers and unexpected tensors; empty if they do not fit.

    The layers of the model take, in their order, the first layer of torch with tensors of the same names and
    shapes.
    """
    missing = {one.torch for one in result.missing}
    unexpected = {one.torch for one in result.unexpected}
    free: dict[str, dict[str, Shape]] = defaultdict(dict)
    for name, original in located.original.items():
        if original in unexpected:
            prefix, _, last = name.rpartition(".")
            free[prefix][last] = tuple(located.tensors[name].shape)
    names: dict[str, str] = {}
    for path, tensors in _missing_layers(plan, missing).items():
        match = next((prefix for prefix, shapes in free.items() if tensors.items() <= shapes.items()), None)
        if match is not None:
            del free[match]
            names |= [_shortened(match, path)]
    return names


def _missing_layers(plan: Plan, missing: set[str]) -> dict[str, dict[str, Shape]]:
    """Return layer -> {name: shape} for each layer of which every tensor is missing."""
    layers: dict[str, dict[str, Shape]] = defaultdict(dict)
    for assignment in plan.assignments:
        for name, shape in zip(assignment.torch, assignment.torch_shapes, strict=True):
            prefix, _, last = name.rpartition(".")
            if name in missing:
                layers[prefix][last] = shape
    return layers


def _shortened(torch: str, flax: str) -> tuple[str, str]:
    """Remove the components that both paths have at their end, but keep one of each."""
    ours, theirs = flax.split("."), torch.split(".")
    while len(ours) > 1 and len(theirs) > 1 and ours[-1] == theirs[-1]:
        ours, theirs = ours[:-1], theirs[:-1]
    return ".".join(theirs), ".".join(ours)
