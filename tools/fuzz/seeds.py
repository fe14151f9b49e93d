"""The small valid files from which the fuzzer starts, at least one per container.

`corpus/` holds files written by torch, NumPy, safetensors and onnx. They are committed so that a seed and an
index name the same file on every machine. A folder is a sharded checkpoint whose index is the file to open.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Seed:
    """A checkpoint: its files by name, and the name of the file to open."""

    name: str
    files: dict[str, bytes]
    opened: str


@cache
def seeds() -> tuple[Seed, ...]:
    """Return all seeds, sorted by name."""
    return tuple(_seed(path) for path in sorted(HERE.iterdir()))


def _seed(path: Path) -> Seed:
    if path.is_file():
        return Seed(path.stem, {"file": path.read_bytes()}, "file")
    files = {part.name: part.read_bytes() for part in sorted(path.iterdir())}
    return Seed(path.name, files, "index.json")
