"""The report of a check: the verdict, its grounds, and its renderings as text, JSON and an HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from jaxlstm._shared.table import table
from jaxlstm.check.report.item import (
    Divergence,
    Item,
    LayerDifference,
    Section,
    items_section,
    layers_section,
    lines_section,
)

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
      ok: True if no item failed and at least one passed.
      verdict: title, verdict and number of items by status, in one line.
      title: the port or model, and the dtype that was checked.
      items: an :class:`Item` for every criterion.
      failures: the items that failed.
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
        only = ", no other sizes tried" * any(item.id == "sizes" for item in self.items)
        return ", ".join(f"{n} {status.lower()}" for status, n in counts.items() if n) + only

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
        shown = items_section(items[:FIRST_SCREEN])
        lines = [self.verdict, *section_text(lines_section("Diagnosis", self.diagnosis))]
        lines.append(table(shown.header, shown.rows, right=shown.numbers))
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
        return "\n".join([self.verdict, *(line for part in self._sections() for line in section_text(part))])

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        found = self.environment
        where = [f"{name} {found[name]}" for name in ("jaxlstm", "jax", "torch") if name in found]
        where += [found["device"]] if "device" in found else []
        header = [self.word, self.title, self.counts, " · ".join(where)]
        return page(self.verdict, self.ok, header, self._sections())


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


def section_text(section: Section) -> Iterator[str]:
    """Yield the heading and the indented lines of a section; nothing without lines."""
    lines = (": ".join(row) for row in section.rows)
    if section.header and section.rows:
        lines = table(section.header, section.rows, right=section.numbers).splitlines()
    indented = [f"  {line}" for line in lines]
    if indented:
        yield f"{section.heading}:"
        yield from indented


def matrix_table(items: Iterable[Item]) -> str:
    """Return the items of ``verify_matrix`` as a grid, with one column for each length."""
    cells: dict[str, dict[str, str]] = {}
    for item in items:
        shown = item.status if item.measured is None else f"{item.status} {item.measured:.2g}"
        cells.setdefault(item.data["row"], {})[item.data["column"]] = shown
    columns = list(next(iter(cells.values()), ()))
    rows = [(label, *(row[column] for column in columns)) for label, row in cells.items()]
    return table(("", *columns), rows, right=range(1, len(columns) + 1))


_START = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="jaxlstm">'
)

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --bad: #b3261e; --none: #666; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ok: #57c878; --bad: #ff8a80; --none: #a5a5a5; --paper: #151515; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem;
  background: var(--paper); overflow-wrap: anywhere; }
.holds { --tone: var(--ok); } .fails { --tone: var(--bad); }
header { border: 1px solid #8884; border-left: .5rem solid var(--tone); padding: 1rem; }
header p { margin: 0; } h1 { font-size: 1.35rem; margin: .6rem 0 0; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
.verdict { display: inline-block; font-weight: 700; padding: .1rem .7rem; border-radius: .3rem;
  color: var(--paper); background: var(--tone); }
section { overflow-x: auto; } .diagnosis li:first-child { font-weight: 600; }
.reproduce { font-family: monospace; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid #8884;
  vertical-align: top; }
th { color: var(--none); font-weight: 500; } .n { text-align: right; white-space: nowrap; }
.ok, .equal { color: var(--ok); } .failed, .differs { color: var(--bad); } .untested { color: var(--none); }
"""


def page(verdict: str, ok: bool, header: Sequence[str], sections: Iterable[Section]) -> str:
    """Return a page without scripts, fonts or links to other files.

    ``verdict`` is its title; ``header`` starts with the verdict in one word.
    """
    word, name, *below = map(escape, header)
    lines = "".join(f"<p>{line}</p>" for line in below)
    body = "\n".join(part for section in sections if (part := _section(section)))
    return (
        f'{_START}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(verdict)}</title><style>{_STYLE}</style></head>"
        f'<body><main class="{"holds" if ok else "fails"}">\n'
        f'<header><p class="verdict">{word}</p><h1>{name}</h1>{lines}</header>\n'
        f"{body}\n</main></body></html>\n"
    )


def is_html_page(path: Path) -> bool:
    """Return True if :func:`page` made the file."""
    start = _START.encode()
    with open(path, "rb") as file:
        return file.read(len(start)) == start


def _section(section: Section) -> str:
    """Return a section; nothing if it is empty."""
    content = _table(section) if any(len(row) > 1 for row in section.rows) else _list(section)
    return f"<section><h2>{escape(section.heading)}</h2>{content}</section>" if content else ""


def _list(section: Section) -> str:
    entries = "".join(f"<li>{escape(line)}</li>" for (line,) in section.rows)
    return f'<ul class="{section.heading.lower()}">{entries}</ul>' if entries else ""


def _table(section: Section) -> str:
    """Return a table. The class of a status is its word."""

    def row(cells: Sequence[str], tag: str) -> str:
        classes = ["n" if k in section.numbers else "" for k in range(len(cells))]
        if section.header and tag == "td":
            classes[0] = cells[0].lower()
        attributes = [f' class="{name}"' if name else "" for name in classes]
        shown = (f"<{tag}{a}>{escape(c)}</{tag}>" for a, c in zip(attributes, cells, strict=True))
        return f"<tr>{''.join(shown)}</tr>"

    head = f"<thead>{row(section.header, 'th')}</thead>" if section.header else ""
    return f"<table>{head}<tbody>{''.join(row(cells, 'td') for cells in section.rows)}</tbody></table>"
