"""The hostile corpus: every case of docs/safety.md in every container to which it applies.

Cases 1 to 46 have the numbers of that page; 0 is a valid file. Case 38 (an LSTM with a missing tensor) is in
test_find_lstms.py, and case 40 (a file that changes while it is read) in test_hostile.py.
"""

from collections.abc import Iterator

from testing.checkpoints.case import FileCase
from testing.hostile import archives, formats, found, pickles, programs, tensors


def cases() -> Iterator[FileCase]:
    """Yield all cases; their names are unique."""
    for part in (pickles, tensors, archives, formats, programs, found):
        yield from part.cases()
