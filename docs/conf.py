"""Configuration of the documentation site; `make docs` builds it."""

import inspect
import re
from typing import Any

from jaxlstm import __version__
from jaxlstm.programs.operators.registry import operator_names

project = "jaxlstm"
author = "The jaxlstm authors"
release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
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
    """Return the registered operators by base name: "add (Scalar, Tensor)", without "default"."""
    overloads: dict[str, list[str]] = {}
    for name in operator_names():
        base, _, overload = name.removeprefix("aten.").rpartition(".")
        overloads.setdefault(base, []).append(overload)
    return " · ".join(
        base if names == ["default"] else f"{base} ({', '.join(names)})"
        for base, names in sorted(overloads.items())
    )


def insert_operators(app: Any, page: str, source: list[str]) -> None:
    """Insert the list of operators into the page about programs."""
    source[0] = source[0].replace("<!-- operators -->", operator_list())


def setup(app: Any) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("source-read", insert_operators)
