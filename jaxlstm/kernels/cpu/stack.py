"""A stack of layers with its state, run by the native library on NumPy arrays, without XLA.

XLA takes 15 to 25 microseconds to start a compiled program, more than a step of a small LSTM. Here ctypes
calls the kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from jaxlstm.kernels.cpu.library import DTYPE_NUMBERS, library
from jaxlstm.kernels.cpu.memory import aligned_zeros
from jaxlstm.kernels.cpu.threads import available_threads
from jaxlstm.precision import gate_dtype

COPIED_BYTES = 64 << 10
"""Inputs and outputs of a step up to this size are copied. Asking NumPy for an address takes longer."""


class _Layer(ctypes.Structure):
    """``Layer`` of stack.h."""

    _fields_ = (("input_size", ctypes.c_int64), ("prepared", ctypes.c_void_p))


class _Stack(ctypes.Structure):
    """``Stack`` of stack.h."""

    _fields_ = (
        ("dtype", ctypes.c_int64),
        ("layer_count", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("hidden_size", ctypes.c_int64),
        ("h_size", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("spin_nanoseconds", ctypes.c_int64),
        ("layers", ctypes.POINTER(_Layer)),
        ("h", ctypes.c_void_p * 2),
        ("c", ctypes.c_void_p * 2),
        ("current", ctypes.c_int64),
    )


def is_available() -> bool:
    """Return True if the library was loaded and has the entry that this module calls."""
    return hasattr(library().handle, "jaxlstm_run_stack")


class LayerStack:
    """Layers in one direction and their state (h, c). One thread at a time may use it.

    Args:
      prepared: the weights of each layer, from :func:`jaxlstm.kernels.cpu.prepared.prepare`.
      dtype: the dtype of inputs and outputs. In half precision the state is float32.
      input_size: features of the first layer's inputs.
      state_shapes: the shapes of h and c, (layers, batch, features).
      spin: seconds that helper threads spin after a call before they sleep.
    """

    def __init__(
        self,
        prepared: Sequence[np.ndarray],
        dtype: np.dtype,
        input_size: int,
        state_shapes: Sequence[tuple[int, int, int]],
        spin: float,
    ) -> None:
        self._prepared = prepared  # keeps the weights alive
        (count, batch, h_size), hidden_size = state_shapes[0], state_shapes[1][2]
        self._state = [[aligned_zeros(shape, gate_dtype(dtype)) for shape in state_shapes] for _ in range(2)]
        self._layers = (_Layer * count)(
            *((h_size if layer else input_size, _address(weights)) for layer, weights in enumerate(prepared))
        )
        addresses = [[_address(leaf) for leaf in state] for state in self._state]
        h, c = ((ctypes.c_void_p * 2)(*pair) for pair in zip(*addresses, strict=True))
        number, threads = DTYPE_NUMBERS[dtype.name], available_threads()
        self._stack = _Stack(
            number, count, batch, hidden_size, h_size, threads, round(1e9 * spin), self._layers, h, c, 0
        )
        handle = library().handle
        assert handle is not None
        self._run = handle.jaxlstm_run_stack
        self._stack_address = ctypes.addressof(self._stack)
        self._x = aligned_zeros((batch, input_size), dtype)
        self._y = aligned_zeros((batch, h_size), dtype)
        self._addresses = _address(self._x), _address(self._y)
        self._copies = max(self._x.nbytes, self._y.nbytes) <= COPIED_BYTES

    @property
    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """The current (h, c). The next call does not write to these arrays, but the one after it does."""
        h, c = self._state[self._stack.current]
        return h, c

    def step(self, x: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        """Run one step.

        Args:
          x: (batch, input_size).
          valid: contiguous bool (batch,). Rows where it is False keep their state and output zeros.

        Returns:
          Outputs (batch, h_size), a new array.
        """
        if valid is None and self._copies:
            self._x[...] = x
            x_address, y_address = self._addresses
            self._call(1, x_address, None, y_address)
            return self._y.copy()
        return self.run(x[None], None if valid is None else valid[None])[0]

    def run(self, x: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        """Run the steps of x (time, batch, input_size), as :meth:`step`."""
        x = np.ascontiguousarray(x)
        y = np.empty((*x.shape[:2], self._y.shape[1]), x.dtype)
        self._call(len(x), _address(x), None if valid is None else _address(valid), _address(y))
        return y

    def _call(self, time: int, x: int, valid: int | None, y: int) -> None:
        if not self._run(self._stack_address, time, x, valid, y):
            raise MemoryError("no memory for the intermediate results of a stream")


def _address(array: np.ndarray) -> int:
    return array.ctypes.data
