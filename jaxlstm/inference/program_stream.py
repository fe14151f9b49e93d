"""``ProgramStream``: a program whose results are inputs of its next step."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlstm.inference.compiled_program import CompiledProgram
from jaxlstm.programs.graph import shown_shape


class ProgramStream:
    """A program whose results are inputs of its next step; made by :meth:`ProgramRunner.stream`.

    Calls from several threads run one after another. A step that raises keeps the state.
    """

    def __init__(
        self, compiled: CompiledProgram, states: Mapping[str, str], initial: Mapping[str, Any]
    ) -> None:
        types = {declared.name: declared.type for declared in compiled.tensors}
        self._inputs = {name: type_.shape for name, type_ in types.items() if type_}
        self._dtypes = {name: type_.dtype for name, type_ in types.items() if type_}
        names, results = list(self._inputs), list(compiled.result_types)
        if not states or set(states) - set(names) or set(states.values()) - set(results):
            raise ValueError(
                f"states must be a dict from some of the inputs {names} to some of the results {results}, "
                f"got {dict(states)}"
            )
        self._compiled, self._lock = compiled, threading.Lock()
        self._fed = {name: results.index(result) for name, result in states.items()}
        self._kept = {name: k for k, name in enumerate(results) if k not in self._fed.values()}
        self._initial = {name: np.array(value) for name, value in initial.items()}
        self.reset()

    def reset(self) -> None:
        """Return to the state of the first step."""
        self.state = self._initial

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
            rest, state = iter(tensors), self._state
            arguments = [state[name] if name in state else np.asarray(next(rest)) for name in self._inputs]
            leaves = self._executable.leaves([None, *self._compiled.cast(arguments, self._casts)])
            self._state = {name: leaves[k] for name, k in self._fed.items()}
            same = all(np.shape(self._state[name]) == np.shape(old) for name, old in state.items())
            self._signature = signature if same else None
        self._compiled.work.add_call(1, 1)
        kept = {name: np.asarray(leaves[k]) for name, k in self._kept.items()}
        return kept if len(kept) > 1 else next(iter(kept.values()), None)

    def _prepare(self, tensors: Sequence[Any]) -> None:
        """Check the tensors, and find the casts, the executable and the states of zeros."""
        names = [name for name in self._inputs if name not in self._fed]
        if len(tensors) != len(names):
            raise ValueError(f"a step takes the inputs {names}, got {len(tensors)} arrays")
        values = {**dict(zip(names, tensors, strict=True)), **self._state}
        pairs = [(self._inputs[name], np.shape(value)) for name, value in values.items()]
        sizes = {n: actual for declared, shape in pairs for n, actual in zip(declared, shape, strict=False)}
        types = list(self._compiled.result_types.values())
        for name in self._fed.keys() - values.keys():
            # The size of a free axis, or the fixed size of the result.
            pairs = zip(self._inputs[name], types[self._fed[name]].shape, strict=False)
            shape = [size if isinstance(size, int) else sizes.get(size, last) for size, last in pairs]
            if not all(isinstance(size, int) for size in shape):
                raise ValueError(
                    f"the size of the state {name}, {shown_shape(self._inputs[name])}, does not follow from "
                    "the other inputs; pass the state as initial"
                )
            values[name] = np.zeros(shape, self._dtypes[name])
        arguments = [values[name] for name in self._inputs]
        self._casts = self._compiled.checked(arguments)
        arrays = self._compiled.cast(list(map(np.asarray, arguments)), self._casts)
        self._executable = self._compiled.executable(tuple(map(np.shape, arrays)), None, arrays)
        self._state = {name: values[name] for name in self._fed}
