"""``verify_cell``: the verdict on a port of ``torch.nn.LSTMCell``."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm.check._verify import verify
from jaxlstm.check.exceptions import PortError
from jaxlstm.check.report.report import Report
from jaxlstm.check.subjects.port import name_of
from jaxlstm.layer.config import LSTMConfig, require_config


def verify_cell(
    step: Callable[..., Any], params: Mapping[str, Any] | None, config: LSTMConfig, **settings: Any
) -> Report:
    """Check that ``step`` equals ``torch.nn.LSTMCell``, by calling it over whole sequences.

    Args:
      step: ``step(x, (h, c)) -> (h, c)`` on JAX arrays x (batch, input_size), h (batch, h_size) and c
        (batch, hidden_size). If it has an argument named ``params``, it receives the parameters.
      params: as for :func:`jaxlstm.check.verify`.
      config: an ``LSTMCellConfig``, or an ``LSTMConfig`` of one layer and one direction.
      settings: the keyword arguments of :func:`jaxlstm.check.verify`.

    Raises:
      ValueError: if the config has several layers or directions.
      PortError: if ``step`` cannot be called in this way or does not return a pair.
    """
    config = require_config(config)
    if config.num_layers > 1 or config.bidirectional:
        raise ValueError(f"config must have one layer and one direction, got {config}")
    if not callable(step):
        raise PortError(f"step must be callable, got {type(step).__name__}")

    def over_time(inputs: Any, initial_state: Any, **params: Any) -> Any:
        if initial_state is None:
            initial_state = [np.zeros(shape, inputs.dtype) for shape in config.state_shapes(inputs.shape[1])]
        (h,), (c,) = map(_steps, initial_state)
        outputs = []
        for x in _steps(inputs):
            state = step(x, (h, c), **params)
            try:
                h, c = state
            except (TypeError, ValueError):
                raise PortError(f"step must return a pair (h, c), got {type(state).__name__}") from None
            outputs.append(h)
        return _stack(outputs), (_stack([h]), _stack([c]))

    def without_params(inputs: Any, initial_state: Any) -> Any:
        return over_time(inputs, initial_state)

    port = over_time if "params" in inspect.signature(step).parameters else without_params
    port.__name__ = name_of(step)
    return verify(port, params, config, **settings)


def _steps(inputs: Any) -> Any:
    # Indexing or stacking JAX arrays compiles a program for each shape. NumPy serves where nothing is traced.
    if isinstance(inputs, Tracer):
        return inputs
    return map(jax.device_put, np.asarray(inputs))


def _stack(arrays: list[Any]) -> Any:
    if any(isinstance(a, Tracer) for a in arrays):
        return jnp.stack(arrays)
    return jax.device_put(np.stack([np.asarray(a) for a in arrays]))
