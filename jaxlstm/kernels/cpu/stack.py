"""A stack of layers on weights that are packed once, run by the native library on NumPy arrays, without XLA.

XLA takes 15 to 25 microseconds to start a compiled program, more than a step of a small LSTM, and compiles a
program for each shape. Here ctypes calls the kernel.
"""

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import jax
import numpy as np

from jaxlstm._shared.aligned import aligned, aligned_zeros
from jaxlstm.kernels.cpu.library import DTYPE_NUMBERS, library
from jaxlstm.layer.cell import LSTM, Cell
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import direction_params
from jaxlstm.layer.precision import gate_dtype

SPIN = 1e-4
"""Seconds that helper threads spin after whole sequences. A call that follows at once need not wake them."""

COPIED_BYTES = 64 << 10
"""Inputs and outputs of a step up to this size are copied. Asking NumPy for an address takes longer."""

State = tuple[np.ndarray, np.ndarray]
"""(h, c) of all layers and directions, (layers * directions, batch, features); in half precision float32."""


def available_threads() -> int:
    """Return the number of threads that XLA uses: NPROC, or one for each CPU of this process."""
    requested = os.environ.get("NPROC", "")
    if requested.isdecimal() and int(requested) > 0:
        return int(requested)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(params: Mapping[str, np.ndarray], cell: Cell = LSTM) -> np.ndarray:
    """Pack the parameters of one direction for the current instruction set.

    Half-precision weights that it cannot multiply are widened to float32.
    """
    loaded = library()
    assert loaded.handle is not None
    dtype = params["weight_hh"].dtype
    dtype = loaded.product_dtype(dtype) if cell is LSTM else gate_dtype(dtype)
    wide = gate_dtype(dtype)
    arrays = {name: np.ascontiguousarray(leaf, dtype) for name, leaf in params.items() if "weight" in name}
    (gates, input_size), h_size = arrays["weight_ih"].shape, arrays["weight_hh"].shape[1]
    if "bias_ih" in params:
        parts = cell.place(params["bias_ih"], cell.of_x), cell.place(params["bias_hh"], cell.of_h)
        arrays["bias"] = parts[0].astype(wide) + parts[1].astype(wide)
    sizes = [ctypes.c_int64(size) for size in (cell.number, input_size, gates // len(cell.of_x), h_size)]
    number = DTYPE_NUMBERS[dtype.name]
    count = loaded.handle.jaxlstm_prepared_size(number, *sizes, "weight_hr" in arrays)
    prepared = aligned_zeros((count,), dtype)
    weights = (arrays.get(name) for name in ("weight_ih", "weight_hh", "bias", "weight_hr"))
    addresses = (*map(_pointer, weights), _pointer(prepared))
    loaded.handle.jaxlstm_prepare_weights(number, *sizes, *addresses)
    return prepared


@contextlib.contextmanager
def callers(count: int) -> Iterator[None]:
    """Announce ``count`` threads that call the kernel concurrently, each with its share of the cores.

    With many concurrent calls, one core per call is faster than all cores for each, because the threads of a
    call synchronize after each step.
    """
    handle = library().handle
    assert handle is not None
    handle.jaxlstm_add_callers(count)
    try:
        yield
    finally:
        handle.jaxlstm_add_callers(-count)


class _Layer(ctypes.Structure):
    """``Layer`` of stack.h."""

    _fields_ = (("input_size", ctypes.c_int64), ("prepared", ctypes.c_void_p * 2))


class _Stack(ctypes.Structure):
    """``Stack`` of stack.h, with a field for each element of its arrays h and c."""

    _fields_ = (
        ("dtype", ctypes.c_int64),
        ("layer_count", ctypes.c_int64),
        ("directions", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("hidden_size", ctypes.c_int64),
        ("h_size", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("spin_nanoseconds", ctypes.c_int64),
        ("layers", ctypes.POINTER(_Layer)),
        ("h_initial", ctypes.c_void_p),
        ("h_final", ctypes.c_void_p),
        ("c_initial", ctypes.c_void_p),
        ("c_final", ctypes.c_void_p),
        ("current", ctypes.c_int64),
    )


Addresses = tuple[int, int]
"""The addresses of h and c."""


class PackedLayers:
    """The packed weights of an LSTM. Threads may share them."""

    def __init__(self, params: Mapping[str, jax.Array], config: LSTMConfig, dtype: np.dtype) -> None:
        self.config, self.dtype = config, dtype
        self._state_dtype = np.dtype(gate_dtype(dtype))
        arrays = {name: np.asarray(leaf) for name, leaf in params.items()}
        self.prepared = [
            [
                prepare(direction_params(arrays, config, layer, direction))
                for direction in range(config.num_directions)
            ]
            for layer in range(config.num_layers)
        ]
        addresses = [(ctypes.c_void_p * 2)(*map(_address, layer)) for layer in self.prepared]
        sizes = map(config.layer_input_size, range(config.num_layers))
        self._layers = (_Layer * config.num_layers)(*zip(sizes, addresses, strict=True))
        # Building a struct takes longer than copying one and setting some fields.
        self._template = _Stack(
            DTYPE_NUMBERS[dtype.name],
            layer_count=config.num_layers,
            directions=config.num_directions,
            hidden_size=config.hidden_size,
            h_size=config.state_shapes(1)[0][-1],
            threads=available_threads(),
            layers=self._layers,
        )
        # The initial h and c of calls without one, for the largest batch so far. The kernel only reads it.
        self._zeros = aligned(np.zeros, (0,), self._state_dtype)

    def run(
        self, x: np.ndarray, lengths: np.ndarray | None, state: State | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run whole sequences.

        Args:
          x: (time, batch, input_size). Padding may hold any numbers.
          lengths: integers (batch,), from 0 to time. After its length, a row keeps its state and outputs
            zeros. None if every step is valid.
          state: the initial state; zeros if None.

        Returns:
          The outputs (time, batch, output_size) and the final h and c, of the dtype of the weights.
        """
        batch = x.shape[1]
        if state is None:
            zeros = self._shared_zeros(batch)  # a local variable, since another thread may replace them
            initial = zeros[1], zeros[1]
        else:
            h, c = (_dense(np.asarray(leaf, self._state_dtype)) for leaf in state)
            initial = _address(h), _address(c)
        (h_n, c_n), final = self.new_state(np.empty, batch)
        stack = self.stack(batch, initial, final, spin=SPIN)
        outputs = _outputs(_call_of(stack), x, _valid(x, lengths), self.config.output_size)
        return outputs, h_n.astype(self.dtype, copy=False), c_n.astype(self.dtype, copy=False)

    def _shared_zeros(self, batch: int) -> tuple[np.ndarray, int]:
        size = max(map(math.prod, self.config.state_shapes(batch)))
        zeros = self._zeros
        if zeros[0].size < size:
            self._zeros = zeros = aligned(np.zeros, (size,), self._state_dtype)
        return zeros

    def new_state(self, make: Callable[..., np.ndarray], batch: int) -> tuple[State, Addresses]:
        """Return a state made by ``np.zeros`` or ``np.empty``, and its addresses."""
        h_shape, c_shape = self.config.state_shapes(batch)
        h, h_address = aligned(make, h_shape, self._state_dtype)
        c, c_address = aligned(make, c_shape, self._state_dtype)
        return (h, c), (h_address, c_address)

    def stack(self, batch: int, initial: Addresses, final: Addresses, *, spin: float) -> _Stack:
        """Return the layers between two buffers of the state, of which ``initial`` is the current one."""
        stack = _Stack.from_buffer_copy(self._template)
        stack.batch, stack.spin_nanoseconds = batch, round(1e9 * spin)
        stack.h_initial, stack.c_initial = initial
        stack.h_final, stack.c_final = final
        return stack


class LayerStack:
    """Layers and their state (h, c), which each call advances. One thread at a time may use it.

    Helper threads spin for ``spin`` seconds after a call before they sleep.
    """

    def __init__(self, layers: PackedLayers, batch: int, spin: float) -> None:
        self._layers = layers  # keeps the weights alive
        self._states, addresses = zip(*(layers.new_state(np.zeros, batch) for _ in range(2)), strict=True)
        self._stack = layers.stack(batch, *addresses, spin=spin)
        self._call = _call_of(self._stack)
        self._x = aligned_zeros((batch, layers.config.input_size), layers.dtype)
        self._y = aligned_zeros((batch, layers.config.output_size), layers.dtype)
        self._addresses = _address(self._x), _address(self._y)
        self._copies = max(self._x.nbytes, self._y.nbytes) <= COPIED_BYTES

    @property
    def _state(self) -> State:
        """The current (h, c). The next call does not write to these arrays, but the one after it does."""
        return self._states[self._stack.current]

    def step(self, x: np.ndarray, active: np.ndarray | None) -> np.ndarray:
        """Run one step.

        Args:
          x: (batch, input_size).
          active: contiguous bool (batch,). Rows where it is False keep their state and output zeros.

        Returns:
          Outputs (batch, output_size), a new array.
        """
        if active is None and self._copies:
            self._x[...] = x
            x_address, y_address = self._addresses
            self._call(1, x_address, None, y_address)
            return self._y.copy()
        return _outputs(self._call, x[None], None if active is None else active[None], self._y.shape[1])[0]

    def run(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Run the steps of x (time, batch, input_size) within the lengths, as ``PackedLayers.run``."""
        return _outputs(self._call, x, _valid(x, lengths), self._y.shape[1])

    def reset(self, rows: np.ndarray) -> None:
        """Set the state of some rows to zeros; ``rows`` is bool (batch,)."""
        for leaf in self._state:
            leaf[:, rows] = 0

    def get(self) -> State:
        """Return copies of h and c, rounded to the dtype of the weights."""
        h, c = self._state
        return h.astype(self._layers.dtype), c.astype(self._layers.dtype)

    def set(self, h: np.ndarray, c: np.ndarray) -> None:
        """Copy (h, c) into the state."""
        for leaf, new in zip(self._state, (h, c), strict=True):
            leaf[...] = new


Call = Callable[[int, int, int | None, int], None]
"""``(time, x, valid, y)`` to nothing, by the addresses of the arrays."""


def _call_of(stack: _Stack) -> Call:
    """Return a function that runs steps of a stack, which the caller keeps alive."""
    address = ctypes.addressof(stack)
    run = _library_function()

    def call(time: int, x: int, valid: int | None, y: int) -> None:
        if not run(address, time, x, valid, y):
            raise MemoryError("no memory for the intermediate results of an LSTM")

    return call


@cache
def _library_function() -> Callable[..., bool]:
    handle = library().handle
    assert handle is not None
    return handle.jaxlstm_run_stack


def _valid(x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray | None:
    """Return a mask (time, batch) of the steps of x within the lengths; None if all steps are."""
    if lengths is None or lengths.min() == len(x):
        return None
    return np.arange(len(x))[:, None] < lengths


def _outputs(call: Call, x: np.ndarray, valid: np.ndarray | None, features: int) -> np.ndarray:
    """Run the steps of x (time, batch, input_size) and return their outputs (time, batch, features)."""
    x = _dense(x)
    y, y_address = aligned(np.empty, (*x.shape[:2], features), x.dtype)
    call(len(x), _address(x), None if valid is None else _address(valid), y_address)
    return y


def _dense(array: np.ndarray) -> np.ndarray:
    """Return an array that C++ can read: contiguous, and aligned to its elements."""
    return array if array.flags.c_contiguous and array.flags.aligned else np.array(array, order="C")


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _pointer(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
