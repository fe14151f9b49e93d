"""TPUs that are not there: libtpu's compiler, asked for a chip or four by name."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

from tests.aot.hlo import Hlo
from tests.aot.programs import Program
from tests.aot.requirement import need

need("libtpu", "aot-tpu")

CHIPS = ("v5e", "v6e")
# libtpu asks a machine of Google's cloud what it is; elsewhere it has to be told, and that others run too
ANYWHERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

each_chip = pytest.mark.parametrize("chip", CHIPS)


@functools.cache
def devices(chip: str) -> Any:
    """The four chips of a 2x2 topology, as an array of two axes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ANYWHERE.items():
            patch.setenv(name, os.environ.get(name, value))
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:2x2")
    return topologies.make_mesh(found, (2, 2), ("x", "y")).devices


def mesh(chip: str, **sizes: int) -> Mesh:
    """A mesh of the four chips: ``mesh("v5e", data=2, hidden=2)``."""
    return Mesh(devices(chip).reshape(tuple(sizes.values())), tuple(sizes))


def place(arguments: Any, sharding: Any) -> Any:
    """The shapes of arguments with a place; ``sharding`` is one for all, or one for each leaf."""
    if not isinstance(sharding, tuple):
        sharding = jax.tree.map(lambda _: sharding, arguments)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), arguments, sharding
    )


def read(function: Callable[..., Any], arguments: Any) -> Hlo:
    """What the compiler makes of a function of placed arguments."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert text is not None
    return Hlo(text)


@functools.cache
def compiled(program: Program, chip: str) -> Hlo:
    """A program on one chip."""
    arguments = place(program.arguments(), SingleDeviceSharding(devices(chip)[0, 0]))
    return read(program.function(), arguments)
