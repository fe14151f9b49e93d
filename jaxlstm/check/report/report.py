"""The report of a check: the verdict, its grounds, and its renderings."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlstm.check.report import html, terminal, text
from jaxlstm.check.report.data import ReportData


class CheckFailed(AssertionError):  # noqa: N818 - It reads as an assertion.
    """A failed check. The message is the report's first screen, ``report`` the whole report."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.first_screen())
        self.report = report


@dataclass(frozen=True)
class Report(ReportData):
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
      again: the call or command that repeats the check.
      layers: the layers of a model that failed, in torch's order of calls.
    """

    def raise_if_failed(self) -> None:
        """Raise :class:`CheckFailed`, an AssertionError, unless the check holds."""
        if not self.ok:
            raise CheckFailed(self)

    def first_screen(self) -> str:
        """Return the verdict, the diagnosis and at most five of the failures."""
        return text.first_screen(self)

    def __str__(self) -> str:
        return text.full_text(self)

    def show(self) -> None:
        """Print the report, in color on a terminal."""
        terminal.show_text(str(self))

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        return html.html_page(self)
