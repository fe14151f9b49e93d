"""Match, check and convert the tensors of a source for the layers of a model; nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm._shared.torch_tensors import as_numpy
from jaxlstm_converters.flax.advice import UnexpectedHints, advise, missing_hint, shape_hint
from jaxlstm_converters.flax.layer import Layer, Slot
from jaxlstm_converters.flax.located import Located, fold_reparametrized, locate
from jaxlstm_converters.flax.names import Names
from jaxlstm_converters.flax.plan import Assignment, Plan, make_plan
from jaxlstm_converters.flax.result import Difference, LoadResult, StateDictError
from jaxlstm_converters.flax.settings import settings_to_check
from jaxlstm_converters.flax.source import open_source

Filled = list[tuple[Slot, np.ndarray]]


def fill(
    layers: list[Layer], source: Any, names: Mapping[str, str] | None, strict: bool, cast: bool
) -> tuple[LoadResult, Filled]:
    """Return the result, and the new array of every slot that has one.

    Raises:
      StateDictError: a tensor cannot be converted, or with ``strict`` anything does not fit.
    """
    opened = open_source(source)
    name_map = Names(names)
    name_map.renamed({layer.path: layer.torch_path for layer in layers if layer.path})
    located = locate(opened, make_plan(layers, name_map), name_map)
    plan = make_plan(layers, name_map, located.has)
    fold_reparametrized(located, plan.torch_names)
    name_map.require_torch_prefixes(located.tensors)
    name_map.require_flax_prefixes(plan.flax_names)

    matched = _Match(plan, located, cast)
    matched.run()
    result = LoadResult(
        tuple(matched.loaded),
        tuple(matched.missing),
        tuple(matched.unexpected()),
        tuple(matched.misshapen),
        tuple(settings_to_check(layers, name_map, located.settings)),
        (*located.notes, *matched.notes()),
    )
    failures = plan.failures + matched.failures
    if failures or (strict and not result.complete):
        raise StateDictError(
            _message(failures, result, advise(plan, result, located, name_map.flax_of)), result
        )
    return result, matched.filled


class _Match:
    """The assignments of a plan, each filled from the source or recorded as a difference."""

    def __init__(self, plan: Plan, located: Located, cast: bool) -> None:
        self.plan, self.located, self.cast = plan, located, cast
        self.loaded: list[tuple[str, str]] = []
        self.missing: list[Difference] = []
        self.misshapen: list[Difference] = []
        self.failures: list[str] = []
        self.filled: Filled = []
        self._noted: dict[str, list[str]] = {}
        # By the identity of a slot, to compare the copies of tied weights.
        self._written: dict[object, tuple[Assignment, np.ndarray]] = {}

    def run(self) -> None:
        """Fill every assignment."""
        present = [a for a in self.plan.assignments if all(map(self.located.has, a.torch))]
        filled = {slot.key for a in present for slot in a.slots}
        for assignment in self.plan.assignments:
            if all(map(self.located.has, assignment.torch)):
                self._fill(assignment)
            elif not filled.issuperset(slot.key for slot in assignment.slots):
                self._record_missing(assignment)

    def unexpected(self) -> list[Difference]:
        """Return the tensors of the source that belong to no assignment."""
        used = {name for a in self.plan.assignments for name in a.torch}
        hints = UnexpectedHints(used, self.located)
        inside = [
            Difference(self.located.original[name], "", tuple(tensor.shape), None, hints.hint(name))
            for name, tensor in self.located.tensors.items()
            if name not in used
        ]
        beside = [
            Difference(name, "", tuple(tensor.shape), None) for name, tensor in self.located.beside.items()
        ]
        return inside + beside

    def notes(self) -> list[str]:
        """Return the notes of the assignments, each with its layers."""
        return [f"{', '.join(layers)}: {note}" for note, layers in self._noted.items()]

    def _fill(self, assignment: Assignment) -> None:
        if not self._shapes_fit(assignment):
            return
        read = tuple(as_numpy(self.located.tensors[name]) for name in assignment.torch)
        try:
            arrays = self._convert(assignment, read)
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
        names = [self.located.original[name] for name in assignment.torch]
        self.loaded += [(name, slot.path) for name in names for slot in assignment.slots]
        if assignment.entry.note:
            self._noted.setdefault(assignment.entry.note, []).append(assignment.layer.path or "the model")

    def _shapes_fit(self, assignment: Assignment) -> bool:
        fit = True
        for name, expected in zip(assignment.torch, assignment.torch_shapes, strict=True):
            shape = tuple(self.located.tensors[name].shape)
            if shape != expected:
                hint = assignment.entry.hint or shape_hint(shape, expected)
                original = self.located.original[name]
                self.misshapen.append(Difference(original, assignment.flax, shape, expected, hint))
                fit = False
        return fit

    def _convert(self, assignment: Assignment, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        slots = assignment.slots
        if slots and arrays:
            widest = jnp.result_type(*(slot.dtype for slot in slots))
            if not self.cast:
                _refuse_integers(arrays, widest)
            arrays = tuple(cast_array(array, widest, self.cast) for array in arrays)
        converted = assignment.entry.layout.to_flax(arrays)
        for array, slot in zip(converted, slots, strict=True):
            if array.shape != slot.shape:
                raise ValueError(f"the layout gives the shape {array.shape}, expected {slot.shape}")
        return tuple(
            cast_array(array, slot.dtype, self.cast) for array, slot in zip(converted, slots, strict=True)
        )

    def _record_missing(self, assignment: Assignment) -> None:
        shapes = assignment.torch_shapes
        for name, shape in zip(assignment.torch, shapes, strict=True):
            if not self.located.has(name):
                hint = missing_hint(name, assignment, self.located)
                self.missing.append(Difference(name, assignment.flax, None, shape, hint))


def _refuse_integers(arrays: tuple[np.ndarray, ...], dtype: np.dtype) -> None:
    """Raise ValueError for integers where the model has floats: their scales are in other tensors."""
    kinds = {str(array.dtype) for array in arrays if array.dtype.kind in "iu"}
    if kinds and jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(
            f"integers ({', '.join(sorted(kinds))}) for an array of {dtype} are probably quantized weights; "
            "load the model from before the quantization, or pass cast=True if they are the values"
        )


def cast_array(array: np.ndarray, dtype: np.dtype, allow_loss: bool) -> np.ndarray:
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


def _message(failures: list[str], result: LoadResult, advice: list[str]) -> str:
    lines = ["the state dict does not fit the model; nothing was written"]
    lines += [f"  {line}" for line in failures]
    for kind in ("missing", "unexpected", "misshapen"):
        lines += [f"  {kind:10} {one}" for one in getattr(result, kind)]
    return "\n".join([*lines, *advice])
