"""One way to make a hostile file: a valid file of some format with another value at a path into its parts.

A path such as "root.w.numel" or "members.0.crc" leads through attributes, keys and indices. A table maps each
`Mutation` to its values, each of which makes one case for each format.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from testing.hostile.formats import File
from testing.hostile.opcodes import WEIGHT

GOOD = {"w": WEIGHT}
DELETED = object()
"""A value that removes the part at a path."""


class Edits(dict[str, Any]):
    """Values at several paths, relative to the path of a mutation."""


def mutate(holder: Any, path: str, value: Any) -> None:
    """Put a value at a path. A function is called with the old value and returns the new one, or edits."""
    *parents, last = path.split(".") if path else [""]
    for part in parents:
        holder = _part(holder, part)
    if callable(value):
        value = value(_part(holder, last))
    if isinstance(value, Edits):
        for inner, each in value.items():
            mutate(_part(holder, last), inner, each)
    elif value is DELETED:
        del holder[last]
    elif isinstance(holder, dict):
        holder[last] = value
    elif isinstance(holder, list):
        holder[int(last)] = value
    else:
        assert hasattr(holder, last), (type(holder), last)
        setattr(holder, last, value)


def _part(holder: Any, part: str) -> Any:
    """Return an attribute, an item, or the holder itself for an empty path."""
    if isinstance(holder, list):
        return holder[int(part)]
    if isinstance(holder, dict):
        return holder.get(part)
    return getattr(holder, part) if part else holder


@dataclass(frozen=True, eq=False)
class Mutation:
    """A path in some formats, and the outcome of the values there.

    Attributes:
        number: of the case in docs/safety.md; 0 is a valid file.
        codes: allowed error codes, separated by spaces; empty if the files are accepted.
        tensors: the exact tensors of an accepted file.
        warns: the accepted files cause a warning.
        at_read: the error occurs when tensors are read, not when the file is opened.
        options: keyword arguments for read_checkpoint.
    """

    number: int
    formats: type[File] | tuple[type[File], ...]
    path: str
    codes: str = ""
    tensors: Mapping[str, np.ndarray] = field(default_factory=lambda: GOOD)
    warns: bool = False
    at_read: bool = False
    options: Mapping[str, bool] = field(default_factory=dict)


Table = Mapping[Mutation, Mapping[str, Any] | Sequence[Any]]


class FileCase(NamedTuple):
    """A hostile file and its outcome."""

    id: str
    format: type[File]
    value: Any
    expected: Mutation

    def create(self, folder: Path) -> Path:
        """Write the file into an empty folder; return the path to open."""
        file = self.format()
        mutate(file, self.expected.path, self.value)
        return file.create(folder)


def cases(table: Table) -> Iterator[FileCase]:
    """Yield a case for each format and value of each mutation."""
    for mutation, values in table.items():
        named = values if isinstance(values, Mapping) else {repr(value)[:60]: value for value in values}
        formats = mutation.formats if isinstance(mutation.formats, tuple) else (mutation.formats,)
        for form, (label, value) in itertools.product(formats, named.items()):
            last = mutation.path.rpartition(".")[2]
            yield FileCase(f"{mutation.number:02}-{form.label} {last} {label}", form, value, mutation)
