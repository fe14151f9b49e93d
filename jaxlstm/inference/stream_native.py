"""The state of a stream on a CPU: NumPy arrays, which the native kernel advances without XLA."""

from __future__ import annotations

import numpy as np

from jaxlstm.inference.native_engine import NativeEngine
from jaxlstm.kernels.cpu.stack import LayerStack


class NativeState:
    """The state (h, c) of ``batch`` sequences, with the methods of
    :class:`jaxlstm.inference.stream_compiled.CompiledState`.

    Args:
      engine: the engine whose weights it uses.
      batch: the number of sequences.
      spin: seconds that helper threads spin after a call before they sleep.
    """

    def __init__(self, engine: NativeEngine, batch: int, spin: float) -> None:
        self._dtype = engine.dtype
        self._stack = LayerStack(engine.layers, batch, spin)

    def step(self, x: np.ndarray, active: np.ndarray | None) -> np.ndarray:
        """Run one step of x (batch, input_size)."""
        return self._stack.step(x, active)

    def run(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Run the steps of x (time, batch, input_size). Padding may hold any numbers."""
        is_full = lengths.min() == len(x)
        return self._stack.run(x, None if is_full else np.arange(len(x))[:, None] < lengths)

    def reset(self, rows: np.ndarray) -> None:
        """Set some rows to zeros; ``rows`` is bool (batch,)."""
        for leaf in self._stack.state:
            leaf[:, rows] = 0

    def get(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of h and c, rounded to the Engine's dtype."""
        h, c = self._stack.state
        return h.astype(self._dtype), c.astype(self._dtype)

    def set(self, h: np.ndarray, c: np.ndarray) -> None:
        """Copy (h, c) into the state."""
        for leaf, given in zip(self._stack.state, (h, c), strict=True):
            leaf[...] = given
