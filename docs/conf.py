"""Configuration of the documentation site; `make docs` builds it."""

from jaxlstm import __version__

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
