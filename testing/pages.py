"""The snippets of the documentation's pages."""

from __future__ import annotations

import pydoc
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language; "" selects those without a language."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in fenced if name == language]


def run_page(
    page: str, names: Mapping[str, Any] | None = None, replace: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run the Python blocks of a page in one namespace, and return it.

    Args:
      page: the file in ``docs``.
      names: objects that the page takes as given.
      replace: texts of the page that do not fit a test, and their replacements. Each must occur.
    """
    scope: dict[str, Any] = {"__name__": page, **(names or {})}
    code = "\n".join(blocks(page, "python"))
    for old, new in (replace or {}).items():
        assert old in code, old
        code = code.replace(old, new)
    exec(compile(code, page, "exec"), scope)
    return scope


def public_objects() -> dict[str, Any]:
    """Return the functions and classes that the API reference lists, by their full names."""
    found, module = {}, "jaxlstm"
    for directive, name in re.findall(r"^\.\. (\w+):: (\S+)$", API, re.MULTILINE):
        if directive == "currentmodule":
            module = name
        elif directive in ("autofunction", "autoclass"):
            full = name if name.startswith("jaxlstm.") else f"{module}.{name}"
            found[full] = pydoc.locate(full)
    return found
