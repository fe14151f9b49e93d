"""One LSTM on many devices: over the batch, over the hidden units, or both.

A mesh has the axes "data" and "hidden", or one of them. Along "data" each device has sequences of its own,
and nothing is sent. Along "hidden" each device has all four gates of its own units, (4, H/n, ...) of each
matrix, so that its part of c never leaves it and a step needs one all-gather of h and nothing else. What is
gathered is also the output, hence the next layer's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlstm import precision as precision_
from jaxlstm.cell import LSTMState, cell_step, input_gates
from jaxlstm.config import LSTMConfig
from jaxlstm.lengths import as_lengths, valid_steps
from jaxlstm.params import Params, check_params, direction_params, param_shapes
from jaxlstm.precision import Precision, as_float_array, linear
from jaxlstm.validate import state_argument

AXES = ("data", "hidden")


def shard(config: LSTMConfig, mesh: Mesh, *, precision: Precision = precision_.DEFAULT) -> Sharded:
    """An LSTM over the devices of ``mesh``, for inference and for training.

    ::

        mesh = jax.make_mesh((2, 4), ("data", "hidden"))
        lstm = jaxlstm.inference.shard(config, mesh)
        params = lstm.place(params)
        outputs, state = jax.jit(lstm)(params, inputs)

    Args:
      config: the LSTM; hidden_size must divide by the size of "hidden".
      mesh: with axes "data" and "hidden", or one of them; of one process or of several.
      precision: of the matrix products, see :mod:`jaxlstm.precision`.

    Raises:
      ValueError: the mesh has another axis, or hidden_size does not divide.
    """
    return Sharded(config, mesh, precision)


class Sharded:
    """What :func:`shard` returns: a function of placed params, to be jitted and differentiated at will."""

    def __init__(self, config: LSTMConfig, mesh: Mesh, precision: Precision) -> None:
        if not mesh.axis_names or set(mesh.axis_names) - set(AXES):
            raise ValueError(f"the axes of mesh must be of {AXES}, got {mesh.axis_names}")
        self.config = config
        # axes of the "auto" kind, so that arguments may come from anywhere and are moved by the compiler
        self.mesh = Mesh(mesh.devices, mesh.axis_names)
        self.precision = precision
        self._data, self._hidden = (axis if axis in mesh.shape else None for axis in AXES)
        if config.hidden_size % mesh.shape.get("hidden", 1):
            raise ValueError(
                f"hidden_size must be a multiple of the {mesh.shape['hidden']} devices along 'hidden', "
                f"got {config.hidden_size}"
            )

    def place(self, params: Mapping[str, Any]) -> Params:
        """Params in torch's shapes, onto the devices: (4H, ...) as (4, H, ...), H split along "hidden".

        ``weight_hr`` keeps its shape and is on every device.
        """
        check_params(params, self.config)
        placed = {}
        for name, leaf in params.items():
            array = leaf
            if not name.startswith("weight_hr"):
                array = jnp.reshape(leaf, (4, self.config.hidden_size, *leaf.shape[1:]))
            placed[name] = jax.device_put(array, NamedSharding(self.mesh, self._spec(name)))
        return placed

    def gather(self, placed: Mapping[str, Any]) -> Params:
        """The inverse of :meth:`place`, for params and for their gradients."""
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
        """``jaxlstm.lstm`` of a batch: its axes, its results; params come from :meth:`place`.

        Raises:
          TypeError: no float arrays, or not all of one dtype.
          ValueError: params that :meth:`place` did not make, inputs without a batch axis, a batch that
            the axis "data" does not divide, or a state of another shape.
        """
        x = as_float_array("inputs", inputs)
        if x.ndim != 3 or x.shape[2] != self.config.input_size:
            raise ValueError(
                f"inputs must have 3 axes, the last of {self.config.input_size}; got {x.shape}"
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
        lengths = None if seq_lengths is None else as_lengths(seq_lengths, batch, time)
        data, hidden = self._data, self._hidden
        row, unit = P(None, data), P(None, data, hidden)
        run = jax.shard_map(
            self._on_one_device,
            mesh=self.mesh,
            in_specs=({name: self._spec(name) for name in params}, row, (row, unit), P(data)),
            out_specs=(row, (row, unit)),
            check_vma=False,  # h is the same along "hidden", which an all-gather does not tell the checker
        )
        if lengths is None:
            lengths = jnp.full(batch, time, jnp.int32)
        outputs, (h_n, c_n) = run(dict(params), x, (state.h, state.c), lengths)
        outputs = outputs.swapaxes(0, 1) if self.config.batch_first else outputs
        return outputs, LSTMState(h_n, c_n)

    def _check_placed(self, params: Mapping[str, Any], dtype: np.dtype) -> None:
        rows = (4, self.config.hidden_size)
        for name, shape in param_shapes(self.config).items():
            wanted = shape if name.startswith("weight_hr") else (*rows, *shape[1:])
            found = np.shape(params[name]) if name in params else "none"
            if found != wanted:
                raise ValueError(
                    f"params must come from Sharded.place, which gives {name} of shape {wanted}; got {found}"
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
        """All layers with the gates, sequences and part of c that this device has; h and x are whole."""
        valid = valid_steps(lengths, x.shape[0])
        x = jnp.where(valid[:, :, None], x, jnp.zeros_like(x))
        params = self.gather(params)
        final = []
        for layer in range(self.config.num_layers):
            outputs = []
            for direction in range(self.config.num_directions):
                slot = layer * self.config.num_directions + direction
                weights = direction_params(params, self.config, layer, direction)
                first = LSTMState(state[0][slot], state[1][slot])
                last, y = self._direction(weights, x, first, valid, direction == 1)
                outputs.append(y)
                final.append(last)
            x = jnp.concatenate(outputs, axis=-1)
        return x, (jnp.stack([s.h for s in final]), jnp.stack([s.c for s in final]))

    def _direction(
        self, params: Params, x: jax.Array, first: LSTMState, valid: jax.Array, reverse: bool
    ) -> tuple[LSTMState, jax.Array]:
        projection = params.pop("weight_hr", None)

        def step(state: LSTMState, inputs: tuple) -> tuple[LSTMState, jax.Array]:
            x_gates, step_valid = inputs
            part, c = cell_step(params, x_gates, state, precision=self.precision)
            h = part
            if self._hidden is not None:
                h = lax.all_gather(part, self._hidden, axis=1, tiled=True)
            if projection is not None:
                h = linear(h, projection, precision=self.precision).astype(h.dtype)
            row = step_valid[:, None]
            kept = LSTMState(jnp.where(row, h, state.h), jnp.where(row, c, state.c))
            return kept, jnp.where(row, h, jnp.zeros_like(h))

        x_gates = input_gates(params, x, precision=self.precision)
        return lax.scan(step, first, (x_gates, valid), reverse=reverse)
