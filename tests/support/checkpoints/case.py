"""One hostile file and what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Write = Callable[[Path], Path | None]  # into an empty directory; another path than "file", if any


@dataclass(frozen=True)
class Case:
    """A file, numbered as the hostile cases of docs/safety.md.

    Attributes:
        number: which case.
        label: container and variant.
        write: the bytes of the file, or a function that makes it.
        codes: one of these must be the error's code; empty if the file is accepted.
        tensors: what an accepted file holds, exactly.
        warns: an accepted file warns.
        at_read: the error comes when tensors are read, not before.
        options: of read_checkpoint.
    """

    number: int
    label: str
    write: bytes | Write
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
