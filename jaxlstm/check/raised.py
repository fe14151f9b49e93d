"""What a port raises is an answer too: which exceptions count as one, and how they are told."""

from __future__ import annotations

import traceback
from pathlib import Path

RAISED = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
"""What code that computes with arrays ends in when it is asked for what it cannot do."""

_PACKAGE = str(Path(__file__).parents[1])


def in_words(error: Exception) -> str:
    """The kind of an exception, the first line of what it says, and the port's line that it came from."""
    line = next(iter(str(error).splitlines()), "")
    told = f"{type(error).__name__}: {line}" if line else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_PACKAGE) and "site-packages" not in frame.filename
    ]
    last = frames[-1] if frames else None
    return f"{told} ({Path(last.filename).name}:{last.lineno})" if last else told
