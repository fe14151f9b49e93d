"""Imports on first use: public names of a package (PEP 562), and optional dependencies."""

import ast
import importlib
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def lazy_names(
    package: str, fixes: Mapping[str, str] | None = None
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__all__`, `__getattr__` and `__dir__` of a package.

    The package's `__init__.py` imports the names under `if TYPE_CHECKING:`, so that each is listed once,
    where type checkers read it too. `fixes` has advice for the errors of names that the package lacks.
    """
    modules = {name: module for module, name in _typed_imports(package)}
    names = sorted(modules)

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}{(fixes or {}).get(name, '')}")
        if modules[name] == package:
            value = importlib.import_module(f"{package}.{name}")
        else:
            value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return names, get, lambda: names


def _typed_imports(package: str) -> Iterator[tuple[str, str]]:
    """Yield the module and name of each import under `if TYPE_CHECKING:`."""
    module = sys.modules[package]
    source = linecache.getlines(str(module.__file__), vars(module))
    if not source:
        raise ImportError(f"{package} reads its public names from its source; install its .py files too")
    for statement in ast.parse("".join(source)).body:
        match statement:
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=imports):
                for node in imports:
                    assert isinstance(node, ast.ImportFrom)
                    assert node.module is not None
                    home = f"{package}.{node.module}" if node.level else node.module
                    yield from ((home, alias.name) for alias in node.names)


def import_optional(module: str, extra: str) -> Any:
    """Import an optional package; if it is missing, the error names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{module} is not installed; install it with pip install 'jaxlstm[{extra}]'"
        ) from error
