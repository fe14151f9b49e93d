"""The reader's source contains nothing that could execute the content of a file."""

import ast
import io
import re
import tokenize
from pathlib import Path

import numpy as np
import pytest

import jaxlstm_converters.checkpoint
from jaxlstm_converters.checkpoint.pickle._run_pickle import KNOWN_GLOBALS
from jaxlstm_converters.checkpoint.pickle.values import StorageType

FOLDER = Path(jaxlstm_converters.checkpoint.__file__).parent
SHARED = FOLDER.parents[2] / "jaxlstm" / "_shared"
SOURCES = [*sorted(FOLDER.rglob("*.py")), SHARED / "safetensors_header.py", SHARED / "strict_json.py"]
# The modules that import from jaxlstm._shared: the reader's own parts there, which are among SOURCES, the
# names of the package, aligned memory, and `import_optional`, whose arguments are literals.
FROM_SHARED = {
    "__init__.py": "imports",
    "onnx.py": "imports",
    "safetensors.py": "safetensors_header",
    "safetensors_header.py": "strict_json",
    "json_objects.py": "strict_json",
    "tensor.py": "aligned",
}
PT2 = FOLDER.parent / "pt2"
# The reader of programs. The other modules of pt2 run after it, or export from a live module.
PROGRAMS = [PT2 / "_read_pt2.py", *sorted(PT2.glob("schema/*.py"))]

FORBIDDEN = {
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"),
    *("Unpickler", "find_class", "load", "loads_pickle", "allow_pickle", "fromfile", "memmap"),
    *("getattr", "setattr", "delattr", "attrgetter", "methodcaller", "__getattribute__"),
    *("importlib", "import_module", "__import__", "__builtins__", "builtins", "runpy", "pkgutil"),
    *("eval", "exec", "literal_eval", "globals", "locals", "vars", "__dict__"),
    *("system", "popen", "subprocess", "ctypes", "cffi", "torch"),
}
# Only as bare names: re.compile and os.open are harmless.
BARE = {"compile", "open", "input", "breakpoint"}
ALLOWED_IMPORTS = {
    *("__future__", "collections", "collections.abc", "dataclasses", "typing"),
    *("json", "math", "os", "re", "stat", "struct", "sys", "threading", "weakref", "zlib"),
    *("numpy", "ml_dtypes"),
}


def names(path: Path) -> set[str]:
    """Return the names of variables, attributes, functions and keywords, without those in strings.

    The module path of a relative import is left out: `pickle` and `io` are folders of the reader.
    """
    text = re.sub(r"^from \.+[\w.]+ import ", "from . import ", path.read_text(), flags=re.MULTILINE)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def forbidden(path: Path) -> set[str]:
    """Return forbidden names in the source."""
    tree = list(ast.walk(ast.parse(path.read_text())))
    bare = {node.id for node in tree if isinstance(node, ast.Name)}
    of_sys = {
        node.attr for node in tree if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sys"
    }
    return names(path) & FORBIDDEN | bare & BARE | of_sys - {"platform"}


def imports(path: Path) -> list[str]:
    """Return the absolute imports. Relative imports must stay inside the reader."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            assert path.is_relative_to(FOLDER)
            assert node.level <= len(path.relative_to(FOLDER).parts)
    return found


def test_sources_are_found() -> None:
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_forbidden_names(path: Path) -> None:
    assert not forbidden(path)
    shared = {f"jaxlstm._shared.{FROM_SHARED[path.name]}"} if path.name in FROM_SHARED else set()
    assert set(imports(path)) <= ALLOWED_IMPORTS | shared


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_reader_of_programs(path: Path) -> None:
    """It imports the graph, itself and the checkpoint reader, and nothing else that is not harmless."""
    assert not forbidden(path)
    readers = ("jaxlstm_converters.checkpoint", "jaxlstm_converters.pt2.")
    assert {name for name in imports(path) if not name.startswith(readers)} <= {
        *ALLOWED_IMPORTS,
        *("functools", "jaxlstm.programs.graph"),
    }


LINES = ("import socket", "from .. import pickle", "from pickle.x import load", "open('x')", "getattr(a, b)")


@pytest.mark.parametrize("line", [*LINES, "np.load(f, allow_pickle=True)", "sys.modules['os']"])
def test_lint_detects_violations(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.py"
    path.write_text(f"{line}\n")
    assert forbidden(path) or set(imports(path)) - ALLOWED_IMPORTS


def test_globals_belong_to_the_reader() -> None:
    """There are at most 32 globals, each a function of the reader, a storage type or a dtype."""
    assert len(KNOWN_GLOBALS) <= 32
    for (module, name), meaning in KNOWN_GLOBALS.items():
        assert type(module) is type(name) is str
        if not isinstance(meaning, StorageType | np.dtype):
            assert Path(meaning.__code__.co_filename).is_relative_to(FOLDER)  # type: ignore[attr-defined]
