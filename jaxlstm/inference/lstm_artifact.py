"""``export`` and ``load_exported``: an LSTM as one file that runs without jaxlstm.

The file is a ``jax.export`` artifact: versioned StableHLO for several platforms, with symbolic batch and
time. A process without jaxlstm runs it::

    exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    outputs, h_n, c_n = exported.call(inputs, h_0, c_0)

If the weights are in a separate file, they come first: ``exported.call(weights, inputs, h_0, c_0)``, with
weights from ``safetensors.numpy.load_file``. The artifact always contains the plain scan, because a kernel
built for one machine may not run on the next.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from jaxlstm.functional import lstm
from jaxlstm.inference.artifact import check_arguments, read_artifact, read_weights, write_artifact
from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import METADATA_KEY, LSTMConfig, saved_metadata
from jaxlstm.layer.params import check_params, param_shapes
from jaxlstm.layer.precision import Precision, require_dtype
from jaxlstm.layer.validate import state_argument


def export(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: LSTMConfig,
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    dtype: Any = None,
    weights: str = "auto",
    precision: Precision = precision_.DEFAULT,
    overwrite: bool = False,
    assumed: Collection[str] = (),
) -> None:
    """Write ``(inputs, h_0, c_0) -> (outputs, h_n, c_n)`` as a ``jax.export`` artifact, atomically.

    Arguments and results have the shapes of ``jaxlstm.lstm`` with a batch axis. Batch and time are symbolic.

    Args:
      path: the file to write, such as ``model.stablehlo``.
      params: parameters under torch's names.
      config: the LSTM.
      platforms: platforms to compile for: "cpu", "cuda", "rocm", "tpu". They need not be present.
      dtype: dtype of weights, inputs and states; the dtype of the params if None.
      weights: "inside" the artifact, or "beside" it as ``model.safetensors``. "auto" means "inside" up to
        512 MiB.
      precision: precision of the matrix products, fixed in the artifact; see :mod:`jaxlstm.layer.precision`.
      overwrite: replace existing files that ``export`` did not write.
      assumed: arguments of the config that were assumed, which the file of separate weights records; see
        ``jaxlstm.save``.

    Raises:
      TypeError, ValueError: an argument has the wrong type, shape or value.
      FileExistsError: ``path`` is not an artifact, or the file of the weights does not belong to it.
    """
    path = Path(path)
    check_arguments(path, platforms, weights)
    check_params(params, config)
    dtype = require_dtype("dtype", dtype or next(iter(params.values())).dtype)
    arrays = {name: np.asarray(params[name]).astype(dtype) for name in param_shapes(config)}

    def jaxlstm_export(params: Any, inputs: Any, h_0: Any, c_0: Any) -> tuple[Any, Any, Any]:
        options: Any = {"config": config, "precision": precision, "backend": "scan"}
        outputs, state = lstm(params, inputs, (h_0, c_0), **options)
        return outputs, state.h, state.c

    metadata = {METADATA_KEY: saved_metadata("", config, assumed)}
    options: Any = {"platforms": platforms, "weights": weights, "overwrite": overwrite}
    write_artifact(path, jaxlstm_export, arrays, _shapes(config, dtype), metadata=metadata, **options)


class Exported:
    """An exported LSTM, loaded by :func:`load_exported`.

    Args:
      exported: the ``jax.export.Exported``.
      params: the weights, if they are in a separate file.
    """

    def __init__(self, exported: jax.export.Exported, params: Mapping[str, Any] | None) -> None:
        self.exported = exported
        self.params = params
        self._call = jax.jit(exported.call)

    def __call__(
        self, inputs: Any, initial_state: tuple[Any, Any] | None = None
    ) -> tuple[jax.Array, LSTMState]:
        """Run a batch from (h_0, c_0), zeros if None, and return the outputs and (h_n, c_n)."""
        x, h, c = self.exported.in_avals[-3:]
        if not hasattr(inputs, "dtype") or inputs.dtype != x.dtype:
            dtype = getattr(inputs, "dtype", type(inputs).__name__)
            raise TypeError(f"inputs must be a {x.dtype} array, got {dtype}")
        if np.ndim(inputs) != 3 or np.shape(inputs)[2] != x.shape[2]:
            raise ValueError(f"inputs must have shape {x.shape}, got {np.shape(inputs)}")
        if 0 in np.shape(inputs):
            raise ValueError(f"inputs must have at least one sequence and one step, got {np.shape(inputs)}")
        batch = inputs.shape[x.shape.index(h.shape[1])]
        shapes = [(leaf.shape[0], batch, leaf.shape[2]) for leaf in (h, c)]
        state = state_argument(initial_state, shapes, x.dtype)
        weights = () if self.params is None else (self.params,)
        outputs, h_n, c_n = self._call(*weights, inputs, *state)
        return outputs, LSTMState(h_n, c_n)


def load_exported(path: str | os.PathLike[str]) -> Exported:
    """Load a file that :func:`export` wrote, and its separate weights if it has them.

    Raises:
      ValueError: the file is not such an artifact, or the weights belong to another one.
      OSError: the file or its weights cannot be read.
    """
    path = Path(path)
    exported = read_artifact(path)
    if len(exported.in_avals) < 3 or any(a.ndim != 3 for a in exported.in_avals[-3:]):
        raise ValueError(f"{path} is not an LSTM artifact: its arguments are {exported.in_avals}")
    params = read_weights(path, exported)
    return Exported(exported, None if params is None else jax.device_put(params))


def _shapes(config: LSTMConfig, dtype: np.dtype) -> list[jax.ShapeDtypeStruct]:
    """Return inputs, h_0 and c_0 for batch b and time t, both at least 1."""
    b, t = jax.export.symbolic_shape("b, t", constraints=["b >= 1", "t >= 1"])
    axes = (b, t) if config.batch_first else (t, b)
    shapes = [(*axes, config.input_size), *config.state_shapes(b)]  # type: ignore[arg-type]
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
