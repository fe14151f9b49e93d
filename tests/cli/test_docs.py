"""docs/cli.md lists the arguments of the parser. Run this file to write the list."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from jaxlstm.cli import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    commands = argparse.ArgumentParser(prog="jaxlstm").add_subparsers()
    for command in COMMANDS:
        command.add_parser(commands)
    return dict(commands.choices)


def spelling(action: argparse.Action) -> str:
    """Return an argument as one types it, such as "`-o OUT`, `--output OUT`"."""
    value = action.metavar or (action.choices and "|".join(map(str, action.choices)))
    value = f" {value or action.dest.upper()}" if action.nargs != 0 else ""
    spelled = [f"`{option}{value}`" for option in action.option_strings] or [f"`{action.metavar}`"]
    return ", ".join(spelled) + (" (required)" if action.required and action.option_strings else "")


def prose(text: str) -> str:
    """Return a text of the parser with its options as code."""
    return re.sub(r"(?<!\S)--[a-z-]+", lambda option: f"`{option[0]}`", text.replace("%%", "%"))


def reference() -> str:
    parts = []
    for name, parser in parsers().items():
        actions = [action for action in parser._actions if action.dest != "help"]
        lines = [f"- {spelling(action)}: {prose(action.help or '')}" for action in actions]
        parts.append(f"## {name}\n\n{prose(parser.description or '')}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def with_reference(text: str) -> str:
    new = f"<!-- commands -->\n\n{reference()}\n\n<!-- /commands -->"
    text, count = re.subn(r"<!-- commands -->.*<!-- /commands -->", lambda _: new, text, flags=re.DOTALL)
    assert count == 1
    return text


def test_reference() -> None:
    assert PAGE.read_text() == with_reference(PAGE.read_text()), "run python -m tests.cli.test_docs"


def test_examples_are_accepted() -> None:
    lines = re.findall(r"^jaxlstm (\w+) (.*)$", PAGE.read_text().split("## Examples")[1], re.MULTILINE)
    assert {name for name, _ in lines} == parsers().keys()
    for name, arguments in lines:
        assert parsers()[name].parse_args(arguments.split()).checkpoint


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text()))
