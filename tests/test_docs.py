"""The pages: their code runs, examples of all public functions, links."""

import doctest
import re

import jaxlstm
from testing.pages import API, ROOT, blocks, public_objects

PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}


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
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
