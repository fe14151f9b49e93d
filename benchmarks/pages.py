"""Write the tables and the chart of the documentation from the recorded runs.

A page has blocks between ``<!-- benchmark: FILE WHAT -->`` and ``<!-- end -->``. FILE is a file of
``benchmarks/results`` without its ending. WHAT is "machine", the name of a part's results, or such a name
followed by "means" or "summary", which is the means and the cases in which another library is ahead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks import record, report
from benchmarks.parts import Row, part_of
from benchmarks.record import ROOT
from benchmarks.report import LABELS, ratio

RESULTS = ROOT / "benchmarks/results"
CHART = ROOT / "docs/pictures/speed.svg"
CHARTED = ("amd-epyc-zen4-2-cores", "layer-infer")
BLOCK = re.compile(r"(<!-- benchmark: (\S+) ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def write() -> None:
    """Rewrite all pages and the chart; print the names of changed files."""
    written = {page: render(page.read_text(encoding="utf-8")) for page in PAGES} | {CHART: drawing()}
    for path, text in written.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


def render(page: str) -> str:
    """Return the text of a page with its blocks rewritten."""
    return BLOCK.sub(lambda match: f"{match[1]}{block(match[2], match[3])}\n{match[4]}", page)


def block(file: str, what: str) -> str:
    """Return the content of a block."""
    document = record.load(RESULTS / f"{file}.json")
    if what == "machine":
        return machine(document)
    name, _, view = what.partition(" ")
    if name not in document["parts"]:
        return "Not measured in this run."
    rows = document["parts"][name]["rows"]
    if view == "means":
        return report.means(rows)
    if view == "summary":
        return f"{report.means(rows)} {report.losses(rows)}"
    return "\n\n".join(filter(None, [report.table(part_of(name), rows), report.losses(rows)]))


def machine(document: record.Document) -> str:
    """Return a paragraph about the machine, the commit and the versions."""
    versions = document["versions"]
    shown = ("jax", "torch", "onnxruntime", "openvino", "flax")
    listed = ", ".join(f"{LABELS.get(n, n)} {versions[n]}" for n in shown if n in versions)
    changes = " with local changes" if document["dirty"] else ""
    kernel = document["kernels"]["instruction_set"]
    return (
        f"{document['cpu']}, {document['cpus']} cores, instruction set {kernel}; {listed}.\n"
        f"Commit {document['commit'][:12]}{changes}; load average before the start: "
        f"{document['load_average_before']}."
    )


def drawing() -> str:
    """Return the chart."""
    file, name = CHARTED
    return draw(record.load(RESULTS / f"{file}.json")["parts"][name]["rows"])


COLORS = {"torch": "#d9542b", "onnxruntime": "#4a6fb5", "openvino": "#7a9e3f"}
LEFT, UNIT, BAR, GAP, TOP = 250, 130, 11, 9, 40


def draw(rows: Sequence[Row]) -> str:
    """Return an SVG bar chart: for each size, every library's time divided by jaxlstm's."""
    names = [name for name in COLORS if any(ratio(row, name) for row in rows)]
    marks, y = _legend(names), TOP
    for row in rows:
        bars = [(name, value) for name in names if (value := ratio(row, name)) is not None]
        middle = y + BAR * len(bars) / 2 + 4
        marks.append(f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{row["words"]}</text>')
        for name, value in bars:
            width, color = f"{value * UNIT:.1f}", COLORS[name]
            marks.append(f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR - 1}" fill="{color}"/>')
            marks.append(f'<text x="{LEFT + max(value, 1) * UNIT + 4:.1f}" y="{y + 9}">{value:.2f}</text>')
            y += BAR
        y += GAP
    one = LEFT + UNIT
    marks.append(f'<line x1="{one}" y1="{TOP - 6}" x2="{one}" y2="{y - GAP + 4}" stroke="black"/>')
    font = 'font-family="sans-serif" font-size="10"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {y}" {font}>'
    return "\n".join([svg, '<rect width="100%" height="100%" fill="white"/>', *marks, "</svg>", ""])


def _legend(names: list[str]) -> list[str]:
    marks = [f'<text x="{LEFT + UNIT + 4}" y="30">1 = as fast as jaxlstm</text>']
    for k, name in enumerate(names):
        x = LEFT + 100 * k
        marks.append(f'<rect x="{x}" y="6" width="10" height="10" fill="{COLORS[name]}"/>')
        marks.append(f'<text x="{x + 14}" y="15">{LABELS.get(name, "PyTorch")}</text>')
    return marks
