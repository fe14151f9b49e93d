"""The programs that are compiled ahead of time, for devices that are not attached.

A program is a jitted call of ``jaxlstm.lstm`` or its gradient: a function and the shapes of its arguments.
:mod:`testing.aot.chips` compiles it, and :mod:`testing.aot.hlo` reads the compiled text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxlstm
from jaxlstm import LSTMConfig, LSTMState


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
    backend: str = "scan"

    def __str__(self) -> str:
        how = "gradient" if self.gradient else "forward"
        return "-".join([self.name, how, self.backend])

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

    def function(self, run: Callable[..., Any] = jaxlstm.lstm) -> Callable[..., Any]:
        """Return a function of :meth:`arguments` to outputs and last state, or to the gradients of a loss."""

        def forward(params: Any, inputs: Any, state: Any, lengths: Any) -> Any:
            static: dict[str, Any] = {"precision": self.precision, "backend": self.backend}
            return run(params, inputs, state, config=self.config, seq_lengths=lengths, **static)

        def loss(params: Any, inputs: Any, state: Any, lengths: Any) -> jax.Array:
            outputs, last = forward(params, inputs, state, lengths)
            squares = [jnp.square(leaf.astype(jnp.float32)).sum() for leaf in (outputs, *last)]
            return jnp.stack(squares).sum()

        return jax.grad(loss, argnums=(0, 1, 2)) if self.gradient else forward


def grouped_by_program(programs: list[Program]) -> pytest.MarkDecorator:
    """Parametrize by ``program``, with all tests of one program in one pytest-xdist worker.

    Under ``pytest -n ... --dist loadgroup``, the tests of a program then share its compiled form.
    """
    rows = [pytest.param(p, marks=pytest.mark.xdist_group(str(p)), id=str(p)) for p in programs]
    return pytest.mark.parametrize("program", rows)


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
