"""``shard``: one LSTM over many devices, split over the batch, the hidden units, or both.

The mesh has an axis "data", an axis "hidden", or both. Along "data", each device has its share of the
sequences and sends nothing. Along "hidden", each device has all four gates of its share of the units: rows
(4, H/n, ...) of each matrix. Its part of c therefore never leaves the device, and a step needs one all-gather
of h. The gathered h is also the output, hence the input of the next layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTM, LSTMState, StepDerivative
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import Params, check_params, param_shapes
from jaxlstm.layer.precision import Precision, as_float_array
from jaxlstm.layer.ragged import as_lengths, valid_steps
from jaxlstm.layer.scan import forward, forward_both
from jaxlstm.layer.stack import stack_by_direction
from jaxlstm.layer.validate import state_argument

AXES = ("data", "hidden")


def shard(config: LSTMConfig, mesh: Mesh, *, precision: Precision = precision_.DEFAULT) -> Sharded:
    """Return an LSTM over the devices of ``mesh``, for inference and training.

    ::

        mesh = jax.make_mesh((2, 4), ("data", "hidden"))
        lstm = jaxlstm.inference.shard(config, mesh)
        params = lstm.place(params)
        outputs, state = jax.jit(lstm)(params, inputs)

    Args:
      config: the LSTM. The size of "hidden" must divide hidden_size.
      mesh: a mesh with axes "data" and "hidden", or one of them, of one process or of several.
      precision: precision of the matrix products; see :mod:`jaxlstm.layer.precision`.

    Raises:
      ValueError: the mesh has another axis, or the size of "hidden" does not divide hidden_size.
    """
    return Sharded(config, mesh, precision)


class Sharded:
    """An LSTM over a mesh, made by :func:`shard`: a pure function that can be jitted and differentiated."""

    def __init__(self, config: LSTMConfig, mesh: Mesh, precision: Precision) -> None:
        if not mesh.axis_names or set(mesh.axis_names) - set(AXES):
            raise ValueError(f"the axes of mesh must be some of {AXES}, got {mesh.axis_names}")
        self.config = config
        # With axes of the "auto" kind the compiler moves arguments to where they are needed.
        self.mesh = Mesh(mesh.devices, mesh.axis_names)
        self.precision = precision
        self._data, self._hidden = (axis if axis in mesh.shape else None for axis in AXES)
        if config.hidden_size % mesh.shape.get("hidden", 1):
            raise ValueError(
                f"hidden_size must be a multiple of the {mesh.shape['hidden']} devices along 'hidden', "
                f"got {config.hidden_size}"
            )

    def place(self, params: Mapping[str, Any]) -> Params:
        """Move params in torch's shapes to the devices.

        A parameter (4H, ...) becomes (4, H, ...), with H split along "hidden". ``weight_hr`` keeps its shape
        and is replicated.
        """
        check_params(params, self.config)
        placed = {}
        for name, leaf in params.items():
            array = as_float_array(name, leaf, copy=True)
            if not name.startswith("weight_hr"):
                array = jnp.reshape(array, (4, self.config.hidden_size, *array.shape[1:]))
            placed[name] = jax.device_put(array, NamedSharding(self.mesh, self._spec(name)))
        return placed

    def gather(self, placed: Mapping[str, Any]) -> Params:
        """Return params in torch's shapes: the inverse of :meth:`place`, also for gradients."""
        return {
            name: leaf if name.startswith("weight_hr") else leaf.reshape(-1, *leaf.shape[2:])
            for name, leaf in placed.items()
        }

    def __call__(
        self,
        params: Mapping[str, Any],
        inputs: Any,
        initial_state: tuple[Any, Any] | None = None,
        seq_lengths: Any = None,
    ) -> tuple[jax.Array, LSTMState]:
        """Run a batch like ``jaxlstm.lstm``, with params from :meth:`place`.

        Raises:
          TypeError: an argument is not a float array, or the dtypes differ.
          ValueError: the params do not come from :meth:`place`, the inputs have no batch axis, "data" does
            not divide the batch, or the state has the wrong shape.
        """
        x = as_float_array("inputs", inputs)
        if x.ndim != 3 or x.shape[2] != self.config.input_size:
            raise ValueError(
                f"inputs must have 3 axes, the last of size {self.config.input_size}; got {x.shape}"
            )
        self._check_placed(params, x.dtype)
        x = x.swapaxes(0, 1) if self.config.batch_first else x
        time, batch = x.shape[:2]
        if batch % self.mesh.shape.get("data", 1):
            raise ValueError(
                f"the batch must be a multiple of the {self.mesh.shape['data']} devices along 'data', "
                f"got {batch}"
            )
        state = state_argument(initial_state, self.config.state_shapes(batch), x.dtype)
        if seq_lengths is None:
            lengths = jnp.full(batch, time, jnp.int32)
        else:
            lengths = as_lengths(seq_lengths, batch, time)
        row, unit = P(None, self._data), P(None, self._data, self._hidden)
        run = jax.shard_map(
            self._on_one_device,
            mesh=self.mesh,
            in_specs=({name: self._spec(name) for name in params}, row, (row, unit), P(self._data)),
            out_specs=(row, (row, unit)),
            # h is replicated along "hidden", which the checker does not infer from an all-gather.
            check_vma=False,
        )
        outputs, (h_n, c_n) = run(dict(params), x, (state.h, state.c), lengths)
        outputs = outputs.swapaxes(0, 1) if self.config.batch_first else outputs
        return outputs, LSTMState(h_n, c_n)

    def _check_placed(self, params: Mapping[str, Any], dtype: np.dtype) -> None:
        rows = (4, self.config.hidden_size)
        for name, shape in param_shapes(self.config).items():
            expected = shape if name.startswith("weight_hr") else (*rows, *shape[1:])
            actual = np.shape(params[name]) if name in params else "none"
            if actual != expected:
                raise ValueError(
                    f"params must come from Sharded.place, which gives {name} the shape {expected}; "
                    f"got {actual}"
                )
            if params[name].dtype != dtype:
                raise TypeError(
                    f"inputs and params must have one dtype, got inputs {dtype} and {name} "
                    f"{params[name].dtype}; cast one of them with .astype"
                )

    def _spec(self, name: str) -> P:
        return P() if name.startswith("weight_hr") else P(None, self._hidden)

    def _on_one_device(
        self, params: Params, x: jax.Array, state: tuple[jax.Array, jax.Array], lengths: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Run all layers on this device's share of the gates, c and sequences. h and x are whole."""
        x = jnp.where(valid_steps(lengths, x.shape[0])[:, :, None], x, jnp.zeros_like(x))
        cell = LSTM if self._hidden is None else replace(LSTM, step=partial(_gathered_step, self._hidden))
        outputs, final = stack_by_direction(
            partial(forward, cell=cell),
            partial(forward_both, cell=cell),
            self.gather(params),
            x,
            LSTMState(*state),
            lengths,
            config=self.config,
            precision=self.precision,
        )
        return outputs, (final.h, final.c)


def _gathered_step(
    axis: str, z: Sequence[jax.Array], state: LSTMState
) -> tuple[jax.Array, jax.Array, Callable[[], StepDerivative]]:
    """Return the step of an LSTM with m of all units, before a projection; z and c are this device's."""
    m, c_next, derivative = LSTM.step(z, state)
    return lax.all_gather(m.astype(state.h.dtype), axis, axis=1, tiled=True), c_next, derivative
