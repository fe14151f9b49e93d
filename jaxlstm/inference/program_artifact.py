"""``export_program``: a whole program as one StableHLO file that runs without jaxlstm and without torch.

The free axes of the program are symbolic in the file::

    exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    results = exported.call(x)

The arguments are the tensors of ``program.inputs``, in order. If the weights are in a separate file, they
come first: ``exported.call(weights, x)``. Like an exported LSTM, the artifact contains the plain scan for
each LSTM.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxlstm.inference.artifact import check_arguments, write_artifact
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.inputs import as_arguments
from jaxlstm.programs.program import Program
from jaxlstm.programs.sizes.guards import UNBOUNDED, sizes_allowed


def export_program(
    path: str | os.PathLike[str],
    program: Program,
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    weights: str = "auto",
    overwrite: bool = False,
) -> jax.export.Exported:
    """Write a program as a ``jax.export`` artifact, atomically.

    Its free axes have the sizes that keep the program's conditions, on the side of the example of the export
    where a condition excludes some. They start at 1, or at 2 if operators treat 1 in another way.

    Returns:
      The artifact.

    Raises:
      ProgramError: a condition holds for some of these sizes only.
    """
    path = Path(path)
    check_arguments(path, platforms, weights)
    function = positional(program.with_options(backend="scan"))
    params = {name: np.asarray(array) for name, array in program.params.items()}
    options: Any = {"platforms": platforms, "weights": weights, "overwrite": overwrite}
    try:
        return write_artifact(path, function, params, _shapes(program, least=1), metadata={}, **options)
    except ProgramError:
        return write_artifact(path, function, params, _shapes(program, least=2), metadata={}, **options)


def positional(program: Program) -> Callable[..., Any]:
    """Return a program as a function of parameters and tensors, with positional arguments only.

    The tensors follow ``program.inputs``, without the inputs that the export fixed.
    Named tuples among the results become tuples, and sizes become arrays.
    """

    def jaxlstm_program(params: Mapping[str, Any], *tensors: Any) -> Any:
        args, kwargs = as_arguments(program.graph, tensors)
        return _plain(program(params, *args, **kwargs))

    return jaxlstm_program


def shapes_at(program: Program, sizes: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
    """Return the shapes of the tensors among the inputs at these sizes of the free axes."""
    return [
        jax.ShapeDtypeStruct(
            tuple(sizes[n] if isinstance(n, str) else n for n in type_.shape),  # type: ignore[misc]
            jax.dtypes.canonicalize_dtype(type_.dtype),
        )
        for type_ in program.graph.input_types.values()
    ]


def _plain(results: Any) -> Any:
    if isinstance(results, dict):
        return {name: _plain(result) for name, result in results.items()}
    if isinstance(results, list | tuple):
        return (list if isinstance(results, list) else tuple)(map(_plain, results))
    return results if results is None else jnp.asarray(results)


def _shapes(program: Program, *, least: int) -> list[jax.ShapeDtypeStruct]:
    """Return the shape of each tensor among the inputs, with symbolic sizes from ``least`` on."""
    graph, types = program.graph, program.graph.input_types
    names, constraints = graph.free_axes, []
    for name in names:
        low, high = graph.size_range(name)
        is_low = not program.options.guards and graph.is_taken_as_positive(name)
        constraints.append(f"{name} >= {max(0 if is_low else low, least)}")
        constraints += [f"{name} <= {high}"] if high is not None else []
    examples = {declared.name: declared.example for declared in graph.inputs if declared.example}
    for guard in graph.guards if program.options.guards else ():
        if (found := sizes_allowed(guard, examples)) and isinstance(
            axis := types[found[0]].shape[found[1]], str
        ):
            start, stop = found[2].start, found[2].stop
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
