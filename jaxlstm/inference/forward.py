"""The interface of a forward pass, which has two implementations: native.py and chunked.py."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

Results = tuple[jax.Array, jax.Array, jax.Array]
"""Outputs, h and c."""


class ForwardPass(Protocol):
    """The forward pass of one LSTM. ``batch`` and ``step`` are traced and compiled for each shape."""

    def prepare(self, params: Mapping[str, jax.Array]) -> Any:
        """Return the weights in the form that ``batch`` and ``step`` read."""
        ...

    def batch(
        self, weights: Any, inputs: jax.Array, h: jax.Array, c: jax.Array, lengths: jax.Array
    ) -> Results:
        """Run a padded batch of sequences.

        Args:
          weights: the result of ``prepare``.
          inputs: (time, batch, input_size), with zeros after each length; time is a length bucket.
          h: initial h, (layers * directions, batch, h_size).
          c: initial c, (layers * directions, batch, hidden_size).
          lengths: int32 (batch,), from 0 to time. A row of length 0 keeps its state.

        Returns:
          Outputs (time, batch, output_size), zero after each length, and the final h and c.
        """
        ...

    def step(
        self,
        weights: Any,
        inputs: jax.Array,
        h: jax.Array,
        c: jax.Array,
        active: jax.Array | None = None,
    ) -> Results:
        """Run one time step, from (batch, input_size) to (batch, output_size), h and c.

        ``active``, int32 (batch,), is 1 for rows that advance. Other rows keep their state and output zeros.
        """
        ...

    def computed_steps(self, lengths: np.ndarray) -> int:
        """Return the number of time steps that ``batch`` computes for these lengths, padding included."""
        ...

    def concurrent_calls(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which ``count`` threads call the executables at the same time."""
        ...
