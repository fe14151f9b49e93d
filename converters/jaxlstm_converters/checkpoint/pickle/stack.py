"""The stack, marks and memo of the pickle machine, and the memory that they may use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError
from ..io.budget import Budget
from ..io.stream import ByteReader

# Bytes of a place on the stack, or of a mark.
PLACE_PRICE = 8
# Bytes of an entry in the memo.
MEMO_PRICE = 72


@dataclass(eq=False, repr=False)
class PickleStack:
    """A stack of values with marks, and a memo of numbered values."""

    stream: ByteReader
    budget: Budget
    value: Any = field(default=None, init=False)
    _stack: list[Any] = field(default_factory=list, init=False)
    _marks: list[int] = field(default_factory=list, init=False)
    _memo: dict[int, Any] = field(default_factory=dict, init=False)

    def stop(self) -> None:
        """Set the value of the pickle, and release the memo."""
        if len(self._stack) != 1 or self._marks:
            raise self.malformed("values are left on the stack at the end")
        self.value = self._stack.pop()
        self._memo.clear()

    def malformed(self, message: str) -> CheckpointError:
        """Return the error for an invalid sequence of opcodes."""
        return self.stream.malformed(f"malformed pickle: {message}")

    def charge(self, price: int) -> None:
        """Pay `price` bytes, or raise `pickle-budget`."""
        self.budget.memory -= price
        if self.budget.memory < 0:
            raise CheckpointError(
                "pickle-budget",
                "the values of the pickle need far more memory than a file of this size may use",
            )

    def push(self, value: Any, price: int = 0) -> None:
        """Push a value that costs `price` bytes."""
        # `charge`, inlined because every opcode comes through here.
        budget = self.budget
        budget.memory -= price + PLACE_PRICE
        if budget.memory < 0:
            self.charge(0)
        self._stack.append(value)

    def pop(self) -> Any:
        """Pop the top value."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise self.malformed("an opcode needs more values than the stack holds")
        return self._stack.pop()

    def mark(self) -> None:
        """Push a mark."""
        self.charge(PLACE_PRICE)
        self._marks.append(len(self._stack))

    def pop_mark(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        if not self._marks:
            raise self.malformed("an opcode needs a mark, but the stack has none")
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def drop(self) -> None:
        """Drop the top value, or the mark if no value is above it."""
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self.pop()

    def top(self) -> Any:
        """Return the top value."""
        value = self.pop()
        self._stack.append(value)
        return value

    def put(self, key: int) -> None:
        """Store the top value in the memo under `key`."""
        if not self._stack:
            raise self.malformed("an opcode stores the top of an empty stack in the memo")
        if key not in self._memo:
            self.charge(MEMO_PRICE)
        self._memo[key] = self._stack[-1]

    def put_next(self) -> None:
        """Store the top value in the memo under the next free number."""
        self.put(len(self._memo))

    def get(self, key: int) -> None:
        """Push the value stored under `key`."""
        if key not in self._memo:
            raise self.malformed(f"memo entry {key} is used but not set")
        self.push(self._memo[key])
