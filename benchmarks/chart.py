"""Draw the rows of a layer as an SVG bar chart."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.parts import Row
from benchmarks.report import ratio

NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
COLORS = {"torch": "#d9542b", "onnxruntime": "#4a6fb5", "openvino": "#7a9e3f"}
LEFT, UNIT, BAR, GAP, TOP = 250, 130, 11, 9, 40


def draw(rows: Sequence[Row]) -> str:
    """Return the chart: for each size, every library's time divided by jaxlstm's."""
    names = [name for name in NAMES if any(ratio(row, name) for row in rows)]
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
        marks.append(f'<text x="{x + 14}" y="15">{NAMES[name]}</text>')
    return marks
