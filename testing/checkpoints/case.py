"""A hostile file and its expected outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Called with an empty directory; returns a path if it is not "file".
WriteFile = Callable[[Path], Path | None]


@dataclass(frozen=True)
class FileCase:
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
    """

    number: int
    label: str
    write: bytes | WriteFile
    codes: tuple[str, ...] = ()
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    warns: bool = False
    at_read: bool = False
    options: dict[str, bool] = field(default_factory=dict)

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
    number: int, prefix: str, files: Mapping[str, bytes | WriteFile], *codes: str, **expected: Any
) -> Iterator[FileCase]:
    """Yield a case for each file, by its label."""
    for label, file in files.items():
        yield FileCase(number, f"{prefix} {label}", file, codes, **expected)
