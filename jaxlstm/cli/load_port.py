"""``--port FILE.py:NAME``: a function of the user, from a file or a module."""

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


def load_port(spec: str) -> Callable[..., Any]:
    """Load the callable of "FILE.py:NAME" or "package.module:NAME". The default name is ``port``.

    A file is executed with its folder on the path. A module is also searched for in the working directory.

    Raises:
      ValueError: if the file, module or name does not exist, the name is not callable, or the file raises.
    """
    source, _, name = spec.partition(":")
    name = name or DEFAULT_NAME
    module = _import(spec, source)
    port = getattr(module, name, None)
    if callable(port):
        return port
    problem = "is not callable" if hasattr(module, name) else "does not exist"
    functions = [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    choices = f" ({', '.join(functions)})" if functions else ""
    raise ValueError(
        f"--port {spec}: {name} {problem} in {source}; name one of its functions{choices} as FILE.py:NAME"
    )


def _import(spec: str, source: str) -> ModuleType:
    is_file = source.endswith(".py")
    if is_file and not Path(source).is_file():
        raise ValueError(f"--port {spec}: no such file: {source}")
    folder = Path(source).resolve().parent if is_file else Path.cwd()
    sys.path.insert(0, str(folder))
    try:
        if not is_file:
            return importlib.import_module(source)
        return _run_file(Path(source).resolve())
    except ImportError as error:
        raise ValueError(f"--port {spec}: {error}{_line(error, source)}") from error
    except Exception as error:  # The user's file may raise anything.
        message = f"{type(error).__name__}: {error}"
        raise ValueError(f"--port {spec}: {message}{_line(error, source)}") from error


def _run_file(path: Path) -> ModuleType:
    name = f"port_{path.stem}"  # With the bare stem, a file jax.py would hide JAX.
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # Dataclasses look up their module by name.
    loader.exec_module(module)
    return module


def _line(error: BaseException, source: str) -> str:
    """Return the place of an error in the user's file, or an empty string."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name == Path(source).name
    ]
    return f" ({source}, line {lines[-1]})" if lines else ""
