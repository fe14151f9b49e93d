"""Names, lines and strings of a hostile program become identifiers, literals and comments only."""

import ast
import dataclasses
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jaxlstm import from_module
from jaxlstm.programs.program import Program
from jaxlstm_converters.source._write_source import SourceFiles
from jaxlstm_converters.source.proof import make_written

CODE = "__import__('pathlib').Path('PWNED').touch()"
ENDS = ("\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r\n", "\x00", "\\\n")
HOSTILE = (
    # quotes, ends of strings and docstrings
    *('"', "'", '"""', "'''", '\\"""', f'"""\n{CODE}\n"""', f"'''+{CODE}+'''", f'" + {CODE} + "'),
    *(f"{{{CODE}}}", "{", "%s", "\\N{BULLET}", "\\x41", "\\", 'f"{x}"', 'b"x"', f'"); {CODE} #'),
    # ends of lines and of comments
    *ENDS,
    *(f"x{end}{CODE}" for end in ENDS),
    *("# -*- coding: utf-7 -*-", "+AAo-", "# type: ignore", "# fmt: off", "#", f"\n{' ' * 8}{CODE}"),
    # direction of text, invisible characters, characters that equal ASCII after normalization
    *("\u202e", f"\u2066{CODE}\u2069", "\u200b", "a\u200db", "\ufeff", "\uff4a\uff4e\uff50", "\ufb01"),
    *("\ud800", "\U0001f40d", "\x1b[2J", "\t", " ", ""),
    # keywords, names of Python, and names that the file uses
    *("class", "None", "True", "lambda", "import", "match", "type", "async", "print", "len", "__builtins__"),
    *("__init__", "__call__", "__class__", "__import__", "__getattr__", "_", "__", "mro", "_pytree__state"),
    *("self", "rngs", "jax", "jnp", "lax", "nnx", "jaxlstm", "programs", "functools", "math", "Buffer", "np"),
    *("train", "eval", "set_attributes", "super", "object", "value", "x", "Dense"),
    # code, paths and numbers
    *(CODE, f"x; {CODE}", f"x = {CODE}", f"return {CODE}", f"x = y = {CODE}  # y", f"x: {CODE} = 1"),
    *(f"[{CODE}] = x", f"x[{CODE}] = y", "x, (y, *z) = f(", "x = " + "(" * 500, "*", "def f():"),
    *("0", "1a", "-1", ".", "..", "a.b", "a-b", "a b", "/etc/passwd", "../x", "a" * 10_000, "a." * 300),
)
MARKERS = ("pmark", "bmark", "mmark", "Cmark", "kmark", "imark", "abc->acb", "lmark = imark", "lmark")


class Cmark(nn.Module):
    """A model in which each text that a file can choose has a name that a test replaces."""

    bmark: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.pmark = nn.Parameter(torch.randn(4))
        self.register_buffer("bmark", torch.randn(4))
        self.mmark = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))

    def forward(self, imark: torch.Tensor) -> dict[str, torch.Tensor]:
        lmark = imark * self.pmark + self.bmark
        lmark, _ = self.mmark(lmark)
        return {"kmark": torch.einsum("abc->acb", lmark)}


def replaced(value: Any, texts: Mapping[str, str]) -> Any:
    """Return a graph with texts replaced in all names, lines and strings."""
    if isinstance(value, str):
        for old, new in texts.items():
            value = value.replace(old, new)
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: replaced(getattr(value, f.name), texts) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, Mapping):
        return {replaced(key, texts): replaced(item, texts) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [replaced(item, texts) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


@pytest.fixture(scope="module")
def program() -> Program:
    """The program of the model, with its markers."""
    return from_module(Cmark().eval(), (torch.randn(3, 2, 4),))


def hostile_program(program: Program, texts: Mapping[str, str]) -> Program:
    tensors = {**program.params, **program.buffers}
    renamed = {replaced(name, texts): np.asarray(array) for name, array in tensors.items()}
    return Program(replaced(program.graph, texts), renamed)


# The file of a model calls its classes, methods, and functions of these modules.
MODULES = {"jax", "jnp", "lax", "nnx", "jaxlstm", "math", "functools"}
BUILTINS = {"len", "range", "zip", "enumerate", "list", "tuple", "int"}
FORBIDDEN = (ast.Import, ast.ImportFrom, ast.Global, ast.Delete, ast.Await, ast.Yield)
IMPORTS = [
    "import jax",
    "import jax.numpy as jnp",
    "import jaxlstm",
    "import math",
    "import functools",
    "from flax import nnx",
    "from jax import lax",
]


def require_plain(text: str) -> None:
    """Assert that source has only the imports, definitions and calls of a writer."""
    assert text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) == {"\n"}
    assert not any(unicodedata.category(c) in ("Cf", "Cs", "Zl", "Zp") for c in text)
    tree = ast.parse(text)
    docstring, *body = tree.body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    assert {ast.unparse(part) for part in body if not isinstance(part, ast.ClassDef)} <= {*IMPORTS}
    classes = {part.name for part in body if isinstance(part, ast.ClassDef)}
    for part in (part for owner in body if isinstance(owner, ast.ClassDef) for part in owner.body):
        assert isinstance(part, ast.FunctionDef | ast.Expr), ast.unparse(part)
        if isinstance(part, ast.FunctionDef):
            assert not part.decorator_list
            assert not part.args.defaults
            require_plain_function(part, classes)
        else:
            assert isinstance(part.value, ast.Constant)


def require_plain_function(function: ast.FunctionDef, classes: set[str]) -> None:
    """Assert that a method uses only its variables, the classes of the file, and some modules."""
    parts = list(ast.walk(function))
    variables = {part.arg for part in parts if isinstance(part, ast.arg)}
    variables |= {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    called = {ast.unparse(part.func) for part in parts if isinstance(part, ast.Call)}
    assert not variables & (MODULES | called - {"self"})
    known = variables | MODULES | classes | BUILTINS
    for part in parts:
        assert not isinstance(part, FORBIDDEN)
        if isinstance(part, ast.Name):
            assert part.id in known, part.id
        if isinstance(part, ast.Attribute):
            assert not part.attr.startswith("__"), part.attr


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_texts(
    program: Program, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text at every place, together with other texts at the other places."""
    monkeypatch.chdir(tmp_path)
    steps = [HOSTILE[(number + 11 * step) % len(HOSTILE)] for step in range(len(MARKERS))]
    hostile = hostile_program(program, dict(zip(MARKERS, steps, strict=True)))
    try:
        files = SourceFiles.of(hostile, tmp_path / "model.py", comments=True)
    except ValueError as error:
        if "a.a." in "".join(steps) and "nested too deeply" in str(error):
            return
        raise
    require_plain(files.text)
    files.write(overwrite=True)
    make_written(files)
    assert not Path("PWNED").exists()


@pytest.mark.parametrize(
    "text",
    [
        f'"""a"""\n{CODE}\n',
        f'"""a"""\nclass A:\n    x = {CODE}\n',
        '"""a"""\nimport os\n',
        '"""a"""\nclass A:\n    def f(self):\n        return print(self)\n',
        '"""a"""\nclass A:\n    def f(self, x=open("a")):\n        return x\n',
        '"""a"""\nclass A:\n    def f(self):\n        return self.__class__\n',
        '"""a"""\nclass A:\n    def f(self):\n        jnp = self\n        return jnp\n',
        '"""\u202e"""\n',
    ],
)
def test_what_is_not_plain(text: str) -> None:
    with pytest.raises(AssertionError):
        require_plain(text)
