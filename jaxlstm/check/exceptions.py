"""Exceptions that a port may raise: which of them count as failures of the port, and their description."""

import traceback
from pathlib import Path

PORT_EXCEPTIONS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
"""Exceptions that array code raises for arguments that it cannot handle."""


class PortError(TypeError):
    """The port has the wrong signature or the wrong kind of return value."""


_PACKAGE = str(Path(__file__).parents[1])


def describe(error: Exception) -> str:
    """Return the type of an exception, the first line of its message, and the line of the port."""
    message = next(iter(str(error).splitlines()), "")
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_PACKAGE) and "site-packages" not in frame.filename
    ]
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text
