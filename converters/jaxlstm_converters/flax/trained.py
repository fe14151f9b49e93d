"""The parameters of a Flax model or a program for the converter of optimizers."""

from collections.abc import Mapping
from typing import Any

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
    if isinstance(model, Program):
        slots = {name: _slot(name, array) for name, array in {**model.params, **model.buffers}.items()}
        layers, tree = [FlaxLayer(model, "", "", slots)], model.params
    else:
        require_module(model, "the state of an NNX model or of a program")
        layers, tree = nnx_layers(model), nnx.state(model, nnx.Param)
    if source is None:
        plan, tensors = plan_alone(layers, names), None
    else:
        plan, tensors, _ = match_names(layers, source, names)
    rows = _rows(plan, dotted_leaves(tree), tensors)
    originals = {row.torch: tensors.original[row.torch] if tensors else row.torch for row in rows}
    return TrainedParameters(tree, rows, originals)


def _slot(name: str, array: Any) -> Slot:
    return Slot(name, name, lambda: array, lambda array: None)


def _rows(
    plan: ConversionPlan, params: Mapping[str, Any], tensors: ModelTensors | None
) -> tuple[ParameterRow, ...]:
    """Return the rows of the parameters, one for each; raise if a parameter has none.

    Tensors of torch that become one array lose or add numbers, and are refused.
    """
    paths_by_key = {s.key: s.path for a in plan.assignments for s in a.slots if s.path in params}
    rows: list[ParameterRow] = []
    seen: set[str] = set()
    failures = list(plan.failures)
    for assignment in plan.assignments:
        # Tied parameters have several names in torch, of which the optimizer knows the first.
        paths = tuple(paths_by_key.get(slot.key, "") for slot in assignment.slots)
        if not paths or not all(paths) or not seen.isdisjoint(paths):
            continue
        seen.update(paths)
        missing = [name for name in assignment.torch if tensors is not None and not _holds(tensors, name)]
        if missing or assignment.pair.layout.loss or assignment.pair.note:
            absent = "the source has no such tensor"
            if missing and tensors is not None and all(map(tensors.has, missing)):
                absent = "it is computed from other tensors, so it has no moments"
            reason = assignment.pair.layout.loss or assignment.pair.note or absent
            failures.append(f"{', '.join(missing or assignment.torch) or assignment.flax}: {reason}")
            continue
        (name,), (shape,), layout = assignment.torch, assignment.torch_shapes, assignment.pair.layout
        rows.append(ParameterRow(name, paths, shape, layout.to_flax, layout.to_torch))
    failures += [f"{path}: it has no tensor in torch" for path in params if path not in seen]
    if failures:
        listed = [*failures[:3], *[f"and {len(failures) - 3} more"] * (len(failures) > 3)]
        lines = [
            "the moments of these parameters cannot be converted (the file needs the model's tensors, too)",
            *listed,
        ]
        raise StateDictError("\n  ".join(lines))
    return tuple(rows)


def _holds(tensors: ModelTensors, name: str) -> bool:
    """Return True if a source has a tensor that is not computed from others."""
    if not tensors.has(name):
        return False
    original = without_wrappers(tensors.original[name])
    return original.rpartition(".")[2] == name.rpartition(".")[2]
