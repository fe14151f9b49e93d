"""The machine that pickles run on: a stack, marks, a memo, and what opcodes do to them.

It has no import, no attribute look-up and no call of anything that a file names: a global is a
pair of strings, and a call does something for the pairs of its `Vocabulary` only. Every other
call gives an inert `Foreign`.

Memory is accounted for: each value takes its price from a budget that follows the file's size, so
a small file cannot grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CheckpointError, shown, sketch
from ..io.storage import Budget, Storage
from ..io.stream import Span, Stream
from ..io.tensor import Tensor
from .values import (
    Foreign,
    Global,
    OrderedDict,
    Refused,
    StorageType,
    TextSpan,
)

PRICE = 80  # a small object
MAX_TEXT = 1 << 16  # longer texts stay in the file
MAX_KEY = 16  # elements of a tuple that is a key: it is hashed each time
MAX_LONG = 256  # bytes of an integer; torch's magic number has 10
TUPLE_PRICE = 56
ITEM_PRICE = 120  # a place in a dictionary
MEMO_PRICE = 72  # a place in the memo

KEY_TYPES = (
    str,
    int,
    float,
    bool,
    type(None),
    Global,
    Foreign,
    Span,
    TextSpan,
    StorageType,
    np.dtype,
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The globals that a pickle may use and the values that BUILD may change.

    Attributes:
        meanings: by exact (module, name): a function that is called with the machine and the arguments,
            or a storage type or dtype.
        set_state: by exact type of a value: a function that is called with the machine, the value and
            its state.
    """

    meanings: Mapping[tuple[str, str], Callable[..., Any] | StorageType | np.dtype[Any]]
    set_state: Mapping[type, Callable[[PickleMachine, Any, Any], None]]


class PickleMachine:
    """Runs one pickle.

    Args:
        stream: its bytes.
        vocabulary: what globals mean.
        budget: what all tensors and all pickles of the file may need.
        persistent: turns a persistent id (a storage, in torch's files) into a value.
        nested: reads the storage that a plain pickle holds as the bytes of a whole file.

    Attributes:
        tensors: every tensor it built.
        opcodes: how many opcodes ran.
        nested_storages: what `nested` read, each once, by the identity of the bytes.
    """

    def __init__(
        self,
        stream: Stream,
        vocabulary: Vocabulary,
        budget: Budget,
        persistent: Callable[[Any], Any] | None = None,
        nested: Callable[[PickleMachine, Span], Storage] | None = None,
    ) -> None:
        self.stream = stream
        self._vocabulary = vocabulary
        self.budget = budget
        self.tensors: list[Tensor] = []
        self.opcodes = 0
        self.nested = nested
        self.nested_storages: dict[int, tuple[Span, Storage]] = {}
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        """The value that is left once STOP is reached."""
        if len(self._stack) != 1 or self._marks:
            raise self.malformed("values are left over at the end")
        return self._stack[0]

    # -- the stack ---------------------------------------------------------------------------

    def charge(self, price: int) -> None:
        """Take `price` bytes from what the values may need."""
        self.budget.memory -= price
        if self.budget.memory < 0:
            raise CheckpointError(
                "pickle-budget", "the values of the pickle need far more memory than the file has"
            )

    def push(self, value: Any, price: int = 0) -> None:
        """Put a value that costs `price` bytes on the stack."""
        budget = self.budget
        budget.memory -= price + 8  # `charge`, written out: every opcode comes here
        if budget.memory < 0:
            self.charge(0)
        self._stack.append(value)

    def pop(self) -> Any:
        """The top value."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise self.malformed("a value is missing on the stack")
        return self._stack.pop()

    def pop_mark(self) -> list[Any]:
        """The values above the last mark."""
        if not self._marks:
            raise self.malformed("a mark is missing on the stack")
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def malformed(self, message: str) -> CheckpointError:
        """The error for opcodes that make no pickle."""
        return self.stream.malformed(f"in the pickle, {message}")

    # -- operations of several opcodes -------------------------------------------------------

    def mark(self) -> None:
        """Remember where the stack ends now."""
        self.charge(8)
        self._marks.append(len(self._stack))

    def text(self, count: int) -> None:
        """Push the next `count` bytes as text."""
        if count > self.stream.remaining:
            raise self.malformed(f"{count} bytes of text are announced and fewer remain")
        if count > MAX_TEXT:
            span = self.stream.span(count)
            self.push(TextSpan(span.source, span.offset, count), 2 * PRICE)
            return
        raw = self.stream.take(count)
        self.charge(count if raw.isascii() else 4 * count)  # bytes of a character in memory
        self.push(self.stream.decoded(raw), PRICE)

    def tuple(self, count: int) -> None:
        """Replace the top `count` values by a tuple of them."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)), TUPLE_PRICE + 8 * count)

    def long(self, count: int) -> None:
        """Push the integer of the next `count` bytes."""
        if not 0 <= count <= MAX_LONG:
            raise self.malformed(f"an integer of {count} bytes is announced")
        self.push(int.from_bytes(self.stream.take(count), "little", signed=True), PRICE)

    def put(self, key: int) -> None:
        """Remember the top value under `key`."""
        if not self._stack:
            raise self.malformed("there is nothing to remember")
        if key not in self._memo:
            self.charge(MEMO_PRICE)
        self._memo[key] = self._stack[-1]

    def put_next(self) -> None:
        """Remember the top value under the next free number."""
        self.put(len(self._memo))

    def drop(self) -> None:
        """Drop the top value, or the mark if no value is above it."""
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self.pop()

    def get(self, key: int) -> None:
        """Push what `key` remembers."""
        if key not in self._memo:
            raise self.malformed(f"memo {key} was never set")
        self.push(self._memo[key])

    def set_items(self, items: list[Any]) -> None:
        """Set (key, value, key, value, ...) in the dictionary on top."""
        if len(items) % 2:
            raise self.malformed("a key has no value")
        target = self._top()
        if isinstance(target, Foreign):
            return
        if not isinstance(target, dict):
            raise self.malformed("items are set on what is not a dictionary")
        self.charge(ITEM_PRICE * (len(items) // 2))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not _plain_key(key):
                raise self.malformed(f"a dictionary has a key of type {type(key).__name__}")
            if key in target:
                raise CheckpointError("duplicate-key", f"key {sketch(key)} is set twice")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        """Append to the list or set on top."""
        target = self._top()
        if isinstance(target, Foreign):
            target = target.items
        if type(target) is not list:
            raise self.malformed("values are appended to what is not a list")
        self.charge(8 * len(values))
        target.extend(values)

    def find_global(self, module: Any, name: Any) -> None:
        """Push the noun that the table has for a name, or else the name itself."""
        for text in (module, name):
            if type(text) is not str or not 0 < len(text) <= 1000 or not text.isprintable():
                raise CheckpointError("pickle-global", "a global has no plain name")
        if not name.isidentifier():
            raise CheckpointError(
                "pickle-global", f"the global {shown(name)!r} of {shown(module)!r} is a path"
            )
        known = self._vocabulary.meanings.get((module, name))
        noun = known is not None and not callable(known)
        self.push(known if noun else Global(module, name), 2 * PRICE)

    def call(self, callee: Any, args: Any) -> None:
        """REDUCE and NEWOBJ alike: neither calls what is not in the table."""
        if not isinstance(callee, Global) or type(args) is not tuple:
            raise self.malformed("a call is of what is not a global")
        known = self._vocabulary.meanings.get((callee.module, callee.name))
        if callable(known):
            self.push(known(self, args), PRICE)
        elif callee.module.startswith("torch") and callee.name.startswith("_rebuild_"):
            self.push(Refused(f"{callee.name.removeprefix('_rebuild_')} ({callee})"), 3 * PRICE)
        else:
            self.push(Foreign(callee, args), 3 * PRICE)

    def build(self, state: Any) -> None:
        """Give the value on top a state."""
        target = self._top()
        if isinstance(target, Foreign):
            if target.state is not None:
                raise CheckpointError("pickle-build", f"{target.cls} is given a state twice")
            target.state = state
        elif (set_state := self._vocabulary.set_state.get(type(target))) is not None:
            set_state(self, target, state)
        elif not isinstance(target, OrderedDict | Tensor | Refused):
            raise CheckpointError(
                "pickle-build", f"{_described(target)} is given a state: it has none of its own"
            )

    def persistent(self, key: Any) -> None:
        """Push what a persistent id stands for."""
        if self._persistent is None:
            raise self.malformed("a persistent id means nothing in this container")
        self.push(self._persistent(key), 3 * PRICE)

    def frame(self, length: int) -> None:
        """Frames are for buffering: only their length is checked."""
        if length > self.stream.remaining:
            raise self.malformed(f"a frame of {length} bytes is announced and fewer remain")

    def protocol(self, number: int) -> None:
        """Refuse protocols that do not exist."""
        if self.opcodes != 1 or number > 5:
            raise self.malformed(f"protocol {number} is unknown or not stated first")

    def _top(self) -> Any:
        value = self.pop()
        self._stack.append(value)
        return value


def _plain_key(key: Any, depth: int = 3) -> bool:
    """Keys are hashed, and the hash of a deep tuple would overflow C's stack."""
    if isinstance(key, tuple) and depth and len(key) <= MAX_KEY:
        return all(_plain_key(k, depth - 1) for k in key)
    return isinstance(key, KEY_TYPES)


def _described(value: Any) -> str:
    return str(value) if isinstance(value, Global) else f"a value of type {type(value).__name__}"
