"""Text in color on a terminal. It needs ``rich`` (extra ``cli``), imported on use."""

from __future__ import annotations

import sys

_STYLES = {
    r"\bok\b": "green",
    r"\buntested\b": "yellow",
    r"\bHOLDS\b": "bold green",
    r"\b(FAILED|DOES NOT HOLD)\b": "bold red",
    r"(?m)^[A-Z].*:$": "bold",  # Headings.
}


def show_text(text: str) -> None:
    """Print text with the words of a verdict in color. Without rich or a terminal, print plain text."""
    if not sys.stdout.isatty():
        print(text)
        return
    try:
        from rich.console import Console
        from rich.text import Text
    except ModuleNotFoundError:
        print(text)
        return
    colored = Text(text)
    for pattern, style in _STYLES.items():
        colored.highlight_regex(pattern, style)
    Console(highlight=False).print(colored, soft_wrap=True)
