"""The tables of the documentation."""

from benchmarks import report
from benchmarks.parts import Part

ROW = {"case": "small", "unit": "ms", "values": {"jaxlstm": [1.0, 2.0, 3.0], "torch": [4.0, 6.0, 8.0]}}
EQUAL = {"case": "large", "unit": "ms", "values": {"jaxlstm": [1.0, 2.0, 3.0], "torch": [1.0, 1.5, 2.0]}}
FASTER = {"case": "odd", "unit": "ms", "values": {"jaxlstm": [2.0, 2.0, 3.0], "torch": [1.0, 1.0, 1.0]}}


def test_table() -> None:
    part = Part("fake", "run", "size", mean=True)
    rows = [ROW, EQUAL, FASTER | {"values": FASTER["values"] | {"jaxlstm Runner": [1.0, 1.0, 1.0]}}]
    assert report.table(part, rows).splitlines() == [
        "| size | jaxlstm | torch | jaxlstm Runner |",
        "| --- | --- | --- | --- |",
        "| small | 2 ms | 3.00 | - |",
        "| large | 2 ms | equal | - |",
        "| odd | 2 ms | 0.50 | 0.50 |",
        "| geometric mean |  | 1.04 | 0.50 |",
    ]
    assert report.losses(rows) == "Ahead of jaxlstm: torch at odd (0.50)."
    assert report.losses([ROW]) == "No other library is ahead of jaxlstm here."
    assert report.losses([ROW, EQUAL]) == (
        "No other library is ahead of jaxlstm here beyond the noise; the lowest ratio is 0.75 (torch)."
    )
    assert report.overview({"run": rows, "measure": [{"case": "float32"}]}).splitlines() == [
        "- run: 1.04 (torch)",
        "",
        "Ahead of jaxlstm: torch at odd (0.50).",
    ]
    assert report.means([ROW]) == "Geometric means of other libraries' times, divided by ours: 3.00 (torch)."


def test_pages_are_those_of_the_recorded_runs() -> None:
    """Run `python -m benchmarks tables` if this fails."""
    blocks = 0
    for page in report.PAGES:
        text = page.read_text(encoding="utf-8")
        assert report.render(text) == text, page
        assert text.count("<!-- benchmark:") == len(report.BLOCK.findall(text)), page
        blocks += len(report.BLOCK.findall(text))
    assert blocks >= 10
