"""docs/cli.md: the site lists every argument, and the examples are accepted."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
CONF = runpy.run_path(str(PAGE.with_name("conf.py")))


def test_reference() -> None:
    source = [PAGE.read_text()]
    CONF["insert_tables"](None, "cli", source)
    for line in (
        "## export",
        "- `-o OUT`, `--output OUT` (required): the file to write",
        "- `--json`: print",
    ):
        assert line in source[0]


def test_examples_are_accepted() -> None:
    parsers = CONF["parsers"]()
    lines = re.findall(r"^jaxlstm (\w+) (.*)$", PAGE.read_text().split("## Examples")[1], re.MULTILINE)
    assert {name for name, _ in lines} == parsers.keys()
    for name, arguments in lines:
        assert parsers[name].parse_args(arguments.split()).checkpoint
