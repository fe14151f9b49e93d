"""The report: every item judged, what was measured against which limit, and the verdict first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlstm.check.place import Difference

SCHEMA = 1
"""Version of :meth:`Report.to_json`; it grows when a key changes its meaning or goes away."""


class CheckFailed(AssertionError):  # noqa: N818 - what failed is the check, and it reads as an assertion
    """A report that does not hold; ``report`` is the whole of it, and the message its first screen."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.first_screen())
        self.report = report


@dataclass(frozen=True)
class Item:
    """One thing that was judged.

    Attributes:
      name: what was judged.
      ok: whether it holds; None if it could not be tested, for the reason in ``detail``.
      measured: the number judged, if there is one.
      limit: the most that ``measured`` may be.
      detail: in words: where the worst is, what came and what was wanted.
      data: further numbers for a machine.
    """

    name: str
    ok: bool | None
    measured: float | None = None
    limit: float | None = None
    detail: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """ "ok", "FAILED" or "untested"."""
        return {True: "ok", False: "FAILED", None: "untested"}[self.ok]


@dataclass(frozen=True)
class Picture:
    """Numbers in a grid, such as errors over time and units: ``rows[y][x]``, all of them zero or more.

    ``x`` and ``y`` name the axes; ``labels``, if there are any, the rows. ``weakest`` is the number at which
    the scale begins; 0: some orders of magnitude below the largest.
    """

    title: str
    x: str
    y: str
    rows: list[list[float]]
    labels: tuple[str, ...] = ()
    weakest: float = 0.0


@dataclass(frozen=True)
class Report:
    """A verdict and its grounds.

    Attributes:
      title: what was checked.
      items: everything judged.
      diagnosis: what explains a failure, most likely first; empty if it holds.
      notes: what a reader must know to weigh the verdict: what went untested, which limits were set.
      settings: what the check was asked, enough to run it again.
      environment: versions, device and precision that were in force.
      pictures: for the page.
      again: the call or command that gives this report once more.
      difference: where the port leaves the oracle, and its gates there; None if it does not, or if that
        is no question of numbers.
    """

    title: str
    items: tuple[Item, ...]
    diagnosis: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    again: str = ""
    difference: Difference | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and something was tested."""
        judged = [item.ok for item in self.items if item.ok is not None]
        return bool(judged) and all(judged)

    @property
    def failures(self) -> tuple[Item, ...]:
        """The items that do not hold."""
        return tuple(item for item in self.items if item.ok is False)

    @property
    def word(self) -> str:
        """The verdict alone."""
        return "HOLDS" if self.ok else "DOES NOT HOLD"

    @property
    def counts(self) -> str:
        """How many items are ok, failed and untested."""
        statuses = [item.status for item in self.items]
        counts = {status: statuses.count(status) for status in ("ok", "FAILED", "untested")}
        return ", ".join(f"{n} {status.lower()}" for status, n in counts.items() if n)

    @property
    def verdict(self) -> str:
        """One line: whether it holds, and how many items say so."""
        return f"{self.title}: {self.word} ({self.counts})"

    def raise_if_failed(self) -> None:
        """Raise :class:`CheckFailed`, an AssertionError, unless the report holds."""
        if not self.ok:
            raise CheckFailed(self)

    def first_screen(self) -> str:
        """The verdict, the diagnosis, and at most five of the failures."""
        failures = self.failures or self.items
        lines = [self.verdict, *_bullets("Diagnosis", self.diagnosis)]
        lines += _table(failures[:5])
        if len(failures) > 5:
            lines.append(f"... and {len(failures) - 5} more, in str(report)")
        return "\n".join(lines)

    def __str__(self) -> str:
        lines = [self.verdict, *_bullets("Diagnosis", self.diagnosis), "", *_table(self.items)]
        if self.difference:
            lines += _bullets("Gates there", map(str, self.difference.summary()))
        lines += _bullets("Notes", self.notes)
        for name, table in (("Settings", self.settings), ("Environment", self.environment)):
            lines += _bullets(name, (f"{key}: {value}" for key, value in table.items()))
        lines += _bullets("Again", [self.again] if self.again else [])
        return "\n".join(lines)

    def show(self) -> None:
        """Print it, on a terminal in colour."""
        from jaxlstm.check.terminal import show

        show(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain Python values."""
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "title": self.title,
            "diagnosis": list(self.diagnosis),
            "items": [
                {
                    "name": item.name,
                    "status": item.status,
                    "measured": item.measured,
                    "limit": item.limit,
                    "detail": item.detail,
                    "data": dict(item.data),
                }
                for item in self.items
            ],
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "again": self.again,
            "difference": self.difference.to_dict() if self.difference else None,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as strict JSON; NaN and the infinities are strings there."""
        return json.dumps(_strict(self.to_dict()), indent=2, allow_nan=False)

    def to_junit(self) -> str:
        """JUnit XML, one test case for each item, for a CI server."""
        from jaxlstm.check.junit import testsuite

        return testsuite(self)

    def to_html(self) -> str:
        """One self-contained HTML page."""
        from jaxlstm.check.html import page

        return page(self)


def number(value: float | None) -> str:
    """A measured number, short enough for a table."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def _table(items: Iterable[Item]) -> list[str]:
    rows = [
        (item.status, item.name, number(item.measured), number(item.limit), item.detail)
        for item in items
    ]
    rows = [("status", "item", "measured", "limit", "detail"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                row[1].ljust(widths[1]),
                row[2].rjust(widths[2]),
                row[3].rjust(widths[3]),
                row[4],
            ]
        ).rstrip()
        for row in rows
    ]


def _bullets(heading: str, lines: Iterable[str]) -> list[str]:
    lines = [f"  {line}" for line in lines]
    return [f"{heading}:", *lines] if lines else []


def _strict(value: Any) -> Any:
    """JSON has no NaN: such a number becomes its name."""
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    as_float = float(value)
    return as_float if math.isfinite(as_float) else str(as_float)
