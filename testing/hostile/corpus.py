"""The hostile corpus: every case of docs/safety.md in every container to which it applies.

Cases 1 to 46 have the numbers of that page; 0 is a valid file. Cases 38 (an LSTM with a missing tensor) and
40 (a file that changes while it is read) are in test_hostile.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from testing.checkpoints.case import FileCase
from testing.hostile import (
    archives,
    bombs,
    contents,
    formats,
    found,
    legacy,
    not_files,
    onnx_files,
    pickles,
    programs,
    tensors,
)

PARTS = (pickles, tensors, bombs, archives, contents, legacy, formats, onnx_files, programs, not_files, found)


def cases() -> Iterator[FileCase]:
    """Yield all cases; their names are unique."""
    for part in PARTS:
        yield from part.cases()
