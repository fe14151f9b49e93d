"""Python code of the user that options of the command line name: a port, or operators."""

import importlib
import importlib.machinery
import sys
import traceback
from pathlib import Path
from types import ModuleType


def import_user_code(option: str, source: str) -> ModuleType:
    """Run a file, or import a module, that an option of the command line names.

    A file is executed with its folder on the path. A module is also searched for in the working directory.
    """
    is_file = source.endswith(".py")
    if is_file and not Path(source).is_file():
        raise ValueError(f"{option}: no such file: {source}")
    folder = Path(source).resolve().parent if is_file else Path.cwd()
    sys.path.insert(0, str(folder))
    try:
        if not is_file:
            return importlib.import_module(source)
        return _run_file(Path(source).resolve())
    except ImportError as error:
        raise ValueError(f"{option}: {error}{_line(error, source)}") from error
    except Exception as error:  # The user's file may raise anything.
        message = f"{type(error).__name__}: {error}"
        raise ValueError(f"{option}: {message}{_line(error, source)}") from error


def _run_file(path: Path) -> ModuleType:
    name = f"user_{path.stem}"  # With the bare stem, a file jax.py would hide JAX.
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
