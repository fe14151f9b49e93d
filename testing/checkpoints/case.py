"""A hostile file and its expected outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Called with an empty directory; returns a path if it is not "file".
Write = Callable[[Path], Path | None]


@dataclass(frozen=True)
class Case:
    """A file, numbered as the hostile cases of docs/safety.md.

    Attributes:
        number: number of the case.
        label: container and variant.
        write: the bytes of the file, or a function that writes it.
        codes: allowed error codes; empty if the file is accepted.
        tensors: the exact tensors of an accepted file.
        warns: the accepted file causes a warning.
        at_read: the error occurs when tensors are read, not when the file is opened.
        options: keyword arguments for read_checkpoint.
        slow: left to the slow tests, since a similar file is in the corpus.
    """

    number: int
    label: str
    write: bytes | Write
    codes: tuple[str, ...] = ()
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    warns: bool = False
    at_read: bool = False
    options: dict[str, bool] = field(default_factory=dict)
    slow: bool = False

    @property
    def id(self) -> str:
        """Name of the test."""
        return f"{self.number:02}-{self.label}"

    def create(self, folder: Path) -> Path:
        """Write the file into `folder`."""
        if callable(self.write):
            return self.write(folder) or folder / "file"
        (folder / "file").write_bytes(self.write)
        return folder / "file"


def table(
    number: int, prefix: str, files: Mapping[str, bytes], *codes: str, **expected: Any
) -> Iterator[Case]:
    """Yield a case for each file, by its label."""
    for label, file in files.items():
        yield Case(number, f"{prefix} {label}", file, codes, **expected)
