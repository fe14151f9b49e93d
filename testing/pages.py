"""The snippets of the documentation's pages."""

import io
import pydoc
import re
import sys
import types
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from testing.command import jaxlstm_command

ROOT = Path(__file__).parents[1]
API = "".join(page.read_text() for page in sorted((ROOT / "docs").glob("api/*.md")))


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language; "" selects those without a language."""
    return [block for name, block in _fenced(page) if name == language]


def _fenced(page: str) -> list[tuple[str, str]]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_page(
    page: str, names: Mapping[str, Any] | None = None, replace: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run the Python blocks of a page in one namespace, and return it."""
    sys.modules[page] = types.ModuleType(page)  # Dynamo imports the module of a function.
    scope = vars(sys.modules[page])
    scope.update(names or {})
    code = "\n".join(blocks(page, "python"))
    for old, new in (replace or {}).items():
        assert old in code, old
        code = code.replace(old, new)
    exec(compile(code, page, "exec"), scope)
    return scope


def fits(quote: str, message: str) -> bool:
    """Return True if a message equals a quote, in which "..." stands for anything.

    Rounding errors and numbers of criteria may differ.
    """
    quote = re.sub(r"\d\.\d+e-\d\d|\d+(?= ok| failed)", "...", quote)
    pattern = ".*".join(re.escape(part) for part in quote.strip().split("..."))
    return re.fullmatch(pattern, message.strip(), re.DOTALL) is not None


def follow_page(page: str) -> dict[str, Any]:
    """Follow a page step by step in the working directory, and return the namespace of its code.

    Python runs, also a quoted file of Python. The command after ``$`` writes a file that the page quotes. A
    block of ``text`` shows the output of the code before it, up to rounding errors. A diff edits the file.
    """
    scope: dict[str, Any] = {"__name__": page}
    source, printed = Path(), io.StringIO()
    for language, block in _fenced(page):
        if language == "python":
            with redirect_stdout(printed := io.StringIO()):
                exec(compile(block, page, "exec"), scope)
        elif language == "text":
            assert fits(block, printed.getvalue()), printed.getvalue()
        elif language == "diff":
            source.write_text(_edited(source.read_text(), block))
        elif block.startswith("$ jaxlstm convert "):
            command, _, output = block.partition("\n")
            assert jaxlstm_command(*command.split()[2:]).out == output
            source = Path(command.split()[-1])
            assert source.read_text() in blocks(page, "python")
    return scope


def _edited(text: str, diff: str) -> str:
    """Return a text after the edits of a diff, whose parts are separated by lines of @@."""
    for part in diff.split("@@\n"):
        lines = part.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if not line.startswith("+"))
        assert text.count(old) == 1, old
        text = text.replace(old, "".join(line[1:] for line in lines if not line.startswith("-")))
    return text


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
