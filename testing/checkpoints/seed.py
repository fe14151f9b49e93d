"""Small valid checkpoints of the tests, the seeds.

`corpus/` holds at least one seed per container, written by torch, NumPy and safetensors. They are
committed so that a seed and an index name the same file of the fuzzer on every machine. A folder is a
sharded checkpoint whose index is the file to open.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

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
