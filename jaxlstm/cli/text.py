"""What the commands print with: a table, sizes, a progress bar."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Progress = Callable[[int, int, str], None]
"""(steps done, steps in all, what is being done)."""


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their widest entry, numbers to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    right = [all(isinstance(row[k], (int, float)) for row in rows) for k in range(len(header))]
    lines = (
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def size(count: int) -> str:
    """Bytes for a reader: "1.6 MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.95:  # what is not rounded up to 1000.0
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


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
