"""``export`` and ``load_exported``: an LSTM or a program as one file that runs without jaxlstm and torch.

The file is a ``jax.export`` artifact: versioned StableHLO for several platforms, in which batch and time, or
the free axes of a program, are symbolic. A process without jaxlstm runs it::

    exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    outputs, h_n, c_n = exported.call(inputs, h_0, c_0)

The arguments of a program are the tensors of ``program.inputs``, in order. If the weights are in a separate
file, they come first: ``exported.call(weights, inputs, h_0, c_0)``, with weights from
``safetensors.numpy.load_file``. The artifact always contains the plain scan for an LSTM, because a kernel
built for one machine may not run on the next.
"""

import contextlib
import os
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxlstm._shared.files import require_exists, require_folder_of, require_replaceable, write_together
from jaxlstm._shared.imports import import_optional
from jaxlstm._shared.safetensors import read_safetensors, safetensors_bytes
from jaxlstm.functional import lstm
from jaxlstm.layer import precision as precision_
from jaxlstm.layer.cell import LSTMState
from jaxlstm.layer.config import METADATA_KEY, LSTMConfig, saved_metadata
from jaxlstm.layer.params import check_params, param_shapes
from jaxlstm.layer.precision import Precision, require_dtype
from jaxlstm.layer.validate import state_argument
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.inputs import as_arguments
from jaxlstm.programs.program import Program
from jaxlstm.programs.sizes.guards import UNBOUNDED, sizes_allowed

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
WEIGHTS = ("auto", "inside", "beside")
INSIDE_LIMIT = 512 * 2**20
"""Bytes of weights above which "auto" writes a separate file. A serialized module must be below 2 GiB."""


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
    check_params(params, config)
    dtype = require_dtype("dtype", dtype or next(iter(params.values())).dtype)
    arrays = {name: np.asarray(params[name]).astype(dtype) for name in param_shapes(config)}
    b, t = jax.export.symbolic_shape("b, t", constraints=["b >= 1", "t >= 1"])
    inputs_shape = (*((b, t) if config.batch_first else (t, b)), config.input_size)
    state_shapes = config.state_shapes(b)  # type: ignore[arg-type]
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (inputs_shape, *state_shapes)]

    def jaxlstm_export(params: Any, inputs: Any, h_0: Any, c_0: Any) -> tuple[Any, Any, Any]:
        options: Any = {"config": config, "precision": precision, "backend": "scan"}
        outputs, state = lstm(params, inputs, (h_0, c_0), **options)
        return outputs, state.h, state.c

    options: Any = {"platforms": platforms, "weights": weights, "overwrite": overwrite}
    metadata = {METADATA_KEY: saved_metadata("", config, assumed)}
    _write(Path(path), jaxlstm_export, arrays, shapes, metadata=metadata, **options)


def export_program(
    path: str | os.PathLike[str],
    program: Program,
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    weights: str = "auto",
    overwrite: bool = False,
) -> jax.export.Exported:
    """Write a program as a ``jax.export`` artifact, atomically, and return it.

    Its free axes have the sizes that keep the program's conditions, on the side of the example of the export
    where a condition excludes some. They start at 1, or at 2 if operators treat 1 in another way. For the
    arguments see :func:`export`.

    Raises:
      ProgramError: a condition holds for some of these sizes only.
    """
    function = positional(program.with_options(backend="scan"))
    arrays = {name: np.asarray(array) for name, array in program.params.items()}
    options: Any = {"platforms": platforms, "weights": weights, "overwrite": overwrite}
    try:
        return _write(Path(path), function, arrays, _shapes(program, smallest=1), **options)
    except ProgramError:
        return _write(Path(path), function, arrays, _shapes(program, smallest=2), **options)


def positional(program: Program) -> Callable[..., Any]:
    """Return a program as a function of parameters and tensors, with positional arguments only.

    The tensors follow ``program.inputs``, without the inputs that the export fixed.
    Named tuples among the results become tuples, and sizes become arrays.
    """

    def jaxlstm_program(params: Mapping[str, Any], *tensors: Any) -> Any:
        args, kwargs = as_arguments(program.graph, tensors)
        return _plain(program(params, *args, **kwargs))

    return jaxlstm_program


def _plain(results: Any) -> Any:
    if isinstance(results, dict):
        return {name: _plain(result) for name, result in results.items()}
    if isinstance(results, list | tuple):
        return (list if isinstance(results, list) else tuple)(map(_plain, results))
    return results if results is None else jnp.asarray(results)


def shapes_at(program: Program, sizes: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
    """Return the shapes of the tensors among the inputs at these sizes of the free axes.

    Sizes that are expressions of free axes are those of the example.
    """
    shapes = []
    for declared in program.inputs:
        if (type_ := declared.type) is not None:
            pairs = zip(type_.shape, declared.example or (1,) * len(type_.shape), strict=True)
            shape = [sizes[n] if isinstance(n, str) else like if n is None else n for n, like in pairs]
            shapes.append(jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(type_.dtype)))
    return shapes


def _shapes(program: Program, *, smallest: int) -> list[jax.ShapeDtypeStruct]:
    """Return the shape of each tensor among the inputs, with symbolic sizes from ``smallest`` on."""
    graph, types = program.graph, program.graph.input_types
    names, constraints = graph.free_axes, []
    for name in names:
        low, high = graph.size_range(name)
        is_low = not program.options.guards and graph.is_taken_as_positive(name)
        constraints.append(f"{name} >= {max(0 if is_low else low, smallest)}")
        constraints += [f"{name} <= {high}"] if high is not None else []
    examples = {declared.name: declared.example for declared in graph.inputs if declared.example}
    for guard in graph.guards if program.options.guards else ():
        if (allowed := sizes_allowed(guard, examples)) is None:
            continue
        name, place, sizes = allowed
        if isinstance(axis := types[name].shape[place], str):
            start, stop = sizes.start, sizes.stop
            constraints.append(f"{axis} >= {start}")
            constraints += [f"{axis} <= {stop - 1}"] if stop < UNBOUNDED else []
    symbols = jax.export.symbolic_shape(", ".join(names), constraints=constraints)
    for name, type_ in types.items():
        if None in type_.shape:
            raise ValueError(
                f"input {name} has an axis whose size is an expression of other axes; export the model "
                "with an independent size for this axis"
            )
    return shapes_at(program, dict(zip(names, symbols, strict=True)))


def _write(
    path: Path,
    function: Callable[..., Any],
    arrays: Mapping[str, np.ndarray],
    shapes: Sequence[Any],
    *,
    platforms: Sequence[str],
    weights: str,
    overwrite: bool,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> jax.export.Exported:
    """Write ``function(arrays, *arguments)`` as an artifact, and its weights beside it if they are large."""
    _check_arguments(path, platforms, weights)
    entry_point: Callable[..., Any] = partial(function, arrays)
    files: dict[Path, Iterable[bytes | memoryview]] = {}
    if goes_beside(arrays, weights):
        entry_point = function
        shapes = [{name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}, *shapes]
        files[weights_beside(path)] = safetensors_bytes(arrays, {"format": "pt", **metadata})
    ours = _files_of(path, function.__name__)
    for output in (path, *files):
        require_replaceable(output, overwrite=overwrite, is_ours=ours.__contains__)
    exported = jax.export.export(jax.jit(entry_point), platforms=tuple(platforms))(*shapes)
    write_together({**files, path: [bytes(exported.serialize())]})
    return exported


def _check_arguments(path: Path, platforms: Sequence[str], weights: str) -> None:
    """Raise if an argument of an export is invalid, or a package for it is missing."""
    import_optional("flatbuffers", "export")
    if isinstance(platforms, str) or not platforms or set(platforms) - set(PLATFORMS):
        raise ValueError(f"platforms must be some of {PLATFORMS}, got {platforms!r}")
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {WEIGHTS}, got {weights!r}")
    if path.suffix == ".safetensors":
        raise ValueError(f"path must not end in .safetensors, the suffix of separate weights; got {path}")
    if path.suffix in (".onnx", ".pt", ".pt2", ".pth"):
        raise ValueError(
            f"path must not end in {path.suffix}, as the artifact is StableHLO; got {path}. The usual "
            "suffix is .stablehlo"
        )
    require_folder_of(path)


def _files_of(path: Path, name: str) -> list[Path]:
    """Return the files of an artifact of a function of this name; empty if there is none at the path."""
    with contextlib.suppress(OSError, ValueError):
        artifact = read_artifact(path)
        if artifact.fun_name.startswith(name):
            return [path] if read_weights(path, artifact) is None else [path, weights_beside(path)]
    return []


def goes_beside(arrays: Mapping[str, Any], weights: str) -> bool:
    """Return True if these weights go to a separate file."""
    nbytes = sum(array.nbytes for array in arrays.values())
    return weights == "beside" or (weights == "auto" and nbytes > INSIDE_LIMIT)


def weights_beside(path: Path) -> Path:
    """Return the path of the separate weights: ``m.safetensors`` for ``m.stablehlo``."""
    return path.with_name(path.name.removesuffix(".stablehlo") + ".safetensors")


def read_artifact(path: Path) -> jax.export.Exported:
    """Read a file of ``jax.export``."""
    import_optional("flatbuffers", "export")
    require_exists(path)
    data = path.read_bytes()
    try:
        return jax.export.deserialize(bytearray(data))
    except (ValueError, TypeError, IndexError, KeyError, AssertionError, struct.error) as error:
        raise ValueError(
            f"{path} is not a jax.export artifact; pass a file that 'jaxlstm export' wrote"
        ) from error


def read_weights(path: Path, exported: jax.export.Exported) -> dict[str, Any] | None:
    """Return the separate weights of an artifact, or None if it has none."""
    args, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    if not args or not isinstance(args[0], dict):
        return None
    expected, weights = _signature(args[0]), read_safetensors(weights_beside(path))
    if _signature(weights) != expected:
        raise ValueError(
            f"{weights_beside(path)} does not hold the weights of {path}, {expected}, but "
            f"{_signature(weights)}; export both again"
        )
    return weights


def _signature(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Return the dtype and shape of each array, by name."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in sorted(arrays.items())}


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
