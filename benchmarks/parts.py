"""The parts of the benchmark, in the order of ``python -m benchmarks all``, and the settings that they share.

A part is a function ``run(settings)`` that yields rows in a form that JSON can hold:

- ``case``: the name of the row.
- ``unit`` and ``values``: for each implementation the lower quartile, median and upper quartile.
- ``columns``: further columns of the table.
- ``left_out``: for each implementation that cannot run the case, the reason.
- ``wrong``: for each implementation whose result is wrong, the difference; it is not timed.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Settings(NamedTuple):
    """Settings shared by all implementations.

    Attributes:
      tiny: tiny sizes, to test that the benchmark runs.
      against: the other libraries that take part.
    """

    threads: int
    dtype: str = "float32"
    rounds: int = 9
    tiny: bool = False
    against: tuple[str, ...] = ()


Row = dict[str, Any]
Run = Callable[[Settings], Iterator[Row]]
SIZES = "T, B, I, H, layers"


class Part(NamedTuple):
    """A part of the benchmark.

    Attributes:
      module, function: where its run function is. It is imported when the part runs.
      header: the header of the table's first column.
      against: the other libraries that take part in float32 by default; see `benchmarks.peers`.
      mean: whether the table ends with the geometric means of the ratios.
    """

    module: str
    function: str
    header: str
    against: tuple[str, ...] = ()
    mean: bool = False

    def run(self) -> Run:
        """Import the run function."""
        return getattr(importlib.import_module(f"benchmarks.{self.module}"), self.function)


STATEFUL = ("torch", "onnxruntime", "openvino")
HALF = ("torch", "openvino")
"""The libraries that take part in half precision by default."""
PARTS = {
    "layer-infer": Part("layer", "infer", SIZES, (*STATEFUL, "flax-nnx"), mean=True),
    "layer-train": Part("layer", "train", SIZES, ("torch",), mean=True),
    "streams": Part("streams", "run", "step", STATEFUL),
    "gru": Part("programs", "gru", SIZES, STATEFUL, mean=True),
    "programs": Part("programs", "run", "model", STATEFUL, mean=True),
}
DTYPES = ("float32", "bfloat16", "float16")
ALL = tuple(
    (name, dtype) for name in PARTS for dtype in (DTYPES[:2] if name.startswith("layer") else DTYPES[:1])
)
"""The parts and dtypes of ``python -m benchmarks all``."""


def key(name: str, dtype: str) -> str:
    """Return the name of a part's results in a JSON file, such as "layer-infer-bfloat16"."""
    return name if dtype == "float32" else f"{name}-{dtype}"


def part_of(key: str) -> Part:
    """Return the part whose results have this name."""
    return PARTS[next(name for name in PARTS if key.startswith(name))]
