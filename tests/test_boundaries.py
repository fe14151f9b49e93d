"""The import boundaries of the packages and of their tests, as grimp finds the imports.

Imports inside functions and under ``TYPE_CHECKING`` count too, and calls of ``import_optional`` do not.
``from jaxlstm.check import trace`` is an import of ``jaxlstm.check.trace`` if that is a module, and of
``jaxlstm.check`` (its ``__init__.py``) otherwise.
"""

import ast
import graphlib
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import grimp
import pytest

ROOT = Path(__file__).parent.parent
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
    "reading the JSON of a .pt2 file needs nothing else of the converters but errors": Boundary(
        modules=("jaxlstm_converters.pt2.schema",),
        never=("jaxlstm_converters",),
        exempt_imports=("jaxlstm_converters.pt2.schema", "jaxlstm_converters.checkpoint"),
    ),
    "tracing imports nothing of .pt2 files": Boundary(
        modules=("jaxlstm_converters.pt2.trace",),
        never=("jaxlstm_converters",),
        exempt_imports=(
            "jaxlstm_converters.pt2.trace",
            "jaxlstm_converters.pt2.packed",
            "jaxlstm_converters.torchscript.text",
        ),
    ),
    "the converters do not import the command line": Boundary(
        modules=("jaxlstm_converters",), never=("jaxlstm.cli",)
    ),
    "nothing inside imports through a facade": Boundary(
        modules=PACKAGES, never=FACADES, exempt_modules=("jaxlstm:",)
    ),
}

SOURCE = "jaxlstm_converters.source"
ROOMS = ("syntax", "spelling", "graph", "modules", "methods")
"""The folders of ``source``, each of which may import itself and those before it."""

BOUNDARIES |= {
    f"source/{room} imports only folders before it": Boundary(
        modules=(f"{SOURCE}.{room}",),
        never=(SOURCE,),
        exempt_imports=tuple(f"{SOURCE}.{earlier}" for earlier in ROOMS[: place + 1]),
    )
    for place, room in enumerate(ROOMS)
}

# The modules that may import a third-party package. Other third-party packages may not be imported at all.
HOMES = {
    "jaxlib": ("jaxlstm.inference.compiled_program",),
    "jax": PACKAGES,
    "jaxtyping": ("jaxlstm",),
    "numpy": PACKAGES,
    "ml_dtypes": PACKAGES,
    "torch": ("jaxlstm.check.reference", "jaxlstm_converters.pt2", "jaxlstm_converters.torchscript"),
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


@cache
def imports() -> dict[str, set[str]]:
    """Return module -> the modules that it imports, and the other packages."""
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    inside = (module for module in graph.modules if module.startswith(PACKAGES))
    return {module: graph.find_modules_directly_imported_by(module) for module in inside}


def _is_below(module: str, names: tuple[str, ...]) -> bool:
    """Return True if a module is one of the names or inside one; "name:" matches that module only."""
    return any(module == name.rstrip(":") or module.startswith(name + ".") for name in names)


@pytest.mark.parametrize("name", BOUNDARIES)
def test_boundary(name: str) -> None:
    boundary = BOUNDARIES[name]
    inside = [
        module
        for module in imports()
        if _is_below(module, boundary.modules) and not _is_below(module, boundary.exempt_modules)
    ]
    assert inside
    violations = {
        (module, imported)
        for module in inside
        for imported in imports()[module]
        if _is_below(imported, boundary.never) and not _is_below(imported, boundary.exempt_imports)
    }
    assert sorted(violations) == []


def test_third_party_packages_have_homes() -> None:
    known = {*sys.stdlib_module_names, *PACKAGES}
    pairs = {(module, imported) for module in imports() for imported in imports()[module]}
    others = ((module, name) for module, name in pairs if name.split(".")[0] not in known)
    assert sorted(pair for pair in others if not _is_below(pair[0], HOMES.get(pair[1], ()))) == []


# The modules that may import a module by a name.
DYNAMIC = {"_shared/imports.py", "cli/check.py", "cli/user_code.py", "programs/operators/__init__.py"}


def test_dynamic_imports() -> None:
    files = {*ROOT.glob("jaxlstm/**/*.py"), *ROOT.glob("converters/*/**/*.py")}
    found = {path for path in files if re.search(r"\bimport_module\(|__import__", path.read_text())}
    assert found == {ROOT / "jaxlstm" / name for name in DYNAMIC}


def test_no_import_cycles() -> None:
    # The error has the modules of a cycle.
    graphlib.TopologicalSorter(imports()).prepare()


def test_few_levels_within_a_folder() -> None:
    """The longest chain of imports in a folder has 7 modules, in two older ones 9."""
    levels: dict[str, int] = {}
    deepest: Counter[str] = Counter()
    for module in filter(imports().__contains__, graphlib.TopologicalSorter(imports()).static_order()):
        folder = module.rpartition(".")[0]
        beside = (name for name in imports()[module] if name.rpartition(".")[0] == folder)
        levels[module] = 1 + max((levels.get(name, 0) for name in beside), default=0)
        deepest[folder] = max(deepest[folder], levels[module])
    assert deepest["jaxlstm.programs"] == 5
    deep = {folder for folder, depth in deepest.items() if depth > 7}
    assert deep == {f"jaxlstm_converters.{name}" for name in ("flax", "torchscript")}, deepest
    assert max(deepest.values()) == 9


def test_tests_tools_and_benchmarks_share_only_testing() -> None:
    """Each imports modules of ``testing``, which imports none of the three; two also import their own."""
    users = {"tests", "tools", "benchmarks"}
    graph = grimp.build_graph("testing", *users, cache_dir=None)
    pairs = {(m, name) for m in graph.modules for name in graph.find_modules_directly_imported_by(m)}
    folders = {(module.split(".")[0], name.split(".")[0]) for module, name in pairs}
    assert ("tests", "testing") in folders
    own = {(folder, folder) for folder in ("tools", "benchmarks")}
    assert {pair for pair in folders - own if pair[1] in users} == set()


def test_few_entries_directly_under_the_library() -> None:
    entries = {path.name for path in (ROOT / "jaxlstm").iterdir()} - {"__pycache__"}
    assert 5 < len(entries) <= 14, sorted(entries)


# The two Flax APIs have the same public names.
SHARED_CLASS_NAMES = {"LSTM", "LSTMCell"}


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in (*ROOT.glob("jaxlstm/**/*.py"), *ROOT.glob("converters/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path))
    shared = {name: sorted(places) for name, places in homes.items() if len(places) > 1}
    assert shared.keys() == SHARED_CLASS_NAMES, shared
