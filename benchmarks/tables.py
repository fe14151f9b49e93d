"""Write the tables and the chart of the documentation from the recorded runs.

A page has blocks between ``<!-- benchmark: FILE WHAT -->`` and ``<!-- end -->``. FILE is a file of
``benchmarks/results`` without its ending. WHAT is "machine", the name of a part's results, or such a name
followed by "means".
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import chart, record, report
from benchmarks.machine import ROOT
from benchmarks.parts import part_of
from benchmarks.report import LABELS

RESULTS = ROOT / "benchmarks/results"
CHART = ROOT / "docs/pictures/speed.svg"
CHARTED = ("amd-epyc-zen4-2-cores", "layer-infer")
BLOCK = re.compile(r"(<!-- benchmark: (\S+) ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the pages that may have blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
    return "\n\n".join(filter(None, [report.table(part_of(name), rows), report.losses(rows)]))


def machine(document: record.Document) -> str:
    """Return a paragraph about the machine, the commit and the versions."""
    versions = document["versions"]
    shown = ("jax", "torch", "onnxruntime", "openvino", "flax")
    listed = ", ".join(f"{LABELS.get(n, n)} {versions[n]}" for n in shown if n in versions)
    source = document.get("note") or (
        f"Commit {document['commit'][:12]}{' with local changes' if document['dirty'] else ''}; load average "
        f"before the start: {document['load_average_before']}."
    )
    kernel = document["kernels"]["instruction_set"]
    return f"{document['cpu']}, {document['cpus']} cores, instruction set {kernel}; {listed}.\n{source}"


def drawing() -> str:
    """Return the chart."""
    file, name = CHARTED
    return chart.draw(record.load(RESULTS / f"{file}.json")["parts"][name]["rows"])


def main() -> None:
    """Rewrite all pages and the chart; print the names of changed files."""
    written = {page: render(page.read_text(encoding="utf-8")) for page in pages()} | {CHART: drawing()}
    for path, text in written.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))
