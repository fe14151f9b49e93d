"""`Checkpoint`: what `read_checkpoint` gives."""

from __future__ import annotations

from typing import Any

from .io.tensor import Tensor
from .pickle._name_tensors import Named, Scalar


class Checkpoint(dict[str, Tensor]):
    """Every tensor of a file by name, in the order of the file; values are read on demand.

    Attributes:
        path: the file.
        container: what kind of file it is, such as "torch zip" or "safetensors".
        metadata: texts that the file carries: the `__metadata__` of safetensors.
        hints: by module prefix ("lstm."), the `batch_first` and `dropout` of modules that were
            saved whole. A state dict does not say them.
        scalars: the plain numbers, texts, booleans and None that stand beside the tensors, by name,
            such as "optimizer.param_groups.0.lr". Empty, with a warning, if two have one name or
            they take more than about 8 MiB.
        warnings: lines about what is odd but no error. Reading a tensor that holds NaN or
            infinity adds one.
    """

    def __init__(self, path: str, container: str, named: Named) -> None:
        super().__init__(named.tensors)
        self.path = path
        self.container = container
        self.metadata: dict[str, str] = {}
        self.scalars: dict[str, Scalar] = named.scalars
        self.hints: dict[str, dict[str, Any]] = named.hints
        self.warnings = named.warnings
