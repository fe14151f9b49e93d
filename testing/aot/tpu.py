"""Ahead-of-time compilation for TPUs that are not attached, by the compiler in libtpu."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

from testing.aot.hlo import Hlo
from testing.aot.programs import Program, need

need("libtpu", "aot-tpu")

CHIPS = ("v5e", "v6e")
# Outside Google's cloud, libtpu needs these variables instead of a metadata server. The last one allows
# several processes to load it.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

each_chip = pytest.mark.parametrize("chip", CHIPS)


@functools.cache
def devices(chip: str) -> Any:
    """Return the four chips of a 2x2 topology as a 2x2 array."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, os.environ.get(name, value))
        topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:2x2")
    return topologies.make_mesh(topology, (2, 2), ("x", "y")).devices


def mesh(chip: str, **sizes: int) -> Mesh:
    """Return a mesh of the four chips, for example ``mesh("v5e", data=2, hidden=2)``."""
    return Mesh(devices(chip).reshape(tuple(sizes.values())), tuple(sizes))


def place(arguments: Any, sharding: Any) -> Any:
    """Add a sharding to shapes: one for all, or a tuple of trees that matches ``arguments``."""
    if not isinstance(sharding, tuple):
        sharding = jax.tree.map(lambda _: sharding, arguments)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), arguments, sharding)


def compile_to_hlo(function: Callable[..., Any], arguments: Any) -> Hlo:
    """Compile a function of arguments that have a sharding."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert text is not None
    return Hlo(text)


@functools.cache
def compiled(program: Program, chip: str) -> Hlo:
    """Compile a program for one chip."""
    arguments = place(program.arguments(), SingleDeviceSharding(devices(chip)[0, 0]))
    return compile_to_hlo(program.function(), arguments)
