"""Configuration of the documentation site; `make docs` builds it."""

import argparse
import inspect
import re
from collections.abc import Mapping
from typing import Any

from jaxlstm import __version__
from jaxlstm.cli import COMMANDS
from jaxlstm.programs import errors
from jaxlstm.programs.operators.registry import find_operator, operator_names
from jaxlstm_converters import checkpoint

project = "jaxlstm"
author = "The jaxlstm authors"
release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = "jaxlstm"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
# docs/examples is a link to examples/, whose notebook is a page of the site.
exclude_patterns = ["_build", "examples/**/README.md", "examples/README.md"]

# Notebooks run at every build; an exception in one fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autoclass_content = "class"
autodoc_default_options = {"members": True, "special-members": "__call__"}
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def readable_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Return the signature of ``__init__`` for NNX modules, and none of the arguments that Linen adds."""
    if what == "class" and signature == "(*args, **kwargs)":
        parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
        signature = str(inspect.Signature([p.replace(annotation=p.empty) for p in parameters]))
    if signature:
        signature = re.sub(r"<class '([\w.]+)'>", r"\1", signature)
        signature = re.sub(r", parent=<[^>]*>, name=None", "", signature)
    return signature, result


def operator_list() -> str:
    """Return a row for each operator, private ones last: its overloads and their arguments."""
    names = sorted(operator_names(), key=lambda name: "._" in f".{name}")
    found = {o.name: [*o.signature.parameters] for o in filter(None, map(find_operator, names))}
    rows = (f"| `{name}` | {', '.join(p for p in found[name] if p != 'options')} |" for name in found)
    return "\n".join(["| Operator | Arguments |", "|---|---|", *rows])


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    commands = argparse.ArgumentParser(prog="jaxlstm").add_subparsers()
    for command in COMMANDS:
        command.add_parser(commands)
    return dict(commands.choices)


def command_reference() -> str:
    """Return the help of every command."""
    return "\n\n".join(f"## {name}\n\n```\n{parser.format_help()}```" for name, parser in parsers().items())


def code_table(codes: Mapping[str, str]) -> str:
    """Return a table of error codes."""
    return "\n".join(["| `code` | Meaning |", "|---|---|", *(f"| `{c}` | {codes[c]} |" for c in codes)])


TABLES = {
    "<!-- operators -->": operator_list,
    "<!-- commands -->": command_reference,
    "<!-- codes of files -->": lambda: code_table(checkpoint.CODES),
    "<!-- codes of programs -->": lambda: code_table(errors.CODES),
}


def insert_tables(app: Any, page: str, source: list[str]) -> None:
    """Replace the markers by the tables."""
    for marker, table in TABLES.items():
        if marker in source[0]:
            source[0] = source[0].replace(marker, table())


def setup(app: Any) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("source-read", insert_tables)
