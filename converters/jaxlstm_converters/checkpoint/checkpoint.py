"""`Checkpoint`: the return value of `read_checkpoint`."""

from typing import Any

from .errors import CheckpointError, printable
from .io.tensor import Tensor

Scalar = int | float | bool | str | None


class Checkpoint(dict[str, Tensor]):
    """The tensors of a file by name, in file order. Their values are read on demand.

    Attributes:
        path: the file.
        container: the file format, such as "torch zip" or "safetensors".
        metadata: strings stored with the tensors: the `__metadata__` of safetensors, and the config
            in a torch file of `jaxlstm.save`.
        hints: `batch_first` and `dropout` of each LSTM module that was saved whole, by module
            prefix ("lstm."), and its class as "lookalike" if it may not be torch's. A state dict
            does not contain them.
        scalars: the numbers, strings, booleans and None beside the tensors, by name, such as
            "optimizer.param_groups.0.lr". Empty, with a warning, if two have the same name or
            they take more than about 8 MiB.
        warnings: lines about oddities that are not errors. Reading a tensor that holds NaN or
            infinity adds one.
    """

    def __init__(self, path: str, container: str) -> None:
        super().__init__()
        self.path = path
        self.container = container
        self.metadata: dict[str, str] = {}
        self.hints: dict[str, dict[str, Any]] = {}
        self.scalars: dict[str, Scalar] = {}
        self.warnings: list[str] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor, or raise `duplicate-name` if the name is taken."""
        if name in self:
            raise CheckpointError("duplicate-name", f"two tensors are named {printable(name)!r}")
        self[name] = tensor
        tensor.set_name(name, self.warnings)
