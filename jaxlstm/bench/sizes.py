"""What is measured: the sizes, and for each the same random numbers for every side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.config import LSTMConfig
from jaxlstm.params import init_bound, param_shapes

Array = np.ndarray


class Size(NamedTuple):
    """T time steps, B sequences and the LSTM; ragged: lengths from 1 to T, in no order."""

    time: int
    batch: int
    config: LSTMConfig
    ragged: bool = False

    @property
    def label(self) -> str:
        """ "T, B, I, H, layers", and what is special."""
        config = self.config
        numbers = (
            self.time,
            self.batch,
            config.input_size,
            config.hidden_size,
            config.num_layers,
        )
        words = ["bidirectional"] if config.bidirectional else []
        words += [f"proj_size {config.proj_size}"] if config.proj_size else []
        words += ["ragged"] if self.ragged else []
        return ", ".join([*map(str, numbers), *words])

    def as_dict(self) -> dict[str, Any]:
        """The size as JSON has it."""
        config = self.config
        return {
            "size": self.label,
            "time": self.time,
            "batch": self.batch,
            "input_size": config.input_size,
            "hidden_size": config.hidden_size,
            "num_layers": config.num_layers,
            "bidirectional": config.bidirectional,
            "proj_size": config.proj_size,
            "ragged": self.ragged,
        }


# One sequence or a batch, small to large, whose weights fit a core's cache or do not; and what is special.
SPECIAL = (
    Size(100, 16, LSTMConfig(128, 256, num_layers=2, bidirectional=True)),
    Size(100, 16, LSTMConfig(256, 512, proj_size=128)),
    Size(512, 64, LSTMConfig(256, 256), ragged=True),
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
        *SPECIAL,
    ),
    "train": (
        Size(128, 1, LSTMConfig(512, 512)),
        Size(128, 32, LSTMConfig(512, 512)),
        Size(512, 64, LSTMConfig(256, 256)),
        Size(100, 16, LSTMConfig(40, 256, num_layers=3)),
        *SPECIAL,
    ),
}
TINY_SIZES = {
    "infer": (
        Size(5, 2, LSTMConfig(3, 4, num_layers=2, bidirectional=True)),
        Size(5, 3, LSTMConfig(3, 4), ragged=True),
        Size(5, 2, LSTMConfig(3, 4, proj_size=2)),
    ),
    "train": (
        Size(5, 3, LSTMConfig(3, 4), ragged=True),
        Size(5, 2, LSTMConfig(3, 4, proj_size=2)),
    ),
}
"""To see that it runs; between them they have everything special."""


@dataclass(frozen=True)
class Problem:
    """A size with numbers, all float32.

    Attributes:
      size: what it is of.
      params: parameters under torch's names, of torch's initial distribution.
      inputs: (T, B, input_size), of standard deviation 1.
      lengths: int32 (B,) if ragged, else None.
    """

    size: Size
    params: dict[str, Array]
    inputs: Array
    lengths: Array | None

    @property
    def config(self) -> LSTMConfig:
        """The LSTM."""
        return self.size.config


def make_problem(size: Size, seed: int = 0) -> Problem:
    """The numbers of a size; the same from the same seed. Lengths are spread evenly from 1 to T."""
    rng = np.random.default_rng(seed)
    bound = init_bound(size.config)
    params = {
        name: rng.uniform(-bound, bound, shape).astype(np.float32)
        for name, shape in param_shapes(size.config).items()
    }
    shape = (size.time, size.batch, size.config.input_size)
    inputs = rng.standard_normal(shape, np.float32)
    lengths = None
    if size.ragged:
        lengths = rng.permutation(np.linspace(1, size.time, size.batch).astype(np.int32))
    return Problem(size, params, inputs, lengths)
