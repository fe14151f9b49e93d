"""Heat maps: scale, shades, and downsampling of large grids."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from jaxlstm.check.report.heatmap import heatmap_svg
from jaxlstm.check.report.item import Heatmap

GRID = Heatmap("e < 1", "time", "unit", [[0.0, 1e-3, 1.0], [1e-7, 1e-6, 1e-2]])


def drawing(grid):
    """Return the caption of the figure and the elements of its drawing."""
    caption, svg = ElementTree.fromstring(heatmap_svg(grid))
    return caption, svg


def cells(grid):
    """Return (x, y, width) of each run of cells, by opacity."""
    paths = drawing(grid)[1][0]
    return {
        float(path.attrib["fill-opacity"]): [
            (int(x), int(y), int(w)) for x, y, w in re.findall(r"M(\d+) (\d+)h(\d+)v1H\1z", path.attrib["d"])
        ]
        for path in paths
    }


def test_shades_are_logarithmic():
    assert cells(GRID) == {0.5: [(1, 0, 1)], 1.0: [(2, 0, 1)], 0.67: [(2, 1, 1)]}


def test_scale_covers_six_orders_of_magnitude():
    from_rounding = replace(GRID, floor=1e-4)
    assert cells(from_rounding) == {0.17: [(1, 0, 1)], 0.67: [(2, 0, 1)], 0.33: [(2, 1, 1)]}
    wide = replace(GRID, floor=1e-12)
    assert cells(wide) == {
        0.42: [(0, 1, 1)],
        0.5: [(1, 1, 1)],
        0.75: [(1, 0, 1)],
        0.83: [(2, 1, 1)],
        1.0: [(2, 0, 1)],
    }


def test_map():
    caption, svg = drawing(GRID)
    assert caption.text == svg.attrib["aria-label"] == "e < 1"
    assert caption[0].text == "largest: 1 at time 2, unit 0"
    assert svg.attrib["viewBox"] == "0 0 340 78"
    plot, frame, *others = svg
    assert plot.attrib["viewBox"] == "0 0 3 2"
    for part in (plot, frame):
        assert [part.attrib[k] for k in ("x", "width", "height")] == ["36", "60", "28"]
    texts = [(t.text, t.attrib["x"], t.attrib["y"]) for t in others if t.tag == "text"]
    assert texts == [
        ("time 0 to 2", "36", "40"),
        ("0", "32", "9"),
        ("1", "32", "28"),
        ("1.0e-06", "36", "63"),
        ("1", "176", "63"),
    ]
    boxes = [b for b in others if b.attrib.get("class") == "heat"]
    assert [float(b.attrib["fill-opacity"]) for b in boxes] == [0.0, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0]
    assert [int(b.attrib["x"]) for b in boxes] == list(range(86, 170, 12))


def test_row_labels():
    labelled = drawing(replace(GRID, labels=("f", "i*g")))
    assert labelled[0][0].text == "largest: 1 at time 2, f"
    ends = [(t.text, t.attrib["y"]) for t in labelled[1] if t.attrib.get("class") == "end"]
    assert ends == [("f", "10"), ("i*g", "24")]
    tall = drawing(replace(GRID, rows=[[1.0]] * 5))[1]
    turned = [(t.text, t.attrib["transform"]) for t in tall if t.attrib.get("class") == "middle"]
    assert turned == [("unit", "translate(10 35) rotate(-90)")]


def test_nonfinite_numbers():
    """NaN and infinity get the strongest shade and do not affect the scale."""
    odd = Heatmap("e", "x", "y", [[float("inf"), float("nan"), 1e-3, 0.0, -1.0, 1.0]])
    assert cells(odd) == {0.5: [(2, 0, 1)], 1.0: [(0, 0, 2), (5, 0, 1)]}
    assert drawing(odd)[0][0].text == "largest: inf at x 0, y 0"
    only_nan = Heatmap("e", "x", "y", [[float("nan"), 0.0]])
    assert cells(only_nan) == {1.0: [(0, 0, 1)]}
    assert drawing(only_nan)[0][0].text == "largest: nan at x 0, y 0"


@pytest.mark.parametrize("weakest", [0.0, 1e-8])
def test_all_zeros(weakest):
    zeros = Heatmap("e", "x", "y", [[0.0, 0.0]], floor=weakest)
    assert cells(zeros) == {}
    assert drawing(zeros)[0][0].text == "zero everywhere"


@pytest.mark.parametrize("rows", [[], [[], []]])
def test_empty_grid(rows):
    assert heatmap_svg(Heatmap("e", "x", "y", rows)) == ""


def test_downsampling_keeps_the_largest():
    rows = [[0.0] * 97 for _ in range(193)]
    rows[192][96] = 1.0
    rows[3][1] = 1e-3
    grid = Heatmap("e", "time", "unit", rows)
    assert cells(grid) == {0.5: [(0, 1, 1)], 1.0: [(48, 64, 1)]}
    caption, svg = drawing(grid)
    assert svg[0].attrib["viewBox"] == "0 0 49 65"
    assert [svg[0].attrib[k] for k in ("width", "height")] == ["300", "150"]
    assert caption[0].text == "largest: 1 at time 96, unit 192"
    assert [t.text for t in svg if t.tag == "text"][:3] == ["time 0 to 96", "0", "192"]
    exact = Heatmap("e", "time", "unit", [[1.0] * 96])
    assert cells(exact) == {1.0: [(0, 0, 96)]}
    assert drawing(exact)[1][0].attrib["viewBox"] == "0 0 96 1"
