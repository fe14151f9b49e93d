"""``--port FILE.py:NAME``: a function of the user's own, by the file or module that holds it."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

DEFAULT_NAME = "port"


def load_port(where: str) -> Callable[..., Any]:
    """The callable of "FILE.py:NAME" or "package.module:NAME"; without ``:NAME`` the one called port.

    The file is run, as Python would run it, with its own folder on the path; a module is looked for in the
    working directory too.

    Raises:
      ValueError: no such file, module or name, no callable, or the file raises; the message says where.
    """
    source, _, name = where.partition(":")
    name = name or DEFAULT_NAME
    module = _import(where, source)
    found = getattr(module, name, None)
    if callable(found):
        return found
    functions = [n for n, value in vars(module).items() if _is_own_callable(value, module)]
    what = "no callable" if hasattr(module, name) else "not there"
    raise ValueError(
        f"--port {where}: {name} is {what} in {source}; name one as FILE.py:NAME"
        + (f", it has {', '.join(functions)}" if functions else "")
    )


def _import(where: str, source: str) -> ModuleType:
    is_file = source.endswith(".py")
    if is_file and not Path(source).is_file():
        raise ValueError(f"--port {where}: there is no file {source}")
    folder = Path(source).resolve().parent if is_file else Path.cwd()
    sys.path.insert(0, str(folder))
    try:
        if not is_file:
            return importlib.import_module(source)
        return _run_file(Path(source).resolve())
    except ImportError as error:
        raise ValueError(f"--port {where}: {error}{_place(error, source)}") from error
    except Exception as error:  # whatever the user's file raises is told as it is, with its line
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"--port {where}: {told}{_place(error, source)}") from error


def _run_file(path: Path) -> ModuleType:
    name = f"port_{path.stem}"  # not the stem alone, lest a file called jax.py takes that name from JAX
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up by name
    loader.exec_module(module)
    return module


def _place(error: BaseException, source: str) -> str:
    """The line of the user's own file where it went wrong."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name == Path(source).name
    ]
    return f" ({source}, line {lines[-1]})" if lines else ""


def _is_own_callable(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__
