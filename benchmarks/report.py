"""Rows as tables and sentences, and the pages of the documentation that show them.

A page has blocks between ``<!-- benchmark: FILE WHAT -->`` and ``<!-- end -->``. FILE is a file of
``benchmarks/results`` without its ending. WHAT is "machine", the name of a part's results, or such a name
followed by "means" or "summary", which is the means and the cases in which another library is ahead; or
"summaries", for the means of all parts.
"""

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks import record
from benchmarks.parts import Part, Row, part_of
from benchmarks.record import ROOT

OWN = "jaxlstm"
LABELS = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "flax-nnx": "flax nnx",
    "torch-compile": "torch.compile",
}


def ratio(row: Row, name: str) -> float | None:
    """Return the median of an implementation divided by jaxlstm's, or None if either is missing."""
    values = row.get("values", {})
    return values[name][1] / values[OWN][1] if name in values and OWN in values else None


def is_equal(row: Row, name: str) -> bool:
    """Return True if the quartiles of an implementation and of jaxlstm overlap."""
    (low, _, high), (own_low, _, own_high) = row["values"][name], row["values"][OWN]
    return low <= own_high and own_low <= high


def table(part: Part, rows: Sequence[Row]) -> str:
    """Return jaxlstm's medians, the other implementations' medians divided by them, and further columns."""
    names = _names(rows)
    further = list(dict.fromkeys(key for row in rows for key in row.get("columns", {})))
    lines = [[row["case"], *(_cell(row, name) for name in names), *_further(row, further)] for row in rows]
    if part.mean:
        lines.append(["geometric mean", *(_mean_cell(rows, name) for name in names), *("" for _ in further)])
    header = [part.header, *(LABELS.get(name, name) for name in names), *further]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def losses(rows: Sequence[Row]) -> str:
    """Return a sentence that names each case in which another library is ahead, or the lowest ratio."""
    found, lowest = [], (1.0, "")
    for name in _others(rows):
        cases = [
            f"{row['case']} ({value:.2f})"
            for row in rows
            if (value := ratio(row, name)) is not None and value < 1 and not is_equal(row, name)
        ]
        ratios = [value for row in rows if (value := ratio(row, name)) is not None]
        lowest = min([lowest, *((value, LABELS.get(name, name)) for value in ratios)])
        if cases:
            found.append(f"{LABELS.get(name, name)} at {'; '.join(cases)}")
    if not found:
        noise = f" beyond the noise; the lowest ratio is {lowest[0]:.2f} ({lowest[1]})" if lowest[1] else ""
        return f"No other library is ahead of jaxlstm here{noise}." if _others(rows) else ""
    return f"Ahead of jaxlstm: {'. '.join(found)}."


def means(rows: Sequence[Row]) -> str:
    """Return a sentence with the geometric means of the other libraries' ratios."""
    return f"Geometric means of other libraries' times, divided by ours: {', '.join(_means(rows))}."


def _means(rows: Sequence[Row]) -> list[str]:
    return [f"{mean:.2f} ({LABELS.get(n, n)})" for n in _others(rows) if (mean := geometric_mean(rows, n))]


def overview(parts: Mapping[str, Sequence[Row]]) -> str:
    """Return the geometric means of all parts, and the cases in which another library is ahead."""
    lines = [f"- {name}: {', '.join(_means(rows))}" for name, rows in parts.items() if _others(rows)]
    return "\n".join([*lines, "", losses([row for rows in parts.values() for row in rows])])


def gaps(rows: Sequence[Row]) -> Iterator[str]:
    """Yield each reason for a gap in the table once, with its cases."""
    cases: dict[str, list[str]] = {}
    for row in rows:
        for kind in ("left_out", "wrong"):
            for name, reason in row.get(kind, {}).items():
                cases.setdefault(f"{kind.replace('_', ' ')}: {name}: {reason}", []).append(row["case"])
    for reason, labels in cases.items():
        yield f"{reason} ({'; '.join(labels)})"


def geometric_mean(rows: Sequence[Row], name: str) -> float | None:
    """Return the geometric mean of an implementation's ratios, or None if it has none."""
    ratios = [value for row in rows if (value := ratio(row, name)) is not None]
    return statistics.geometric_mean(ratios) if ratios else None


def _names(rows: Sequence[Row]) -> list[str]:
    """The implementations in the order of the rows; those missing everywhere are left out."""
    return list(dict.fromkeys(name for row in rows for k in ("values", "wrong") for name in row.get(k, {})))


def _others(rows: Sequence[Row]) -> list[str]:
    return [name for name in _names(rows) if not name.startswith(OWN)]


def _cell(row: Row, name: str) -> str:
    if name in row.get("wrong", {}):
        return "wrong"
    value = ratio(row, name)
    if value is None:
        return "-"
    if name == OWN:
        median = row["values"][OWN][1]
        return f"{median:.3g} {row['unit']}" if median < 1000 else f"{median:.0f} {row['unit']}"
    return "equal" if is_equal(row, name) else _ratio(value)


def _mean_cell(rows: Sequence[Row], name: str) -> str:
    mean = geometric_mean(rows, name)
    return "" if name == OWN or mean is None else _ratio(mean)


def _further(row: Row, keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        value = row.get("columns", {}).get(key, "")
        yield value if isinstance(value, str) else f"{value:g}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


RESULTS = ROOT / "benchmarks/results"
BLOCK = re.compile(r"(<!-- benchmark: (\S+) ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def write() -> None:
    """Rewrite all pages; print the names of changed files."""
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        if (text := render(before)) != before:
            page.write_text(text, encoding="utf-8")
            print(page.relative_to(ROOT))


def render(page: str) -> str:
    """Return the text of a page with its blocks rewritten."""
    return BLOCK.sub(lambda match: f"{match[1]}{block(match[2], match[3])}\n{match[4]}", page)


def block(file: str, what: str) -> str:
    """Return the content of a block."""
    document = record.load(RESULTS / f"{file}.json")
    if what == "machine":
        return machine(document)
    if what == "summaries":
        return overview({name: part["rows"] for name, part in document["parts"].items()})
    name, _, view = what.partition(" ")
    rows = document["parts"][name]["rows"]
    if view == "means":
        return means(rows)
    if view == "summary":
        return f"{means(rows)} {losses(rows)}"
    return "\n\n".join(filter(None, [table(part_of(name), rows), losses(rows)]))


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
