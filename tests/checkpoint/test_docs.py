"""The documentation lists exactly the error codes, cases and containers of the code."""

from __future__ import annotations

import re
from pathlib import Path

from jaxlstm_converters.checkpoint import CODES
from testing.hostile.corpus import cases

DOCS = Path(__file__).parents[2] / "docs"


def test_every_code_is_explained() -> None:
    page = (DOCS / "containers.md").read_text()
    table = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", page, re.MULTILINE))
    assert {code: table.get(code) for code in CODES} == CODES


def test_every_case_is_documented() -> None:
    page = (DOCS / "safety.md").read_text()
    numbers = {int(n) for n in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert numbers == set(range(1, 47))
    assert numbers >= {case.number for case in cases()} - {0}


def test_every_container_is_listed() -> None:
    """The container names in the source equal those in the table."""
    page = (DOCS / "containers.md").read_text()
    source = "".join(p.read_text() for p in sorted((DOCS.parent / "converters").rglob("*.py")))
    names = set(re.findall(r'(?:source\.path, |container = )"([^"]+)"', source))
    assert len(names) >= 7
    assert names <= set(re.findall(r"`([^`\n]+)`", page))
