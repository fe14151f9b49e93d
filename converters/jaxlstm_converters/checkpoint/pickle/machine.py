"""The machine that runs pickles: a stack with marks, a memo, and the operations of the opcodes on them.

The machine imports nothing, looks up no attribute and calls nothing that a file names. A global is
a pair of strings. A call has an effect only for the pairs of its `Vocabulary`, each of which maps to
a function of this package; every other call returns an inert `Placeholder`.

Each value is charged to a memory budget that follows from the size of the file, so a small file
cannot expand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import CheckpointError, describe, printable
from ..io._make_tensor import Budget
from ..io.storage import ByteReader, Span, Storage
from ..io.tensor import Tensor
from .values import GlobalName, OrderedDict, Placeholder, StorageType, TextSpan, UnsupportedTensor

# Prices in bytes. PRICE is the price of a small object.
PRICE = 80
TUPLE_PRICE = 56
DICT_ITEM_PRICE = 120
# A place on the stack or a mark, and an entry in the memo.
PLACE_PRICE = 8
MEMO_PRICE = 72

# Longer strings stay in the file.
MAX_TEXT = 1 << 16
# Elements of a tuple that is a dictionary key, which is hashed at each use.
MAX_KEY = 16
# Bytes of an integer. The magic number of torch has 10.
MAX_LONG = 256
MAX_GLOBAL = 1000

_PLAIN_TYPES = (str, int, float, bool, type(None), np.dtype)
_INERT_TYPES = (GlobalName, Placeholder, Span, TextSpan, StorageType)
KEY_TYPES = _PLAIN_TYPES + _INERT_TYPES


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The globals that a pickle may use, and the values that BUILD may change.

    Attributes:
        meanings: by exact (module, name), either a constant or a function that is called with the
            machine and the arguments.
        set_state: by exact type of the value, a function that is called with the machine, the value
            and its state.
    """

    meanings: Mapping[tuple[str, str], Callable[..., Any] | StorageType | np.dtype[Any]]
    set_state: Mapping[type, Callable[[PickleMachine, Any, Any], None]]


@dataclass(eq=False, repr=False)
class PickleMachine:
    """The state of one running pickle.

    Attributes:
        budget: pays for the values, and for the tensors.
        value: the unpickled object, after STOP.
        vocabulary: the meanings of globals.
        persistent_value: maps a persistent id (a storage, in torch's files) to a value.
        nested: reads a storage that the pickle holds as the bytes of a whole file.
        tensors: every tensor that the pickle built.
        nested_storages: the results of `nested` by identity of the bytes.
    """

    stream: ByteReader
    budget: Budget
    vocabulary: Vocabulary
    persistent_value: Callable[[Any], Any] | None = None
    nested: Callable[[PickleMachine, Span], Storage] | None = None
    value: Any = field(default=None, init=False)
    tensors: list[Tensor] = field(default_factory=list, init=False)
    opcodes: int = field(default=0, init=False)
    nested_storages: dict[int, tuple[Span, Storage]] = field(default_factory=dict, init=False)
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

    def text(self, count: int) -> None:
        """Push the next `count` bytes as a string."""
        if count > MAX_TEXT:
            span = self.stream.span(count)
            self.push(TextSpan(span.source, span.offset, count), 2 * PRICE)
            return
        raw = self.stream.take(count)
        # A character that is not ASCII takes up to four bytes in memory.
        self.charge(count if raw.isascii() else 4 * count)
        self.push(self.stream.decode(raw), PRICE)

    def long(self, count: int) -> None:
        """Push the integer in the next `count` bytes."""
        if not 0 <= count <= MAX_LONG:
            raise self.malformed(f"an integer of {count} bytes; the limit is {MAX_LONG}")
        self.push(int.from_bytes(self.stream.take(count), "little", signed=True), PRICE)

    def tuple(self, count: int) -> None:
        """Replace the top `count` values by a tuple."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)), TUPLE_PRICE + 8 * count)

    def set_items(self, items: list[Any]) -> None:
        """Set [key, value, key, value, ...] in the dictionary on top."""
        if len(items) % 2:
            raise self.malformed("a dictionary key has no value")
        target = self.top()
        if isinstance(target, Placeholder):
            return
        if not isinstance(target, dict):
            raise self.malformed(f"items are set on {_kind(target)}, expected a dictionary")
        self.charge(DICT_ITEM_PRICE * (len(items) // 2))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not _is_plain_key(key):
                raise self.malformed(f"a dictionary key is {_kind(key)}, expected a plain value")
            if key in target:
                raise CheckpointError("duplicate-key", f"dictionary key {describe(key)} is set twice")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        """Append to the list or set on top."""
        target = self.top()
        if isinstance(target, Placeholder):
            target = target.items
        if type(target) is not list:
            raise self.malformed(f"values are appended to {_kind(target)}, expected a list")
        self.charge(8 * len(values))
        target.extend(values)

    def find_global(self, module: Any, name: Any) -> None:
        """Push the constant that a global means, or its name."""
        for text in (module, name):
            if type(text) is not str or not 0 < len(text) <= MAX_GLOBAL or not text.isprintable():
                message = f"a global is named {describe(text)}, expected printable text"
                raise CheckpointError("pickle-global", message)
        if not name.isidentifier():
            raise CheckpointError(
                "pickle-global",
                f"the global {printable(name)!r} of module {printable(module)!r} is not an identifier",
            )
        meaning = self.vocabulary.meanings.get((module, name))
        is_constant = meaning is not None and not callable(meaning)
        self.push(meaning if is_constant else GlobalName(module, name), 2 * PRICE)

    def call(self) -> None:
        """Replace a global and its arguments by its result, or a placeholder if it is unknown."""
        args, callee = self.pop(), self.pop()
        if not isinstance(callee, GlobalName):
            raise self.malformed(f"{_kind(callee)} is called, expected a global")
        if type(args) is not tuple:
            raise self.malformed(f"the arguments of a call are {_kind(args)}, expected a tuple")
        meaning = self.vocabulary.meanings.get((callee.module, callee.name))
        if callable(meaning):
            self.push(meaning(self, args), PRICE)
        elif callee.module.startswith("torch") and callee.name.startswith("_rebuild_"):
            kind = f"{callee.name.removeprefix('_rebuild_')} ({callee})"
            self.push(UnsupportedTensor(kind), 3 * PRICE)
        else:
            self.push(Placeholder(callee, args), 3 * PRICE)

    def build(self) -> None:
        """Set the state of the value below the top to the top, which is popped."""
        state, target = self.pop(), self.top()
        if isinstance(target, Placeholder):
            if target.state is not None:
                raise CheckpointError("pickle-build", f"the state of {target.cls} is set twice")
            target.state = state
        elif (set_state := self.vocabulary.set_state.get(type(target))) is not None:
            set_state(self, target, state)
        elif not isinstance(target, OrderedDict | Tensor | UnsupportedTensor):
            kind = str(target) if isinstance(target, GlobalName) else _kind(target)
            raise CheckpointError("pickle-build", f"BUILD sets the state of {kind}, which has none")

    def persistent(self, key: Any) -> None:
        """Push the value of a persistent id."""
        if self.persistent_value is None:
            raise self.malformed("a persistent id, which this format does not use")
        self.push(self.persistent_value(key), 3 * PRICE)

    def protocol(self, number: int) -> None:
        """Check the protocol number."""
        if self.opcodes != 1 or number > 5:
            raise self.malformed(f"PROTO {number}; expected 0 to 5, as the first opcode")


def _is_plain_key(key: Any, depth: int = 3) -> bool:
    """Return True if `key` may be hashed: hashing a deep tuple overflows the C stack."""
    if isinstance(key, tuple) and depth and len(key) <= MAX_KEY:
        return all(_is_plain_key(k, depth - 1) for k in key)
    return isinstance(key, KEY_TYPES)


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
