"""The state of a stream in compiled programs: buffers on the device, donated from call to call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm._shared.aligned import aligned_zeros
from jaxlstm.inference.buckets import bucket_of
from jaxlstm.inference.compiled_engine import CompiledEngine


class CompiledState:
    """The state (h, c) of ``batch`` sequences on the Engine's device, and the programs that advance it."""

    def __init__(self, engine: CompiledEngine, batch: int) -> None:
        self._engine = engine
        self._batch = batch
        self._step = engine.step_executable(batch)
        self._reset = _compile_reset(engine, batch)
        self.set(*(np.zeros(shape, engine.dtype) for shape in engine.config.state_shapes(batch)))

    def step(self, x: np.ndarray, active: np.ndarray | None) -> np.ndarray:
        """Run one step of x (batch, input_size)."""
        executable, extra = self._step, ()
        if active is not None:
            executable = self._engine.step_executable(self._batch, masked=True)
            extra = (active.astype(np.int32),)
        y, self._h, self._c = executable(self._engine.weights, x, self._h, self._c, *extra)
        return np.asarray(y)

    def run(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Run up to ``max_length`` steps of x (time, batch, input_size), zero after each length."""
        steps = bucket_of(len(x), self._engine.length_buckets)
        padded = aligned_zeros((steps, *x.shape[1:]), x.dtype)
        padded[: len(x)] = x
        executable = self._engine.batch_executable(steps, self._batch, donate=True)
        y, self._h, self._c = executable(self._engine.weights, padded, self._h, self._c, lengths)
        return np.asarray(y)[: len(x)]

    def reset(self, rows: np.ndarray) -> None:
        """Set some rows to zeros; ``rows`` is bool (batch,)."""
        self._replace(self._h, self._c, rows)

    def get(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of h and c."""
        return np.array(self._h), np.array(self._c)

    def set(self, h: np.ndarray, c: np.ndarray) -> None:
        """Copy (h, c) to buffers that can be donated, unlike buffers that share memory with NumPy."""
        h_new, c_new = jax.device_put((h, c), self._engine.device)
        self._replace(h_new, c_new, np.zeros(self._batch, bool))

    def _replace(self, h: jax.Array, c: jax.Array, zeroed: np.ndarray) -> None:
        """Replace the state by (h, c) with some rows set to zeros."""
        # The arguments may share memory with the caller's arrays, so wait until they have been read.
        self._h, self._c = jax.block_until_ready(self._reset(h, c, zeroed))


def _compile_reset(engine: CompiledEngine, batch: int) -> Any:
    """Compile ``(h, c, mask) -> (h, c)``, which sets the rows of the mask to zeros."""

    def reset(h: jax.Array, c: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        row = mask[:, None]
        return jnp.where(row, jnp.zeros_like(h), h), jnp.where(row, jnp.zeros_like(c), c)

    shapes = engine.state_shapes(batch)
    mask = jax.ShapeDtypeStruct((batch,), np.bool_, sharding=shapes[0].sharding)
    return jax.jit(reset, donate_argnums=(0, 1)).lower(*shapes, mask).compile()
