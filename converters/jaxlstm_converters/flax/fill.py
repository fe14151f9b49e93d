"""Match, check and convert the tensors of a source, and write them to the layers of a model."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm._shared.torch_tensors import as_numpy
from jaxlstm_converters.flax.layer import Arrays, FlaxLayer, Slot
from jaxlstm_converters.flax.layer_types import settings_to_check
from jaxlstm_converters.flax.model_tensors import ModelTensors, find_model, open_source
from jaxlstm_converters.flax.names import Names
from jaxlstm_converters.flax.plan import Assignment, ConversionPlan, make_plan
from jaxlstm_converters.flax.result import (
    Difference,
    LoadResult,
    StateDictError,
    advise,
    missing_hint,
    shape_hint,
    unexpected_tensors,
)


def fill(
    layers: list[FlaxLayer], source: Any, names: Mapping[str, str] | None, strict: bool, cast: bool
) -> LoadResult:
    """Fill the slots of all layers, after everything has been checked."""
    plan, model, name_map = match_names(layers, source, names)
    matched = _Match(plan, model, cast)
    result = LoadResult(
        tuple(matched.loaded),
        tuple(matched.missing),
        tuple(unexpected_tensors(set(plan.torch_names), model)),
        tuple(matched.misshapen),
        tuple(settings_to_check(layers, name_map, model.settings)),
        (*model.notes, *(f"{', '.join(paths)}: {note}" for note, paths in matched.notes.items())),
    )
    failures = plan.failures + matched.failures
    if failures or (strict and not result.complete):
        lines = ["the state dict does not fit the model; nothing was written"]
        lines += [f"  {line}" for line in (*failures, *result.differences)]
        lines += advise(plan, result, model, name_map.flax_of)
        raise StateDictError("\n".join(lines), result)
    for slot, array in [(slot, _place(array, slot.read())) for slot, array in matched.filled]:
        slot.write(array)
    return result


def _place(array: np.ndarray, old: Any) -> jax.Array:
    """Return a JAX array that owns its memory, on the devices of the array that it replaces."""
    new = jnp.array(array)
    committed = getattr(old, "committed", True)
    sharding = getattr(old, "sharding", None)
    return new if sharding is None or not committed else jax.device_put(new, sharding)


def match_names(
    layers: list[FlaxLayer], source: Any, names: Mapping[str, str] | None
) -> tuple[ConversionPlan, ModelTensors, Names]:
    """Return the plan of a model for a source, the tensors of the source, and the map of names."""
    opened = open_source(source)
    name_map = Names(names, layers)
    model = find_model(opened, make_plan(layers, name_map), name_map)
    plan = make_plan(layers, name_map, model.has)
    name_map.require_torch_prefixes(model.tensors)
    name_map.require_flax_prefixes(plan.flax_names)
    return plan, model, name_map


class _Match:
    """The assignments of a plan, each filled from the source or recorded as a difference."""

    def __init__(self, plan: ConversionPlan, model: ModelTensors, cast: bool) -> None:
        self._model, self._cast = model, cast
        self.loaded: list[tuple[str, str]] = []
        self.missing: list[Difference] = []
        self.misshapen: list[Difference] = []
        self.failures: list[str] = []
        self.filled: list[tuple[Slot, np.ndarray]] = []
        self.notes: dict[str, list[str]] = {}
        # By the identity of a slot, to compare the copies of tied weights.
        self._written: dict[object, tuple[Assignment, np.ndarray]] = {}
        present = [a for a in plan.assignments if all(map(model.has, a.torch))]
        filled_keys = {slot.key for a in present for slot in a.slots}
        for assignment in plan.assignments:
            if all(map(model.has, assignment.torch)):
                self._fill(assignment)
            elif not filled_keys.issuperset(slot.key for slot in assignment.slots):
                self._record_missing(assignment)

    def _fill(self, assignment: Assignment) -> None:
        if not self._shapes_fit(assignment):
            return
        tensors = tuple(as_numpy(self._model.tensors[name]) for name in assignment.torch)
        try:
            arrays = _converted(assignment, tensors, self._cast)
        except ValueError as error:
            self.failures.append(f"{', '.join(assignment.torch)} -> {assignment.flax}: {error}")
            return
        for slot, array in zip(assignment.slots, arrays, strict=True):
            first, written = self._written.setdefault(slot.key, (assignment, array))
            if written is array:
                self.filled.append((slot, array))
            elif not _same(written, array):
                self.failures.append(
                    f"{', '.join(first.torch)} and {', '.join(assignment.torch)} differ, but the model has "
                    f"one array for both ({first.flax}, tied weights)"
                )
        names = [self._model.original[name] for name in assignment.torch]
        self.loaded += [(name, slot.path) for name in names for slot in assignment.slots]
        if assignment.pair.note:
            self.notes.setdefault(assignment.pair.note, []).append(assignment.layer.path or "the model")

    def _shapes_fit(self, assignment: Assignment) -> bool:
        fit = True
        for name, expected in zip(assignment.torch, assignment.torch_shapes, strict=True):
            shape = tuple(self._model.tensors[name].shape)
            if shape != expected:
                hint = assignment.pair.hint or shape_hint(shape, expected)
                original = self._model.original[name]
                self.misshapen.append(Difference(original, assignment.flax, shape, expected, hint))
                fit = False
        return fit

    def _record_missing(self, assignment: Assignment) -> None:
        for name, shape in zip(assignment.torch, assignment.torch_shapes, strict=True):
            if not self._model.has(name):
                hint = missing_hint(name, assignment, self._model)
                self.missing.append(Difference(name, assignment.flax, None, shape, hint))


def _converted(assignment: Assignment, arrays: Arrays, cast: bool) -> Arrays:
    """Return the arrays of the slots. The conversion is computed in the widest dtype of them."""
    slots = assignment.slots
    if slots and arrays:
        widest = jnp.result_type(*(slot.dtype for slot in slots))
        if not cast:
            _refuse_integers(arrays, widest)
        arrays = tuple(_cast(array, widest, cast) for array in arrays)
    converted = assignment.pair.layout.to_flax(arrays)
    for array, slot in zip(converted, slots, strict=True):
        if array.shape != slot.shape:
            raise ValueError(f"the layout gives the shape {array.shape}, expected {slot.shape}")
    return tuple(_cast(array, slot.dtype, cast) for array, slot in zip(converted, slots, strict=True))


def _refuse_integers(arrays: Arrays, dtype: np.dtype) -> None:
    """Raise ValueError for integers where the model has floats: their scales are in other tensors."""
    kinds = {str(array.dtype) for array in arrays if array.dtype.kind in "iu"}
    if kinds and jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(
            f"integers ({', '.join(sorted(kinds))}) for an array of {dtype} are probably quantized weights; "
            "load the model from before the quantization, or pass cast=True if they are the values"
        )


def _cast(array: np.ndarray, dtype: np.dtype, allow_loss: bool) -> np.ndarray:
    """Return an array in another dtype. Raise ValueError if values change and ``allow_loss`` is False."""
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        result = array.astype(dtype)
        if not allow_loss and not _same(result.astype(array.dtype), array):
            raise ValueError(
                f"values change from {array.dtype} to {dtype}, the dtype of the model; create the model with "
                f"param_dtype={array.dtype}, or pass cast=True"
            )
    return result


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Return True if all elements are equal, or NaN in both arrays."""
    return bool(((first == second) | ((first != first) & (second != second))).all())
