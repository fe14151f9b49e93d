"""The sizes to measure, and the random numbers that every implementation gets."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import init_bound, param_shapes


class Size(NamedTuple):
    """T time steps, B sequences and a config. Ragged sequences have lengths from 1 to T in random order."""

    time: int
    batch: int
    config: LSTMConfig
    ragged: bool = False

    @property
    def label(self) -> str:
        """ "T, B, I, H, layers", followed by the unusual options."""
        c = self.config
        parts = [*map(str, (self.time, self.batch, c.input_size, c.hidden_size, c.num_layers))]
        parts += ["bidirectional"] if c.bidirectional else []
        parts += [f"proj_size {c.proj_size}"] if c.proj_size else []
        parts += ["ragged"] if self.ragged else []
        return ", ".join(parts)

    @property
    def words(self) -> str:
        """The size in words, for the chart."""
        c = self.config
        layers = f", {c.num_layers} layers" if c.num_layers > 1 else ""
        extra = ", bidirectional" * c.bidirectional + ", ragged" * self.ragged
        extra += f", projected to {c.proj_size}" if c.proj_size else ""
        return f"{self.batch} x {self.time} steps, {c.hidden_size} units{layers}{extra}"


# One sequence and batches; weights that fit a core's cache and weights that do not.
_UNUSUAL = (
    Size(100, 16, LSTMConfig(128, 256, num_layers=2, bidirectional=True)),
    Size(100, 16, LSTMConfig(256, 512, proj_size=128)),
)
SIZES = {
    "infer": (
        Size(128, 1, LSTMConfig(256, 256)),
        Size(128, 1, LSTMConfig(512, 512)),
        Size(1000, 1, LSTMConfig(64, 128)),
        Size(128, 32, LSTMConfig(512, 512)),
        Size(512, 64, LSTMConfig(256, 256)),
        Size(64, 128, LSTMConfig(128, 1024)),
        Size(100, 16, LSTMConfig(40, 256, num_layers=3)),
        *_UNUSUAL,
        Size(512, 64, LSTMConfig(256, 256), ragged=True),
    ),
    "train": (
        Size(128, 1, LSTMConfig(512, 512)),
        Size(128, 32, LSTMConfig(512, 512)),
        Size(512, 64, LSTMConfig(256, 256)),
        Size(100, 16, LSTMConfig(40, 256, num_layers=3)),
        *_UNUSUAL,
        Size(128, 64, LSTMConfig(256, 256), ragged=True),  # 512 steps take torch 16 seconds
    ),
}
TINY_SIZES = {
    "infer": (
        Size(5, 2, LSTMConfig(3, 4, num_layers=2, bidirectional=True)),
        Size(5, 3, LSTMConfig(3, 4), ragged=True),
        Size(5, 2, LSTMConfig(3, 4, proj_size=2)),
    ),
    "train": (Size(5, 3, LSTMConfig(3, 4), ragged=True), Size(5, 2, LSTMConfig(3, 4, proj_size=2))),
}
"""Small sizes with every unusual option, to test that the benchmark runs."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A size with numbers.

    Attributes:
      size: the size.
      params: parameters under torch's names, drawn from torch's initial distribution. They and the inputs are
        float32 arrays whose numbers ``dtype`` holds exactly.
      inputs: (T, B, input_size), standard normal.
      lengths: int32 (B,) if ragged, else None.
      dtype: the dtype that implementations use.
    """

    size: Size
    params: dict[str, np.ndarray]
    inputs: np.ndarray
    lengths: np.ndarray | None
    dtype: str = "float32"

    @property
    def config(self) -> LSTMConfig:
        """The config of the LSTM."""
        return self.size.config


def make_problem(size: Size, dtype: str = "float32", seed: int = 0) -> Problem:
    """Draw the numbers of a size. Ragged lengths are spread evenly from 1 to T and shuffled."""
    rng = np.random.default_rng(seed)
    bound = init_bound(size.config)

    def rounded(array: np.ndarray) -> np.ndarray:
        return array.astype(dtype).astype(np.float32)

    params = {
        name: rounded(rng.uniform(-bound, bound, shape)) for name, shape in param_shapes(size.config).items()
    }
    inputs = rounded(rng.standard_normal((size.time, size.batch, size.config.input_size), np.float32))
    lengths = None
    if size.ragged:
        lengths = rng.permutation(np.linspace(1, size.time, size.batch).astype(np.int32))
    return Problem(size, params, inputs, lengths, dtype)
