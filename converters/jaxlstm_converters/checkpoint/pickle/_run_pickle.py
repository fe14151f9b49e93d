"""`run_pickle`: the pickle machine with its opcodes and known globals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..io.budget import Budget
from ..io.storage import Storage
from ..io.stream import ByteReader, Span
from ..io.tensor import Tensor
from .known_globals import VOCABULARY
from .machine import PickleMachine
from .opcodes import execute


@dataclass(frozen=True, slots=True)
class PickleResult:
    """The result of one pickle.

    Attributes:
        value: the unpickled object.
        tensors: every tensor that was built.
        opcodes: the number of opcodes that ran.
        has_nested_storages: True if a storage was held as the bytes of a whole file.
    """

    value: Any
    tensors: list[Tensor]
    opcodes: int
    has_nested_storages: bool


def run_pickle(
    stream: ByteReader,
    budget: Budget,
    *,
    persistent: Callable[[Any], Any] | None = None,
    nested: Callable[[PickleMachine, Span], Storage] | None = None,
) -> PickleResult:
    """Run the pickle at the current position of `stream`, which is then after STOP.

    Args:
        stream: the bytes.
        budget: pays for the values, and for the tensors.
        persistent: maps a persistent id (a storage, in torch's files) to a value.
        nested: reads a storage that the pickle holds as the bytes of a whole file.

    Raises:
        CheckpointError: with the offset of the opcode that was refused.
    """
    machine = PickleMachine(stream, VOCABULARY, budget, persistent, nested)
    value = execute(machine)
    return PickleResult(value, machine.tensors, machine.opcodes, bool(machine.nested_storages))
