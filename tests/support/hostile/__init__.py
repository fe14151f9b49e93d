"""The hostile corpus: every file that docs/safety.md speaks of, in every container it applies to.

Numbers 1 to 41 are those of that page, 0 is a file that is as it should be. 38 (an LSTM that lacks
a tensor) and 40 (a file that changes) are in test_hostile.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.checkpoints.case import Case
from tests.support.hostile import (
    archives,
    bombs,
    contents,
    formats,
    legacy,
    not_files,
    pickles,
    tensors,
)


def cases() -> Iterator[Case]:
    """Each with a name of its own."""
    for part in (
        pickles,
        tensors,
        bombs,
        archives,
        contents,
        legacy,
        formats,
        not_files,
    ):
        yield from part.cases()
