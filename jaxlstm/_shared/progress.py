"""A progress bar on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

Progress = Callable[[int, int, str], None]
"""(steps done, steps in all, what is being done)."""


@contextlib.contextmanager
def progress_bar(show: bool = True) -> Iterator[Progress]:
    """A bar on standard error while something long runs; nothing where that is no terminal, or not ``show``.

    With ``rich`` (extra ``cli``) it is rich's bar, else one line that rewrites itself.
    """
    if not show or not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    bar = _rich_bar()
    if bar is None:
        try:
            yield _plain_bar
        finally:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        return
    with bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def _rich_bar() -> Any:
    """A bar of rich's, or None where there is no rich."""
    try:
        from rich.console import Console
        from rich.progress import Progress as RichProgress
    except ModuleNotFoundError:
        return None
    return RichProgress(console=Console(stderr=True), transient=True)


def _plain_bar(done: int, total: int, what: str) -> None:
    filled = 30 * done // max(total, 1)
    print(
        f"\r\033[K[{'#' * filled:<30}] {done}/{total} {what}", end="", file=sys.stderr, flush=True
    )
