"""Checkpoint files of the tests: hostile cases with their outcomes, and small valid files, the seeds.

`corpus/` holds at least one seed per container, written by torch, NumPy and safetensors. They are
committed so that a seed and an index name the same file of the fuzzer on every machine. A folder is a
sharded checkpoint whose index is the file to open.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# Called with an empty directory; returns a path if it is not "file".
WriteFile = Callable[[Path], Path | None]


@dataclass(frozen=True)
class FileCase:
    """A file, numbered as the hostile cases of docs/safety.md.

    Attributes:
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


CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Seed:
    """A checkpoint: its files by name, and the name of the file to open."""

    name: str
    files: dict[str, bytes]
    opened: str

    def write(self, folder: Path) -> Path:
        """Write the files into a folder, which is created; return the path to open."""
        folder.mkdir(exist_ok=True)
        for name, raw in self.files.items():
            (folder / name).write_bytes(raw)
        return folder / self.opened


@cache
def seeds() -> tuple[Seed, ...]:
    """Return all seeds, sorted by name."""
    return tuple(_seed(path) for path in sorted(CORPUS.iterdir()))


def _seed(path: Path) -> Seed:
    if path.is_file():
        return Seed(path.stem, {"file": path.read_bytes()}, "file")
    files = {part.name: part.read_bytes() for part in sorted(path.iterdir())}
    return Seed(path.name, files, "index.json")
