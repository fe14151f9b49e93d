"""A report as JUnit XML, which CI servers read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from jaxlstm.check.report import number

if TYPE_CHECKING:
    from jaxlstm.check.report import Report


def testsuite(report: Report) -> str:
    """One suite: the environment as properties, and a case for each item, failed, skipped or passed."""
    statuses = [item.status for item in report.items]
    suite = ElementTree.Element(
        "testsuite",
        name=report.title,
        tests=str(len(statuses)),
        failures=str(statuses.count("FAILED")),
        skipped=str(statuses.count("untested")),
        errors="0",
    )
    if report.environment:
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in report.environment.items():
            ElementTree.SubElement(properties, "property", name=name, value=value)
    for item in report.items:
        case = ElementTree.SubElement(suite, "testcase", classname=report.title, name=item.name)
        if item.ok is None:
            ElementTree.SubElement(case, "skipped", message=item.detail)
        elif not item.ok:
            told = f"measured {number(item.measured)}, limit {number(item.limit)}; {item.detail}"
            message = item.detail if item.measured is None else told
            failure = ElementTree.SubElement(case, "failure", message=message)
            failure.text = "\n".join(report.diagnosis)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)
