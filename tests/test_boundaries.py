"""The import boundaries of the packages and of their tests, checked on the source of every module.

Every import counts: at the top of a module, inside a function, under ``TYPE_CHECKING``, and by
``importlib.import_module`` or ``import_optional`` with a literal name. Only the modules of
``DYNAMIC_IMPORTS`` may import a name that is not a literal. An import is resolved to the module that it
loads: ``from jaxlstm.check import trace`` is an import of ``jaxlstm.check.trace`` if that is a module, and
of ``jaxlstm.check`` (its ``__init__.py``) otherwise. Python also runs the ``__init__.py`` of each parent
package. These runs do not count as imports, because every package that re-exports its own modules would be a
cycle.
"""

import ast
import graphlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGES = ("jaxlstm", "jaxlstm_converters")


class Boundary(NamedTuple):
    """Modules that must not import other modules. Each name stands for the module and all below it."""

    modules: tuple[str, ...]
    never: tuple[str, ...]
    exempt_modules: tuple[str, ...] = ()
    exempt_imports: tuple[str, ...] = ()


# These modules re-export names of both packages. A colon stands for the __init__.py only.
FACADES = ("jaxlstm:", "jaxlstm.linen:", "jaxlstm.inference:")

BOUNDARIES = {
    "the library imports neither the converters nor the command line": Boundary(
        modules=("jaxlstm",),
        never=("jaxlstm_converters", "jaxlstm.cli"),
        exempt_modules=(*FACADES, "jaxlstm.__main__", "jaxlstm.cli"),
    ),
    "the checker does not import the converters": Boundary(
        modules=("jaxlstm.check",), never=("jaxlstm_converters",)
    ),
    "the references of the checker import nothing above them": Boundary(
        modules=("jaxlstm.check.reference", "jaxlstm.check.cases"),
        never=("jaxlstm.check",),
        exempt_imports=("jaxlstm.check.reference", "jaxlstm.check.cases", "jaxlstm.check.exceptions"),
    ),
    "the oracle shares no code with the layer": Boundary(
        modules=("jaxlstm.check.reference.oracle",),
        never=("jax", *PACKAGES),
        exempt_imports=("jaxlstm.layer.config",),
    ),
    "the layer imports nothing above it": Boundary(
        modules=("jaxlstm.layer",), never=PACKAGES, exempt_imports=("jaxlstm.layer", "jaxlstm._shared")
    ),
    "the kernels import only the layer": Boundary(
        modules=("jaxlstm.kernels",),
        never=PACKAGES,
        exempt_imports=("jaxlstm.kernels", "jaxlstm.layer", "jaxlstm._shared"),
    ),
    "shared low-level code imports neither package": Boundary(
        modules=("jaxlstm._shared",), never=PACKAGES, exempt_imports=("jaxlstm._shared",)
    ),
    "the converters do not import the command line": Boundary(
        modules=("jaxlstm_converters",), never=("jaxlstm.cli",)
    ),
    "nothing inside imports through a facade": Boundary(
        modules=PACKAGES, never=FACADES, exempt_modules=("jaxlstm:",)
    ),
}

# The modules that may import a third-party package. Other third-party packages may not be imported at all.
HOMES = {
    "jaxlib": ("jaxlstm.inference.compiled_program",),
    "jax": PACKAGES,
    "jaxtyping": ("jaxlstm",),
    "numpy": PACKAGES,
    "ml_dtypes": PACKAGES,
    "torch": ("jaxlstm.check.reference", "jaxlstm_converters.pt2"),
    "flax": (
        *("jaxlstm.nnx", "jaxlstm.linen", "jaxlstm.check.subjects.flax_model"),
        "jaxlstm_converters.flax",
        *("jaxlstm_converters.source.proof", "jaxlstm_converters.source.spelling.layers"),
    ),
    "optax": ("jaxlstm_converters.optimizer",),
    "rich": ("jaxlstm._shared", "jaxlstm.cli"),
    "matplotlib": ("jaxlstm.check.report",),
    "pyarrow": ("jaxlstm.cli.run.files", "jaxlstm.inference.columns", "jaxlstm.inference.sequence_files"),
    "ray": ("jaxlstm.cli.run.cluster",),
    "flatbuffers": ("jaxlstm.inference.artifact",),
    "pytest": ("jaxlstm.check.pytest_plugin",),
}


# The modules that may import a module whose name is not a literal.
DYNAMIC_IMPORTS = {
    "jaxlstm.cli.user_code",  # a module of the user
    "jaxlstm._shared.imports",  # the public names of a package, and optional packages
    "jaxlstm.programs.operators",  # its own modules
}
IMPORTERS = ("import_module", "import_optional", "__import__")


@cache
def modules() -> dict[str, Path]:
    """Return the path of every module of both packages."""
    found = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """Return every module that a module imports, resolved as described at the top of this file."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    return frozenset(name for node in ast.walk(tree) for name in _imported_by(node, package))


def _imported_by(node: ast.AST, package: str) -> Iterator[str]:
    match node:
        case ast.Import(names=aliases):
            yield from (alias.name for alias in aliases)
        case ast.ImportFrom(module=base, names=aliases, level=level):
            if level:
                parents = package.split(".")[: len(package.split(".")) - level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            assert base is not None
            for alias in aliases:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in modules() else base
        case ast.Call(
            func=ast.Attribute(attr=function) | ast.Name(id=function),
            args=[ast.Constant(value=str() as name), *_],
        ) if function in IMPORTERS:
            yield name


def _imports_dynamically(tree: ast.AST) -> bool:
    """Return True if an import function is used other than by a call with a literal name."""
    literal = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=function) | ast.Name(id=function):
                if function in IMPORTERS and id(node) not in literal:
                    return True
            case ast.alias(name=function, asname=str()) if function in IMPORTERS:
                return True
    return False


def _is_below(module: str, names: tuple[str, ...]) -> bool:
    """Return True if a module is one of the names or inside one; "name:" matches that module only."""
    return any(module == name.rstrip(":") or module.startswith(name + ".") for name in names)


def test_import_resolution() -> None:
    assert "jaxlstm.layer.config" in imports("jaxlstm")  # under TYPE_CHECKING
    assert "jaxlstm.layer.precision" in imports("jaxlstm.layer.params")  # inside a function
    assert "jaxlstm.layer.module_calls" in imports("jaxlstm.nnx")  # from jaxlstm.layer import module_calls
    relative = ast.parse("from ..layer.cell import LSTMState\nfrom . import scan").body
    assert [name for node in relative for name in _imported_by(node, "jaxlstm.kernels")] == [
        "jaxlstm.layer.cell",
        "jaxlstm.kernels",
    ]
    dynamic = ast.parse("importlib.import_module('torch.nn')").body[0].value  # type: ignore[attr-defined]
    assert list(_imported_by(dynamic, "jaxlstm")) == ["torch.nn"]


@pytest.mark.parametrize("name", BOUNDARIES)
def test_boundary(name: str) -> None:
    boundary = BOUNDARIES[name]
    inside = [
        module
        for module in modules()
        if _is_below(module, boundary.modules) and not _is_below(module, boundary.exempt_modules)
    ]
    assert inside
    violations = {
        (module, imported)
        for module in inside
        for imported in imports(module)
        if _is_below(imported, boundary.never) and not _is_below(imported, boundary.exempt_imports)
    }
    assert sorted(violations) == []


def test_third_party_packages_have_homes() -> None:
    violations = set()
    for module in modules():
        for imported in imports(module):
            package = imported.split(".")[0]
            if package in sys.stdlib_module_names or package in PACKAGES:
                continue
            if not _is_below(module, HOMES.get(package, ())):
                violations.add((module, imported))
    assert sorted(violations) == []


def test_dynamic_imports() -> None:
    dynamic = {m for m, path in modules().items() if _imports_dynamically(ast.parse(path.read_text()))}
    assert dynamic == DYNAMIC_IMPORTS


def test_no_import_cycles() -> None:
    known = modules().keys()
    # The error has the modules of a cycle.
    graphlib.TopologicalSorter({module: imports(module) & known for module in known}).prepare()


ROOT = Path(__file__).parent.parent
USERS_OF_TESTING = ("tests", "tools", "benchmarks")


def test_tests_tools_and_benchmarks_share_only_testing() -> None:
    """Each imports modules of its folder and of ``testing``, which imports none of the three."""
    found = set()
    for folder in (*USERS_OF_TESTING, "testing"):
        paths = sorted((ROOT / folder).rglob("*.py"))
        assert paths
        for path in paths:
            package = ".".join(path.relative_to(ROOT).parent.parts)
            for node in ast.walk(ast.parse(path.read_text())):
                tops = {name.split(".")[0] for name in _imported_by(node, package)}
                found |= {(folder, top) for top in tops.intersection(USERS_OF_TESTING) - {folder}}
    assert found == set()


def test_few_entries_directly_under_the_library() -> None:
    entries = {path.name for path in (ROOT / "jaxlstm").iterdir()} - {"__pycache__"}
    assert 5 < len(entries) <= 14, sorted(entries)


# The two Flax APIs have the same public names.
SHARED_CLASS_NAMES = {"LSTM", "LSTMCell"}


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    shared = {name: sorted(places) for name, places in homes.items() if len(places) > 1}
    assert shared.keys() == SHARED_CLASS_NAMES, shared
