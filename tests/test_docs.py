"""The texts of the pages: links, pictures, tables, quoted commands and code, versions."""

import doctest
import re
import runpy
import tomllib

import pytest

import jaxlstm
from testing.pages import API, ROOT, blocks, public_objects

README = (ROOT / "README.md").read_text()
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
CONF = runpy.run_path(str(ROOT / "docs" / "conf.py"))


def test_the_snippets_of_every_page_are_run() -> None:
    files = ("tests/test_snippets.py", "tests/converters/flax/test_linen.py")
    tests = "".join((ROOT / file).read_text() for file in files)
    run = set(re.findall(r'(?:run|follow)_page\("([a-z_]+\.md)"', tests))
    assert {page for page in PAGES if blocks(page, "python")} == run


def test_every_public_function_has_an_example() -> None:
    """In its docstring or on a page."""
    directives = re.findall(r"^\.\. autofunction:: (\S+)$", API, re.MULTILINE)
    code = [block for page in PAGES for block in blocks(page, "python")]
    finder = doctest.DocTestFinder()
    for name, target in public_objects().items():
        code += [example.source for test in finder.find(target, name) for example in test.examples]
    names = {name.rpartition(".")[2] for name in directives}
    assert {n for n in names if not re.search(rf"\b{n}\(|\.{n}\b", "\n".join(code))} == set()
    public = {*jaxlstm.__all__, *jaxlstm.check.__all__, *jaxlstm.inference.__all__}
    assert {name for name in public if name not in API} == {"__version__", "Params"}


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("[be]*s/**/*.md"), *ROOT.glob("docs/*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def site(page: str) -> str:
    """Return a page with the tables that the site inserts."""
    source = [PAGES[page]]
    CONF["insert_tables"](None, page.removesuffix(".md"), source)
    return source[0]


def test_the_site_lists_every_operator() -> None:
    """Overloads of one function have one entry. Each operator leads to its function or its family's."""
    page = site("operators.md")
    assert all(f" {name}(" in page for name in CONF["operator_names"]())
    entry = ".. py:function:: aten.div.Scalar_mode(self, other, rounding_mode)\n"
    assert f"{entry}                 aten.div.Tensor_mode(self, other, rounding_mode)\n   :no-" in page
    functions = {name: CONF["implementation"](f"aten.{name}") for name in ("abs.default", "lstm.input")}
    assert [function.__name__ for function in functions.values()] == ["of_tensor", "run_layer"]
    assert CONF["implementation"]("jaxlstm.lstm") is None


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGE = {name: name.lower() for name in ("Python", "JAX", "NumPy", "Flax", "Optax")} | {"PyTorch": "torch"}
STATEMENT = re.compile(rf"\b({'|'.join(PACKAGE)}) (\d+(?:\.\d+)+)")


INSTALLATION = PAGES["installation.md"]


@pytest.mark.parametrize("text", [README, INSTALLATION], ids=["README", "installation"])
def test_the_supported_versions(text: str) -> None:
    """The lower bounds of Python, of JAX and NumPy, and of the libraries that a user brings along."""
    extras = PROJECT["optional-dependencies"]
    requirements = [*PROJECT["dependencies"], *(extras[n][0] for n in ("flax", "optax", "torch"))]
    bounds = dict(requirement.split(">=") for requirement in requirements)
    bounds["python"] = PROJECT["requires-python"].removeprefix(">=")
    stated = STATEMENT.findall(text)
    assert {PACKAGE[name]: version for name, version in stated} == {n: bounds[n] for n in PACKAGE.values()}
    assert len(stated) == len(PACKAGE)


def test_every_extra_of_a_user_is_listed() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", INSTALLATION, re.MULTILINE))
    developers = {"bench", "test", "test-gpu", "test-tpu", "release", "docs", "dev"}
    assert listed == PROJECT["optional-dependencies"].keys() - developers
