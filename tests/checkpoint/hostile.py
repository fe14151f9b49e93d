"""The hostile corpus: every file that docs/safety.md speaks of, in every container it applies to.

Numbers 1 to 41 are those of that page, 0 is a file that is as it should be. 38 (an LSTM that lacks
a tensor) and 40 (a file that changes) are in test_hostile.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import (
    hostile_archives,
    hostile_bombs,
    hostile_contents,
    hostile_formats,
    hostile_legacy,
    hostile_not_files,
    hostile_pickles,
    hostile_tensors,
)
from .case import Case


def cases() -> Iterator[Case]:
    """Each with a name of its own."""
    for part in (
        hostile_pickles,
        hostile_tensors,
        hostile_bombs,
        hostile_archives,
        hostile_contents,
        hostile_legacy,
        hostile_formats,
        hostile_not_files,
    ):
        yield from part.cases()
