"""``ProgramStream``: a program whose results are inputs of its next step."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxlstm.inference.compiled_program import CompiledProgram
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import shown_shape


class ProgramStream:
    """A program whose results are inputs of its next step; made by :meth:`ProgramRunner.stream`.

    Calls from several threads run one after another. A step that raises keeps the state.
    """

    def __init__(
        self, compiled: CompiledProgram, states: Mapping[str, str], initial: Mapping[str, Any]
    ) -> None:
        self._inputs = dict(compiled.tensors)
        results = list(compiled.result_types)
        pairs = [pair for state in states.items() for pair in self._pairs(results, *state)]
        if not pairs or len({name for name, _ in pairs}) < len(pairs):
            raise self._error(results, states)
        self._compiled, self._lock = compiled, threading.Lock()
        self._fed = {name: results.index(result) for name, result in pairs}
        self._kept = {name: k for k, name in enumerate(results) if k not in self._fed.values()}
        for name, result in pairs:
            self._require_equal_types(name, result)
        self._initial: dict[str, np.ndarray] = {}
        for name, value in initial.items():
            inputs, leaves = _below(self._inputs, name, "_"), jax.tree.leaves(value)
            if len(inputs) != len(leaves):
                raise ValueError(f"the states are {list(self._fed)}, got {list(initial)} as initial")
            self._initial |= {part: np.array(leaf) for part, leaf in zip(inputs, leaves, strict=True)}
        self.state = self._initial

    def _pairs(self, results: Sequence[str], name: str, result: str) -> Iterable[tuple[str, str]]:
        """Return the inputs of a structure and the results that become their values."""
        inputs, outputs = _below(self._inputs, name, "_"), _below(results, result, ".")
        if len(inputs) != len(outputs) or not inputs:
            raise self._error(results, {name: result})
        return zip(inputs, outputs, strict=True)

    def _error(self, results: Sequence[str], states: Mapping[str, str]) -> ValueError:
        return ValueError(
            f"states must be a dict from some of the inputs {list(self._inputs)} to some of the results "
            f"{list(results)}, got {dict(states)}"
        )

    def _require_equal_types(self, name: str, result: str) -> None:
        types = state, new = self._inputs[name], self._compiled.result_types[result]
        pairs = zip(state.shape, new.shape, strict=False)
        differs = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
        if differs or len(state.shape) != len(new.shape) or state.dtype != new.dtype:
            shown = [f"{type_.dtype.name} {shown_shape(type_.shape)}" for type_ in types]
            raise ValueError(f"the state {name} is {shown[0]}, but the result {result} is {shown[1]}")

    def reset(self, mask: Any = None) -> None:
        """Return to the state of the first step.

        Args:
          mask: Booleans (batch,), True for the rows to reset; None for all.

        Raises:
          ValueError: ``mask`` is not a list of Booleans for the rows of each state.
        """
        if mask is None:
            self.state = self._initial
            return
        mask = np.asarray(mask)
        with self._lock:
            state = {name: np.array(value) for name, value in self._state.items()}
            for name, value in state.items():
                place: list[Any] = [slice(None)] * value.ndim
                place[self._batch_axis(name, mask, value.shape)] = mask
                value[tuple(place)] = self._initial[name][tuple(place)] if name in self._initial else 0
            self._state, self._signature = {**self._state, **state}, None

    def _batch_axis(self, name: str, mask: np.ndarray, shape: Sequence[int]) -> int:
        """Return the axis of the rows: it has the name of the inputs' first axis, or the size of the mask."""
        first = next((t.shape[0] for n, t in self._inputs.items() if n not in self._fed and t.shape), None)
        declared = self._inputs[name].shape
        by_name = [axis for axis, size in enumerate(declared) if isinstance(size, str) and size == first]
        axes = by_name or [axis for axis, size in enumerate(shape) if mask.shape == (size,)]
        if mask.dtype != bool or len(axes) != 1 or mask.shape != (shape[axes[0]],):
            raise ValueError(
                f"mask must be Booleans (batch,) for the rows of the state {name} of shape {tuple(shape)}, "
                f"got {mask.dtype.name} {mask.shape}; assign stream.state if several axes have its size"
            )
        return axes[0]

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The states by input, copied to the host. States of zeros are missing before the first step."""
        with self._lock:
            return {name: np.array(value) for name, value in self._state.items()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        if set(state) - set(self._fed):
            raise ValueError(f"the states are {list(self._fed)}, got {list(state)}")
        with self._lock:
            # Copies, because the caller may change the arrays.
            self._state: dict[str, Any] = {name: np.array(value) for name, value in state.items()}
            self._signature: Any = None

    def step(self, *tensors: Any) -> Any:
        """Run one step.

        Args:
          tensors: the inputs without the states, in the order of ``program.inputs``. Sizes of free axes may
            change from step to step.

        Returns:
          The result without the states, as a NumPy array, or a dict by name if there are several.

        Raises:
          ProgramError: an input does not fit.
          ValueError: the number of inputs is wrong, or the size of a state is unknown.
        """
        with self._lock:
            signature = [(np.shape(x), getattr(x, "dtype", None)) for x in tensors]
            if signature != self._signature:
                self._prepare(tensors)
            inputs, state = iter(tensors), self._state
            arguments = [state[name] if name in state else np.asarray(next(inputs)) for name in self._inputs]
            arguments = self._compiled.cast(arguments, self._casts)
            try:
                leaves = self._executable.leaves([None, *arguments])
            except ProgramError as error:
                leaves = self._compiled.elsewhere(arguments, None, error)
            self._state = {name: leaves[k] for name, k in self._fed.items()}
            is_stable = all(np.shape(self._state[name]) == np.shape(old) for name, old in state.items())
            self._signature = signature if is_stable else None
        self._compiled.work.add_call(1, 1)
        results = {name: np.asarray(leaves[k]) for name, k in self._kept.items()}
        return results if len(results) > 1 else next(iter(results.values()), None)

    def _prepare(self, tensors: Sequence[Any]) -> None:
        """Check the tensors, and find the casts, the executable and the states of zeros."""
        names = [name for name in self._inputs if name not in self._fed]
        if len(tensors) != len(names):
            raise ValueError(f"a step takes the inputs {names}, got {len(tensors)} arrays")
        values = {**dict(zip(names, tensors, strict=True)), **self._state}
        pairs = [(self._inputs[name].shape, np.shape(value)) for name, value in values.items()]
        sizes = {n: actual for declared, shape in pairs for n, actual in zip(declared, shape, strict=False)}
        types = list(self._compiled.result_types.values())
        for name in self._fed.keys() - values.keys():
            # The size of a free axis, or the fixed size of the result.
            state = self._inputs[name]
            pairs = zip(state.shape, types[self._fed[name]].shape, strict=False)
            shape = [size if isinstance(size, int) else sizes.get(size, last) for size, last in pairs]
            if not all(isinstance(size, int) for size in shape):
                raise ValueError(
                    f"the size of the state {name}, {shown_shape(state.shape)}, does not follow from "
                    "the other inputs; pass the state as initial"
                )
            values[name] = np.zeros(shape, state.dtype)
        arguments = [values[name] for name in self._inputs]
        self._casts = self._compiled.checked(arguments)
        arrays = self._compiled.cast(list(map(np.asarray, arguments)), self._casts)
        self._executable = self._compiled.executable(tuple(map(np.shape, arrays)), None, arrays)
        self._state = {name: values[name] for name in self._fed}


def _below(names: Iterable[str], name: str, separator: str) -> list[str]:
    """Return a name, or else the names of the parts of its structure."""
    names = list(names)
    return [name] if name in names else [part for part in names if part.startswith(name + separator)]
