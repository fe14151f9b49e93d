"""The output of a command: its folder must exist, and it must not replace an input."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from jaxlstm._shared.paths import require_folder_of


def checkpoint_files(checkpoint: str | os.PathLike[str]) -> list[Path]:
    """Return the path and, if it is the index of a sharded checkpoint, its shards."""
    path = Path(checkpoint)
    try:
        if path.suffix != ".json":
            return [path]
        weight_map = json.loads(path.read_bytes())["weight_map"]
        return [path, *(path.with_name(name) for name in sorted(set(weight_map.values())))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not an index
        return [path]


def require_output(
    output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]], *, option: str = "-o"
) -> None:
    """Raise if ``output`` has no folder to be written to, or if writing it would replace an input.

    An input is recognized under any name: through symbolic and hard links, relative paths, and names that
    differ in case on a file system that ignores case. A path inside an input directory is refused, and so
    is a directory that contains an input.

    Args:
      output: the file or directory to write.
      inputs: the files and directories that the command reads; missing ones are ignored.
      option: the option that named the output, for the message.

    Raises:
      FileNotFoundError: the folder of the output does not exist.
      ValueError: the output is or would destroy an input.
    """
    output = Path(output)
    require_folder_of(output)
    for source in map(Path, inputs):
        if not source.exists():
            continue
        if (
            _same(output, source)
            or any(_same(folder, source) for folder in output.absolute().parents)
            or (output.is_dir() and any(_same(output, folder) for folder in source.resolve().parents))
        ):
            raise ValueError(f"{option} {output} would replace the input {source}; choose another path")


def _same(a: Path, b: Path) -> bool:
    return a.exists() and os.path.samefile(a, b)
