"""The result of `load_state_dict`, its error, and hints for a state dict that does not fit."""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
from flax import nnx

from jaxlstm_converters.flax.layer import Shape, join
from jaxlstm_converters.flax.model_tensors import ModelTensors
from jaxlstm_converters.flax.plan import Assignment, ConversionPlan

_KINDS = ("missing", "unexpected", "misshapen")


@dataclass(frozen=True)
class Difference:
    """A tensor that does not fit.

    Attributes:
      torch: its name in torch.
      flax: the path of the arrays in the model; empty for an unexpected tensor.
      shape: its shape in the source; None if it is missing.
      expected: the shape that the model needs; None if it is unexpected.
      hint: a likely cause.
    """

    torch: str
    flax: str
    shape: tuple[int, ...] | None
    expected: tuple[int, ...] | None
    hint: str = ""

    def __str__(self) -> str:
        target = f" -> {self.flax}" if self.flax else ""
        if self.shape is None:
            text = f"{self.torch}{target} {self.expected}"
        elif self.expected is None:
            text = f"{self.torch} {self.shape}"
        else:
            text = f"{self.torch}{target} has shape {self.shape}, expected {self.expected}"
        return f"{text}; {self.hint}" if self.hint else text


@dataclass(frozen=True)
class LoadResult:
    """The outcome of `load_state_dict`.

    Attributes:
      loaded: (name in torch, path in the model) for each tensor and the array that holds it now.
      missing: tensors that the model needs and the source lacks.
      unexpected: tensors of the source without a place in the model.
      misshapen: tensors whose shape does not fit.
      warnings: settings to check, also given to Python's ``warnings`` as `PortingWarning`.
      notes: conversions that are more than a change of layout, such as biases that were summed.
    """

    loaded: tuple[tuple[str, str], ...] = ()
    missing: tuple[Difference, ...] = ()
    unexpected: tuple[Difference, ...] = ()
    misshapen: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True if every tensor of the model was loaded and every tensor of the source was used."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def differences(self) -> list[str]:
        """One line for each tensor that does not fit."""
        return [f"{kind:10} {difference}" for kind in _KINDS for difference in getattr(self, kind)]

    def __str__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in _KINDS)
        lines = [f"{len(self.loaded)} loaded, {counts}", *(f"  {line}" for line in self.differences)]
        lines += [f"  {'warning':10} {text}" for text in self.warnings]
        lines += [f"  {'note':10} {text}" for text in self.notes]
        return "\n".join(lines)


class StateDictError(ValueError):
    """A state dict that does not fit a model. Nothing was written.

    Attributes:
      missing, unexpected, misshapen: as in `LoadResult`.
    """

    def __init__(self, message: str, result: LoadResult = LoadResult()) -> None:
        super().__init__(message)
        self.missing, self.unexpected, self.misshapen = result.missing, result.unexpected, result.misshapen


def shape_hint(shape: Shape, expected: Shape) -> str:
    """Return how a tensor of one shape could become one of another: transposed or reshaped."""
    if len(shape) == len(expected) <= 5:
        for axes in itertools.permutations(range(len(shape))):
            if tuple(shape[axis] for axis in axes) == expected:
                return f"transposed by {axes} it would fit"
    if math.prod(shape) == math.prod(expected):
        return "reshaped it would fit"
    return ""


def missing_hint(name: str, assignment: Assignment, model: ModelTensors) -> str:
    """Return a hint for a missing tensor, by the other tensors of its layer in torch."""
    prefix, _, last = name.rpartition(".")
    siblings = model.layers.get(prefix and f"{prefix}.", {})
    if f"{join(prefix, 'parametrizations', last)}." in model.layers:
        return "torch computes it by a parametrization: pass the torch module instead of its state dict"
    if f"{last}_orig" in siblings:
        return "torch computes it in a hook: call torch.nn.utils.remove_spectral_norm and save again"
    if last == "bias" and "weight" in siblings:
        return "the torch layer has no bias: create the layer with use_bias=False"
    if last in ("weight_g", "weight_v") and "weight" in siblings:
        return "the torch layer has no weight normalization: use the layer without WeightNorm"
    if last in ("running_mean", "running_var") and siblings:
        return "the torch layer has track_running_stats=False, so it keeps no statistics"
    if last == "in_proj_weight":
        example = {join(prefix, "q_proj"): join(assignment.layer.path, "query")}
        return f"if torch has linear layers instead, name them one by one, as in names={example}"
    if isinstance(assignment.layer.module, nnx.InstanceNorm | nn.InstanceNorm) and not siblings:
        return "torch's default is affine=False: create the layer with use_scale=False, use_bias=False"
    return ""


def unexpected_tensors(used: set[str], model: ModelTensors) -> list[Difference]:
    """Return the tensors of the source that are not used, with a likely cause or none."""
    present = used & model.tensors.keys()
    twins = {place: name for name in present if (place := _memory(model.tensors[name])) is not None}
    differences = []
    for name, tensor in model.tensors.items():
        prefix, _, last = name.rpartition(".")
        twin = twins.get(_memory(tensor))
        # A program does not record which name of a tied tensor it uses.
        optional = model.unused is not None and (twin is not None or model.original[name] in model.unused)
        if name in used or optional:
            continue
        hint = ""
        if twin is not None:
            twin_prefix = twin.rpartition(".")[0]
            names = {prefix: twin_prefix, twin_prefix: twin_prefix}
            hint = f"it is the same tensor as {twin!r} (tied weights): names={names} accepts both"
        elif last == "bias" and f"{prefix}.weight" in used:
            hint = "the Flax layer has no bias: create it with use_bias=True"
        differences.append(Difference(model.original[name], "", tuple(tensor.shape), None, hint))
    return differences + [Difference(name, "", tuple(t.shape), None) for name, t in model.beside.items()]


def _memory(tensor: Any) -> object:
    """Return an identity of the memory of a torch tensor or of a tensor in a file; None if unknown."""
    if hasattr(tensor, "data_ptr") and tensor.numel():
        return tensor.data_ptr(), tuple(tensor.shape)
    if hasattr(tensor, "storage") and not callable(tensor.storage):
        return id(tensor.storage), getattr(tensor, "_offset", 0), tuple(tensor.shape)
    return None


def advise(
    plan: ConversionPlan, result: LoadResult, model: ModelTensors, names: Mapping[str, str]
) -> list[str]:
    """Return lines below the list of differences, given the user's ``names``."""
    if model.root and not any(map(model.has, plan.torch_names)):
        part = f"names={{{model.root!r}: ''}}"
        return [
            f"most of the model is below {model.root!r} in the source: pass {part} to read only that part"
        ]
    lines = []
    if model.beside:
        part = {model.key: "", **{f"{model.key}.{torch}": flax for torch, flax in names.items()}}
        lines.append(f"the model was found below {model.key!r}: pass names={part} to read only that part")
    proposal = propose_names(plan, result, model)
    if proposal:
        lines.append(f"by shapes and order these names fit; check them: names={ {**names, **proposal} }")
    return lines


def propose_names(plan: ConversionPlan, result: LoadResult, model: ModelTensors) -> dict[str, str]:
    """Return names that would join missing layers and unexpected tensors; empty if there are none.

    A parameter takes the only weight of a module of torch at its path, such as the slopes of a PReLU. The
    layers of the model take, in their order, the first prefix of torch with tensors of the same names and
    shapes.
    """
    unexpected = {difference.torch for difference in result.unexpected}
    free = {
        name: tuple(model.tensors[name].shape)
        for name, original in model.original.items()
        if original in unexpected
    }
    missing = {difference.torch: difference for difference in result.missing}
    names: dict[str, str] = {}
    for name, difference in missing.items():
        if name and free.get(weight := f"{name}.weight") == difference.expected:
            names[weight] = difference.flax
            del free[weight]
    for path, tensors in _missing_layers(plan, set(missing)).items():
        match = _first_prefix(free, tensors)
        if match is not None:
            for name in tensors:
                del free[f"{match}.{name}"]
            names |= [_shortened(match, path)]
        elif stacked := _later_layer(free, tensors):
            for name, torch in stacked.items():
                del free[torch]
                names[torch] = f"{path}.{name}"
    return names


def _missing_layers(plan: ConversionPlan, missing: set[str]) -> dict[str, dict[str, Shape]]:
    """Return torch prefix -> {name: shape} for each layer of which every tensor is missing."""
    layers: dict[str, dict[str, Shape]] = defaultdict(dict)
    for assignment in plan.assignments:
        prefix = assignment.layer.torch_path
        names = dict(zip(assignment.torch, assignment.torch_shapes, strict=True))
        if prefix and all(name in missing and name.startswith(f"{prefix}.") for name in names):
            layers[prefix] |= {name[len(prefix) + 1 :]: shape for name, shape in names.items()}
    return {prefix: tensors for prefix, tensors in layers.items() if tensors}


def _first_prefix(free: Mapping[str, Shape], tensors: Mapping[str, Shape]) -> str | None:
    """Return the first prefix below which all tensors exist."""
    first = next(iter(tensors))
    for name in free:
        prefix = name.removesuffix(f".{first}")
        if prefix != name and all(free.get(f"{prefix}.{leaf}") == shape for leaf, shape in tensors.items()):
            return prefix
    return None


def _later_layer(free: Mapping[str, Shape], tensors: Mapping[str, Shape]) -> dict[str, str]:
    """Return name in a layer -> name in torch, if the tensors fit layer 1 or later of a torch module.

    torch has one module for stacked layers, where the model has a list of them.
    """
    for name in free:
        if match := re.fullmatch(r"(.*?)\w+_l([1-9]\d*)(_reverse)?", name):
            names = {leaf: match[1] + leaf.replace("_l0", f"_l{match[2]}") for leaf in tensors}
            if all(free.get(names[leaf]) == shape for leaf, shape in tensors.items()):
                return names
    return {}


def _shortened(torch: str, flax: str) -> tuple[str, str]:
    """Remove the components that both paths have at their end, but keep one of each."""
    ours, theirs = flax.split("."), torch.split(".")
    while len(ours) > 1 and len(theirs) > 1 and ours[-1] == theirs[-1]:
        ours, theirs = ours[:-1], theirs[:-1]
    return ".".join(theirs), ".".join(ours)
