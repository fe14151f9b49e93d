"""The parameters of a Flax model or a program for the converter of optimizers."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from jaxlstm.programs.program import Program
from jaxlstm_converters.flax._load_state_dict import require_module
from jaxlstm_converters.flax.fill import match_names
from jaxlstm_converters.flax.layer import FlaxLayer, Slot
from jaxlstm_converters.flax.model_tensors import ModelTensors
from jaxlstm_converters.flax.names import without_wrappers
from jaxlstm_converters.flax.plan import ConversionPlan, plan_alone
from jaxlstm_converters.flax.result import StateDictError
from jaxlstm_converters.flax.tree import nnx_layers
from jaxlstm_converters.optimizer.trained import ParameterRow, TrainedParameters, dotted_leaves


def trained_parameters(model: Any, names: Mapping[str, str] | None, source: Any = None) -> TrainedParameters:
    """Return the parameters of a model."""
    layers, tree = _layers_and_parameters(model)
    params = dotted_leaves(tree)
    if source is None:
        plan, found = plan_alone(layers, names), None
    else:
        plan, found, _ = match_names(layers, source, names)
    rows = _rows(plan, params, found)
    originals = {row.torch: found.original[row.torch] if found else row.torch for row in rows}
    return TrainedParameters(params, jax.tree.structure(tree), rows, originals)


def _layers_and_parameters(model: Any) -> tuple[list[FlaxLayer], Any]:
    if isinstance(model, Program):
        slots = {name: _slot(name, array) for name, array in {**model.params, **model.buffers}.items()}
        return [FlaxLayer(model, "", "", slots)], model.params
    require_module(model, "the state of an NNX model or of a program")
    return nnx_layers(model), nnx.state(model, nnx.Param)


def _slot(name: str, array: Any) -> Slot:
    return Slot(name, name, lambda: array, lambda array: None)


def _rows(
    plan: ConversionPlan, params: Mapping[str, Any], found: ModelTensors | None
) -> tuple[ParameterRow, ...]:
    """Return the rows of the parameters, one for each; raise if a parameter has none.

    Tensors of torch that become one array lose or add numbers, and are refused.
    """
    own = {slot.key: slot.path for each in plan.assignments for slot in each.slots if slot.path in params}
    rows: list[ParameterRow] = []
    seen: set[str] = set()
    failures = list(plan.failures)
    for each in plan.assignments:
        # Tied parameters have several names in torch, of which the optimizer knows the first.
        paths = tuple(own.get(slot.key, "") for slot in each.slots)
        if not paths or not all(paths) or not seen.isdisjoint(paths):
            continue
        seen.update(paths)
        missing = [name for name in each.torch if found is not None and not _holds(found, name)]
        if missing or each.pair.layout.loss or each.pair.note:
            absent = "the source has no such tensor"
            if missing and found is not None and all(map(found.has, missing)):
                absent = "it is computed from other tensors, so it has no moments"
            reason = each.pair.layout.loss or each.pair.note or absent
            failures.append(f"{', '.join(missing or each.torch) or each.flax}: {reason}")
            continue
        (name,), (shape,), layout = each.torch, each.torch_shapes, each.pair.layout
        rows.append(ParameterRow(name, paths, shape, layout.to_flax, layout.to_torch))
    failures += [f"{path}: it has no tensor in torch" for path in params if path not in seen]
    if failures:
        shown = [*failures[:3], *[f"and {len(failures) - 3} more"] * (len(failures) > 3)]
        lines = [
            "the moments of these parameters cannot be converted (the file needs the model's tensors, too)",
            *shown,
        ]
        raise StateDictError("\n  ".join(lines))
    return tuple(rows)


def _holds(found: ModelTensors, name: str) -> bool:
    """Return True if a source has a tensor that is not computed from others."""
    if not found.has(name):
        return False
    original = without_wrappers(found.original[name])
    return original.rpartition(".")[2] == name.rpartition(".")[2]
