"""The errors of the library in the words of the command line."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def in_one_line(error: Exception, args: argparse.Namespace) -> str:
    """Return the message of an error as one line that names options instead of Python arguments.

    An argument of the library is named at the start of a message ("seed must be ...") or in an advice ("pass
    overwrite=True"). If the command has an option of that name, the option is named.
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error)
    names = "|".join(map(re.escape, vars(args)))
    text = re.sub(rf"^({names})(?= must\b| ')", lambda match: _option(match[1]), text)
    text = re.sub(rf"\bpass ({names})=True\b", lambda match: f"pass {_option(match[1])}", text)
    text = re.sub(rf"\bpass ({names})=", lambda match: f"pass {_option(match[1])} ", text)
    return " ".join(text.split())


@contextmanager
def warnings_in_one_line(args: argparse.Namespace) -> Iterator[None]:
    """Print each of Python's warnings as one line of the command, without the source line that caused it."""
    shown: set[str] = set()

    def show(message: Any, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            shown.add(text)
            print(f"jaxlstm {args.command}: warning: {text}", file=sys.stderr)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
