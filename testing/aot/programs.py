"""Programs compiled ahead of time, for devices that are not attached.

A program is a jitted call of ``jaxlstm.lstm`` or its gradient: a function and the shapes of its arguments.
The compilers are in libtpu and in the CUDA plugin of JAX; :class:`Hlo` reads the compiled text.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

import jaxlstm
from jaxlstm import LSTMConfig, LSTMState

COLLECTIVES = r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
GEMM = re.compile(r'custom_call_target="[^"]*(?:gemm|matmul)', re.IGNORECASE)
CALLED = r"\b(?:calls|to_apply|body|condition|\w+_computations?)=(?:\{([^}]*)\}|(%?[\w.\-]+))"


class Instruction(NamedTuple):
    """An instruction of a computation, from a line ``%name = type op(operands), attributes``."""

    computation: str
    op: str
    called: tuple[str, ...]
    line: str

    @property
    def is_product(self) -> bool:
        """True if the instruction itself, and not a computation that it calls, multiplies matrices."""
        return self.op in ("dot", "convolution") or bool(GEMM.search(self.line))

    @property
    def precision(self) -> str:
        """The requested precision of a product in JAX's terms, the lower one of its two operands."""
        found = re.search(r"operand_precision\W+\[?\{?([\w\", ]+)", self.line)
        names = re.findall(r"[a-z]+", found[1].lower()) if found else ["default"]
        return min(names, key=("default", "high", "highest").index)


class Hlo:
    """A parsed program."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.instructions: list[Instruction] = []
        name = ""
        for line in text.splitlines():
            if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line):
                name = head[1]
            elif line.startswith("  ") and " = " in line:
                self.instructions.append(_instruction(name, line.strip()))

    @property
    def loops(self) -> list[Instruction]:
        """The ``while`` instructions."""
        return [i for i in self.instructions if i.op == "while"]

    @cached_property
    def _in_loops(self) -> set[str]:
        """The names of the computations that loops call, directly or indirectly."""
        found: set[str] = set()
        waiting = {name for loop in self.loops for name in loop.called}
        while waiting:
            found |= waiting
            called = {name for i in self.instructions if i.computation in waiting for name in i.called}
            waiting = called - found
        return found

    def products(self) -> list[Instruction]:
        """Return the products outside of kernels."""
        return [i for i in self.instructions if i.is_product]

    def products_in_loops(self) -> int:
        """Return the number of products that loops compute in each step."""
        return sum(i.computation in self._in_loops for i in self.products())

    def collectives(self) -> list[tuple[str, bool]]:
        """Return the kind of each collective and whether it is in a loop."""
        return [
            (found[1], i.computation in self._in_loops)
            for i in self.instructions
            if (found := re.search(COLLECTIVES, i.line))
        ]


def _instruction(computation: str, line: str) -> Instruction:
    # The first word before a bracket is the operation: in types, a colon or bracket comes before words.
    op = re.search(r" ([a-z][\w\-]*)\(", line.split(" =", 1)[1])
    assert op is not None, line
    groups = [several or one for several, one in re.findall(CALLED, line)]
    called = tuple(name.strip(" %") for group in groups for name in group.split(","))
    return Instruction(computation, op[1], called, line)


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
    """Parametrize by ``chip``, over the platforms whose compiler is installed, or skip if none is.

    Fail if one is missing and skipping is not allowed.
    """
    missing = [platform for platform in platforms if not _is_installed(COMPILERS[platform][0])]
    reason = ""
    if missing:
        package, extra = COMPILERS[missing[0]]
        reason = f"{package} is not installed; pip install 'jaxlstm[{extra}]', or run `make test-aot`"
        if os.environ.get(SWITCH) == "required":
            pytest.fail(f"{SWITCH}=required, but {reason}", pytrace=False)
    chips = [chip for platform in platforms if platform not in missing for chip in CHIPS[platform]]
    skipped = pytest.param("none", marks=pytest.mark.skip(reason=reason))
    return pytest.mark.parametrize("chip", chips or [skipped])


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
