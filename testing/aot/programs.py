"""Programs compiled ahead of time, for devices that are not attached.

A program is a jitted call of ``jaxlstm.lstm`` or its gradient: a function and the shapes of its arguments.
The compilers are in libtpu and in the CUDA plugin of JAX; :mod:`testing.aot.hlo` reads the compiled text.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

import jaxlstm
from jaxlstm import LSTMConfig, LSTMState
from testing.aot.hlo import Hlo


@dataclass(frozen=True)
class Program:
    """A call of an LSTM."""

    name: str
    config: LSTMConfig
    time: int = 24
    batch: int = 16
    dtype: str = "float32"
    ragged: bool = False
    gradient: bool = False
    precision: str = "highest"

    def __str__(self) -> str:
        return f"{self.name}-{'gradient' if self.gradient else 'forward'}"

    def but(self, **changes: Any) -> Program:
        """Return a copy with other settings."""
        return replace(self, **changes)

    def arguments(self) -> tuple[Any, Any, Any, Any]:
        """Return the shapes of the arguments of :meth:`function`: params, inputs, state, lengths."""
        shape: Any = lambda dims, dtype=self.dtype: jax.ShapeDtypeStruct(dims, dtype)  # noqa: E731
        shapes = jaxlstm.param_shapes(self.config)
        h_shape, c_shape = self.config.state_shapes(self.batch)
        return (
            {name: shape(dims) for name, dims in shapes.items()},
            shape((self.time, self.batch, self.config.input_size)),
            LSTMState(shape(h_shape), shape(c_shape)),
            shape((self.batch,), jnp.int32) if self.ragged else None,
        )

    def function(self) -> Callable[..., Any]:
        """Return a function of :meth:`arguments` to outputs and last state, or to the gradients of a loss."""

        def forward(params: Any, inputs: Any, state: Any, lengths: Any) -> Any:
            static: dict[str, Any] = {"precision": self.precision, "backend": "scan"}
            return jaxlstm.lstm(params, inputs, state, config=self.config, seq_lengths=lengths, **static)

        def loss(params: Any, inputs: Any, state: Any, lengths: Any) -> jax.Array:
            outputs, last = forward(params, inputs, state, lengths)
            squares = [jnp.square(leaf.astype(jnp.float32)).sum() for leaf in (outputs, *last)]
            return jnp.stack(squares).sum()

        return jax.grad(loss, argnums=(0, 1, 2)) if self.gradient else forward


SMALL = LSTMConfig(128, 128)  # one tile on a TPU
FORMS = (
    Program("plain", SMALL),
    Program("ragged", SMALL, ragged=True),
    Program("bidirectional", LSTMConfig(128, 128, bidirectional=True)),
    Program("projected", LSTMConfig(128, 256, proj_size=128)),
    Program("bfloat16", SMALL, dtype="bfloat16"),
    Program(
        "all-at-once",
        LSTMConfig(40, 200, num_layers=2, bias=False, bidirectional=True, proj_size=72),
        batch=13,
        ragged=True,
    ),
)


CHIPS = {"tpu": ("v5e", "v6e"), "cuda": ("h100", "a100")}
COMPILERS = {"tpu": ("libtpu", "aot-tpu"), "cuda": ("jax_plugins.xla_cuda12", "aot-gpu")}
"""The package with the compiler of each platform, and the extra that installs it."""

SWITCH = "JAXLSTM_AOT"
"""Environment variable; "required" turns skipped tests into failures, as in ``make test-aot``."""

# Outside Google's cloud, libtpu needs these variables instead of a metadata server. The last one allows
# several processes to load it.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def each_chip(*platforms: str) -> pytest.MarkDecorator:
    """Parametrize by ``chip``, over the platforms whose compiler is installed.

    Skip the calling test module if none is, or fail if one is missing and skipping is not allowed.
    """
    missing = [platform for platform in platforms if not _is_installed(COMPILERS[platform][0])]
    if missing:
        package, extra = COMPILERS[missing[0]]
        reason = f"{package} is not installed; pip install 'jaxlstm[{extra}]', or run `make test-aot`"
        if os.environ.get(SWITCH) == "required":
            pytest.fail(f"{SWITCH}=required, but {reason}", pytrace=False)
        if len(missing) == len(platforms):
            pytest.skip(reason, allow_module_level=True)
    chips = [chip for platform in platforms if platform not in missing for chip in CHIPS[platform]]
    return pytest.mark.parametrize("chip", chips)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is not installed
        return False


@functools.cache
def devices(chip: str) -> Any:
    """Return compile-only devices: the four chips of a 2x2 TPU topology, or one GPU as a 1x1 array.

    The properties of a GPU are listed in ``{chip}.txtpb``.
    """
    with pytest.MonkeyPatch.context() as patch:
        if chip in CHIPS["tpu"]:
            for name, value in TPU_ENVIRONMENT.items():
                patch.setenv(name, os.environ.get(name, value))
            topology = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:2x2")
            return topologies.make_mesh(topology, (2, 2), ("x", "y")).devices
        text = (Path(__file__).parent / f"{chip}.txtpb").read_text()
        get = functools.partial(topologies.get_topology_desc, chip, "cuda", target_config=text)
        try:
            topology = get(topology="1x1x1")
        except NotImplementedError:  # JAX skipped the plugin because the CUDA libraries are missing
            from jax_plugins import xla_cuda12  # pyright: ignore[reportMissingImports]

            patch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
            xla_cuda12.initialize()
            topology = get(topology="1x1x1")
        return topologies.make_mesh(topology, (1, 1), ("x", "y")).devices


def mesh(chip: str, **sizes: int) -> Mesh:
    """Return a mesh of the four chips, for example ``mesh("v5e", data=2, hidden=2)``."""
    return Mesh(devices(chip).reshape(tuple(sizes.values())), tuple(sizes))


def compile_for(function: Callable[..., Any], arguments: Any, shardings: Any) -> Hlo:
    """Compile a function of arguments for the devices of their shardings, a tree like the arguments."""
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), arguments, shardings
    )
    return Hlo(jax.jit(function).lower(*placed).compile().as_text() or "")


@functools.cache
def compiled(program: Program, chip: str) -> Hlo:
    """Compile a program for one chip."""
    arguments, on_the_chip = program.arguments(), SingleDeviceSharding(devices(chip)[0, 0])
    return compile_for(program.function(), arguments, jax.tree.map(lambda _: on_the_chip, arguments))
