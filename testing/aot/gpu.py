"""Ahead-of-time compilation for GPUs that are not attached, by the compiler of JAX's CUDA plugin."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from testing.aot.hlo import Hlo
from testing.aot.programs import Program, need

need("jax_plugins.xla_cuda12", "aot-gpu")
from jax_plugins import xla_cuda12  # noqa: E402  # pyright: ignore[reportMissingImports]

CHIPS = ("h100", "a100")

each_chip = pytest.mark.parametrize("chip", CHIPS)


@functools.cache
def device(chip: str) -> Any:
    """Return a compile-only device that has the properties listed in ``{chip}.txtpb``."""
    text = (Path(__file__).parent / f"{chip}.txtpb").read_text()
    get = functools.partial(topologies.get_topology_desc, chip, "cuda", target_config=text)
    try:
        topology = get(topology="1x1x1")
    except NotImplementedError:  # JAX skipped the plugin because the CUDA libraries are missing
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
            xla_cuda12.initialize()
        topology = get(topology="1x1x1")
    return topology.devices[0]


@functools.cache
def compiled(program: Program, chip: str) -> Hlo:
    """Compile a program for one chip."""
    sharding = SingleDeviceSharding(device(chip))
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), program.arguments()
    )
    lowered = jax.jit(program.function()).trace(*arguments).lower(lowering_platforms=("cuda",))
    text = lowered.compile().as_text()
    assert text is not None
    return Hlo(text)
