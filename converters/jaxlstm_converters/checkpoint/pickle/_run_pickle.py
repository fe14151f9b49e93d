"""`run_pickle`: the machine, the opcodes and the known globals put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..io.storage import Budget, Storage
from ..io.stream import Span, Stream
from ..io.tensor import Tensor
from .known_globals import VOCABULARY
from .machine import PickleMachine
from .opcodes import execute


@dataclass(frozen=True, slots=True)
class PickleResult:
    """The outcome of one pickle.

    Attributes:
        value: the object that it describes.
        tensors: every tensor that it built.
        opcodes: the number of opcodes that ran.
        has_nested_storages: whether it held storages as the bytes of whole files.
    """

    value: Any
    tensors: list[Tensor]
    opcodes: int
    has_nested_storages: bool


def run_pickle(
    stream: Stream,
    budget: Budget,
    *,
    persistent: Callable[[Any], Any] | None = None,
    nested: Callable[[PickleMachine, Span], Storage] | None = None,
) -> PickleResult:
    """Run the pickle at the position of `stream`, which is left after STOP.

    Args:
        stream: the bytes.
        budget: what all tensors and all pickles of the file may need.
        persistent: maps a persistent id (a storage, in torch's files) to a value.
        nested: reads a storage that a plain pickle holds as the bytes of a whole file.

    Raises:
        CheckpointError: with the offset of the opcode at which the pickle was refused.
    """
    machine = PickleMachine(stream, VOCABULARY, budget, persistent, nested)
    value = execute(machine)
    return PickleResult(value, machine.tensors, machine.opcodes, bool(machine.nested_storages))
