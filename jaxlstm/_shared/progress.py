"""A progress bar on standard error."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Progress = Callable[[int, int, str], None]
"""Report progress: (steps done, total steps, description)."""

CHUNK = 16 << 20
"""Bytes written between two reports of :func:`reported_bytes`."""


def no_progress(done: int, total: int, description: str) -> None:
    """Report nothing."""


def reported_bytes(
    parts: Iterable[bytes | memoryview], total: int, description: str, progress: Progress
) -> Iterator[memoryview]:
    """Yield the parts in chunks, and report the bytes before each; ``total`` may be approximate."""
    done = 0
    for part in parts:
        view = memoryview(part).cast("B")
        for start in range(0, len(view), CHUNK):
            progress(min(done, total), total, description)
            yield view[start : start + CHUNK]
            done += len(view[start : start + CHUNK])
    progress(total, total, description)


@contextlib.contextmanager
def progress_bar(show: bool = True) -> Iterator[Progress]:
    """Show a bar on standard error inside the context, if ``show`` is True and that is a terminal.

    The bar is drawn by ``rich`` (extra ``cli``) if it is installed, else as a line that rewrites itself.
    """
    if not show or not sys.stderr.isatty():
        yield no_progress
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
        yield lambda done, total, description: bar.update(
            task, completed=done, total=total, description=description
        )


def _rich_bar() -> Any:
    """Return a bar of rich, or None if rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import Progress as RichProgress
    except ModuleNotFoundError:
        return None
    return RichProgress(console=Console(stderr=True), transient=True)


def _plain_bar(done: int, total: int, description: str) -> None:
    filled = 30 * done // max(total, 1)
    line = f"\r\033[K[{'#' * filled:<30}] {done}/{total} {description}"
    print(line, end="", file=sys.stderr, flush=True)
