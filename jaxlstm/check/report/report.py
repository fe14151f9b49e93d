"""The report of a check: the verdict and its grounds, as text, JSON or an HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlstm._shared.sections import Section, lines_section, page, section_text
from jaxlstm._shared.table import table
from jaxlstm.check.report.item import Divergence, Item, LayerDifference, items_section, layers_section

SCHEMA = 2
"""Version of the JSON. It grows when a key changes its meaning or is removed."""

FIRST_SCREEN = 5
"""Failures shown by :meth:`Report.first_screen`."""


class CheckFailed(AssertionError):  # noqa: N818 - It reads as an assertion.
    """A failed check. The message is the report's first screen, ``report`` the whole report."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.first_screen())
        self.report = report


@dataclass(frozen=True)
class Report:
    """The verdict of a check and its grounds. ``print(report)`` shows every item.

    Attributes:
      title: the port or model, and the dtype that was checked.
      items: an :class:`Item` for every criterion.
      diagnosis: explanations of a failure, the most likely first.
      notes: facts that limit the verdict, such as tolerances set by the caller.
      settings: the arguments of the check.
      environment: the versions, device and precision of the check.
      again: the command that repeats the check, if a command made it.
      difference: the first number in which the port differs from the oracle, or None.
      layers: the layers of a model that failed, in torch's order of calls.
    """

    title: str
    items: tuple[Item, ...]
    diagnosis: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    again: str = ""
    difference: Divergence | None = None
    layers: tuple[LayerDifference, ...] = ()

    @property
    def ok(self) -> bool:
        """True if no item failed and at least one passed."""
        tested = [item.ok for item in self.items if item.ok is not None]
        return bool(tested) and all(tested)

    @property
    def failures(self) -> tuple[Item, ...]:
        """The items that failed."""
        return tuple(item for item in self.items if item.ok is False)

    @property
    def word(self) -> str:
        """ "HOLDS" or "DOES NOT HOLD"."""
        return "HOLDS" if self.ok else "DOES NOT HOLD"

    @property
    def counts(self) -> str:
        """The number of items by status, in words, and whether only the sizes of the example were tried."""
        statuses = [item.status for item in self.items]
        counts = {status: statuses.count(status) for status in ("ok", "FAILED", "untested")}
        suffix = ", no other sizes tried" * any(item.id == "sizes" for item in self.items)
        return ", ".join(f"{n} {status.lower()}" for status, n in counts.items() if n) + suffix

    @property
    def verdict(self) -> str:
        """The title, the verdict and the number of items by status, in one line."""
        return f"{self.title}: {self.word} ({self.counts})"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain Python values."""
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "title": self.title,
            "diagnosis": list(self.diagnosis),
            "items": [item.to_dict() for item in self.items],
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "again": self.again,
            "difference": self.difference._asdict() if self.difference else None,
            "layers": [{**layer._asdict(), "ok": layer.ok} for layer in self.layers],
        }

    def to_json(self) -> str:
        """Return :meth:`to_dict` as strict JSON, with NaN and the infinities as strings."""
        return json.dumps(_strict(self.to_dict()), indent=2, allow_nan=False)

    def raise_if_failed(self) -> None:
        """Raise :class:`CheckFailed`, an AssertionError, unless the check holds."""
        if not self.ok:
            raise CheckFailed(self)

    def first_screen(self) -> str:
        """Return the verdict, the diagnosis and at most five of the failures."""
        items = self.failures or self.items
        section = items_section(items[:FIRST_SCREEN])
        lines = [self.verdict, *section_text(lines_section("Diagnosis", self.diagnosis))]
        lines.append(table(section.header, section.rows, right=section.numbers))
        if len(items) > FIRST_SCREEN:
            lines.append(f"... and {len(items) - FIRST_SCREEN} more, in str(report)")
        return "\n".join(lines)

    def _sections(self) -> Iterator[Section]:
        """Yield the parts of the report, some of them empty. The failures are the first items."""
        yield lines_section("Diagnosis", self.diagnosis)
        yield layers_section(self.layers)
        yield items_section(sorted(self.items, key=lambda item: item.ok is not False))
        yield lines_section("Notes", self.notes)
        for name, values in (("Settings", self.settings), ("Environment", self.environment)):
            yield Section(name, [(key, str(value)) for key, value in values.items()])
        yield lines_section("Reproduce", [self.again] if self.again else [])

    def __str__(self) -> str:
        return f"{self.verdict}\n{self._text()}"

    def _text(self) -> str:
        return "\n".join(line for part in self._sections() for line in section_text(part))

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        return page(self.verdict, self._text())


def _strict(value: Any) -> Any:
    """Replace the floats that JSON lacks with their names."""
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    as_float = float(value)
    return as_float if math.isfinite(as_float) else str(as_float)
