"""An LSTM as one file that runs without jaxlstm: ``export`` and ``load_exported``.

The file is what ``jax.export`` serializes: StableHLO, versioned, for several platforms at once, with the
batch and the time left open. Where jaxlstm is not installed::

    exported = jax.export.deserialize(open("model.stablehlo", "rb").read())
    outputs, h_n, c_n = exported.call(inputs, h_0, c_0)

Weights beside the file come first then: ``exported.call(weights, inputs, h_0, c_0)``, where weights are what
``safetensors.numpy.load_file`` returns.
It is always the plain scan that is exported: a kernel of one machine's would not run on the next.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from jaxlstm import precision as precision_
from jaxlstm.cell import LSTMState
from jaxlstm.config import LSTMConfig
from jaxlstm.params import check_params, param_shapes
from jaxlstm.precision import Precision, require_dtype
from jaxlstm.functional import lstm

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
WEIGHTS = ("auto", "inside", "beside")
INSIDE_LIMIT = 512 * 2**20
"""Bytes of weights above which "auto" puts them beside: a serialized module must stay below 2 GiB."""


def export(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: LSTMConfig,
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    dtype: Any = None,
    weights: str = "auto",
    precision: Precision = precision_.DEFAULT,
) -> None:
    """Write ``(inputs, h_0, c_0) -> (outputs, h_n, c_n)`` as one ``jax.export`` artifact, atomically.

    Shapes are those of ``jaxlstm.lstm`` with a batch axis, in the config's axis order; batch and time are
    symbolic.

    Args:
      path: the file to write, ``model.stablehlo`` say.
      params: under torch's names.
      config: the LSTM.
      platforms: where it shall run: of "cpu", "cuda", "rocm", "tpu". None of them need be here.
      dtype: of weights, inputs and states; that of the params if None.
      weights: "inside" the file, or "beside" it as ``model.safetensors``; "auto": inside up to 512 MiB.
      precision: of the matrix products, see :mod:`jaxlstm.precision`; fixed in the artifact.

    Raises:
      TypeError, ValueError: an argument does not fit.
    """
    from jaxlstm._shared.atomic import write_atomically
    from jaxlstm_converters.write._save import save

    path = Path(path)
    _require_flatbuffers()
    _check(path, platforms, weights)
    check_params(params, config)
    dtype = require_dtype("dtype", dtype or next(iter(params.values())).dtype)
    arrays = {name: np.asarray(params[name]).astype(dtype) for name in param_shapes(config)}
    beside = goes_beside(arrays, weights)

    def run(params: Any, inputs: Any, h_0: Any, c_0: Any) -> tuple[Any, Any, Any]:
        outputs, state = lstm(
            params, inputs, (h_0, c_0), config=config, precision=precision, backend="scan"
        )
        return outputs, state.h, state.c

    def run_inside(inputs: Any, h_0: Any, c_0: Any) -> tuple[Any, Any, Any]:
        return run(arrays, inputs, h_0, c_0)

    shapes = _shapes(config, dtype)
    make = jax.export.export(jax.jit(run if beside else run_inside), platforms=tuple(platforms))
    if beside:
        leaves = {name: jax.ShapeDtypeStruct(leaf.shape, dtype) for name, leaf in arrays.items()}
        exported = make(leaves, *shapes)
        save(weights_beside(path), arrays, config, overwrite=True)
    else:
        exported = make(*shapes)
    write_atomically(path, [bytes(exported.serialize())])


def goes_beside(arrays: Mapping[str, Any], weights: str) -> bool:
    """Whether :func:`export` puts these weights beside the file."""
    nbytes = sum(array.nbytes for array in arrays.values())
    return weights == "beside" or (weights == "auto" and nbytes > INSIDE_LIMIT)


def weights_beside(path: Path) -> Path:
    """The name of the weights: ``m.safetensors`` for ``m.stablehlo``, ``v.1.safetensors`` for ``v.1``."""
    stem = path.name.removesuffix(".stablehlo")
    return path.with_name(stem + ".safetensors")


class Exported:
    """What :func:`load_exported` returns: an artifact that is called like an LSTM.

    Args:
      exported: the ``jax.export.Exported``.
      params: the weights, if they are not inside.
    """

    def __init__(self, exported: jax.export.Exported, params: Mapping[str, Any] | None) -> None:
        self.exported = exported
        self.params = params
        self._call = jax.jit(exported.call)

    def __call__(
        self, inputs: Any, initial_state: tuple[Any, Any] | None = None
    ) -> tuple[jax.Array, LSTMState]:
        """Inputs with a batch axis, and (h_0, c_0) or None for zeros, to outputs and (h_n, c_n)."""
        x, h, c = self.exported.in_avals[-3:]
        if not hasattr(inputs, "dtype") or inputs.dtype != x.dtype:
            raise TypeError(
                f"inputs must be a {x.dtype} array, got {getattr(inputs, 'dtype', type(inputs).__name__)}"
            )
        if np.ndim(inputs) != 3 or np.shape(inputs)[2] != x.shape[2]:
            raise ValueError(f"inputs must have shape {x.shape}, got {np.shape(inputs)}")
        if 0 in np.shape(inputs):
            raise ValueError(
                f"inputs must have at least one sequence and one step, got {np.shape(inputs)}"
            )
        batch = inputs.shape[x.shape.index(h.shape[1])]
        if initial_state is None:
            initial_state = tuple(
                np.zeros((leaf.shape[0], batch, leaf.shape[2]), leaf.dtype) for leaf in (h, c)
            )  # type: ignore[assignment]
        _check_state(initial_state, (h, c), batch)
        weights = () if self.params is None else (self.params,)
        outputs, h_n, c_n = self._call(*weights, inputs, *initial_state)  # type: ignore[misc]
        return outputs, LSTMState(h_n, c_n)


def load_exported(path: str | os.PathLike[str]) -> Exported:
    """Open what :func:`export` wrote, with the weights beside it if they are there.

    Raises:
      ValueError: the file is no such artifact.
      OSError: it is not there, or the weights that it needs are not.
    """
    path = Path(path)
    _require_flatbuffers()
    data = path.read_bytes()
    try:
        exported = jax.export.deserialize(bytearray(data))
    except (ValueError, TypeError, IndexError, KeyError, AssertionError, struct.error) as error:
        raise ValueError(f"{path} is no artifact of jax.export: {error}") from error
    if len(exported.in_avals) < 3 or any(a.ndim != 3 for a in exported.in_avals[-3:]):
        raise ValueError(f"{path} is no artifact of jaxlstm: its arguments are {exported.in_avals}")
    if len(exported.in_avals) == 3:
        return Exported(exported, None)
    from jaxlstm_converters.lstm._load import load_numpy

    params, config = load_numpy(weights_beside(path))
    (wanted, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    if {name: (leaf.shape, leaf.dtype) for name, leaf in wanted.items()} != {
        name: (leaf.shape, leaf.dtype) for name, leaf in params.items()
    }:
        raise ValueError(
            f"{weights_beside(path)} does not hold the weights of {path}, but of {config} in "
            f"{params.popitem()[1].dtype}; export both again"
        )
    return Exported(exported, jax.device_put(params))


def _check_state(state: Any, wanted: Sequence[Any], batch: int) -> None:
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        raise TypeError(f"initial_state must be a pair (h_0, c_0), got {type(state).__name__}")
    for name, leaf, aval in zip(("h_0", "c_0"), state, wanted, strict=True):
        shape = (aval.shape[0], batch, aval.shape[2])
        if np.shape(leaf) != shape or getattr(leaf, "dtype", None) != aval.dtype:
            raise ValueError(
                f"{name} must be a {aval.dtype} array of shape {shape}, got "
                f"{getattr(leaf, 'dtype', type(leaf).__name__)} of {np.shape(leaf)}"
            )


def _require_flatbuffers() -> None:
    """What jax.export serializes with, asked for by name where it is missing."""
    try:
        import flatbuffers  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "artifacts of jax.export need flatbuffers: pip install 'jaxlstm[export]'"
        ) from None


def _check(path: Path, platforms: Sequence[str], weights: str) -> None:
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms or isinstance(platforms, str):
        raise ValueError(f"platforms must be some of {PLATFORMS}, got {platforms!r}")
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {WEIGHTS}, got {weights!r}")
    if path.suffix == ".safetensors":
        raise ValueError(
            f"{path} is the name that weights beside the file would have; take another"
        )


def _shapes(config: LSTMConfig, dtype: np.dtype) -> list[jax.ShapeDtypeStruct]:
    """inputs, h_0 and c_0 of batch b and time t, both at least 1."""
    b, t = jax.export.symbolic_shape("b, t", constraints=["b >= 1", "t >= 1"])
    axes = (b, t) if config.batch_first else (t, b)
    shapes = [(*axes, config.input_size), *config.state_shapes(b)]  # type: ignore[arg-type]
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
