"""The tensors of a program: tied parameters, and the arrays that JAX holds."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.dtypes import held_without_loss


def tied_names(names: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return other name -> first name of the parameters whose tensor is the same array."""
    first: dict[int, str] = {}
    others = {}
    for name in dict.fromkeys(names.values()):
        if name in tensors:
            owner = first.setdefault(id(tensors[name]), name)
            if owner != name:
                others[name] = owner
    return others


def hold_tensors(
    kind: str, names: Mapping[str, str], tensors: Mapping[str, np.ndarray], *, copy: bool = True
) -> dict[str, jax.Array]:
    """Return the tensors that the graph uses as JAX arrays, under torch's names.

    ``copy=False`` lets JAX use the memory of the tensors.
    """
    missing = [name for name in names.values() if name not in tensors]
    if missing:
        raise ProgramError("malformed-graph", f"the file has no tensor for the {kind} {missing[0]}")
    arrays = {}
    for name in names.values():
        if name not in arrays:
            values = np.asarray(tensors[name])
            dtype = held_without_loss(values, f"{kind} {name}")
            arrays[name] = np.array(values, dtype, copy=True if copy else None)
    # One call for all arrays: each call takes as long as a small array.
    return jax.device_put(arrays)
