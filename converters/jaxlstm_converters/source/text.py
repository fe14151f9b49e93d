"""The text of a written file."""

import ast
import subprocess
from collections.abc import Sequence

from jaxlstm._shared.imports import import_optional
from jaxlstm_converters.source.classes import WrittenClass
from jaxlstm_converters.source.methods.method import Statement
from jaxlstm_converters.source.syntax import trees
from jaxlstm_converters.source.syntax.simplify import simplified

_BUFFER = '''
class Buffer(nnx.Variable):
    """A tensor that torch registers with `register_buffer`: saved, never trained."""
'''
_STANDARD_LIBRARY = {"functools": "import functools", "math": "import math"}
# In the order of isort.
_THIRD_PARTY = {
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "jaxlstm": "import jaxlstm",
    "nnx": "from flax import nnx",
    "lax": "from jax import lax",
    "signal": "from jax.scipy import signal",
    "programs": "from jaxlstm import programs",
}
_LINE_LENGTH = 100


def file_text(classes: Sequence[WrittenClass], *, comments: bool) -> str:
    """Return the formatted text of a file with these classes, the model's last."""
    bodies = [_class_text(written, comments) for written in classes]
    used = {"nnx", *(name for body in bodies for name in trees.variables(ast.parse(body)))}
    buffer = _BUFFER if "Buffer" in used else ""
    groups = [[lines[name] for name in lines if name in used] for lines in (_STANDARD_LIBRARY, _THIRD_PARTY)]
    title = f"{classes[-1].name} in Flax NNX, written by jaxlstm from a program of torch.export."
    title = title if len(title) < _LINE_LENGTH - 2 else f"{classes[-1].name}, written by jaxlstm."
    doc = f'"""{title}\n\nModules, parameters and buffers have torch\'s names.\n"""\n'
    parts = [doc, *map("\n".join, groups), buffer, *bodies]
    return formatted("\n\n".join(part for part in parts if part))


def formatted(text: str) -> str:
    """Return Python source as ruff formats it."""
    # The program itself starts faster than ``python -m ruff``.
    ruff = import_optional("ruff.__main__", "source").find_ruff_bin()
    settings = ["--isolated", f"--line-length={_LINE_LENGTH}", "--target-version=py311"]
    command = [ruff, "format", "--quiet", *settings, "-"]
    result = subprocess.run(command, input=text, capture_output=True, check=False, encoding="utf-8")
    if result.returncode:
        raise RuntimeError(f"ruff format failed: {result.stderr.strip()}")
    return result.stdout


def _class_text(written: WrittenClass, comments: bool) -> str:
    draft = written.draft
    lines = [f"class {written.name}({draft.base}):"]
    lines += [f"    tied = {written.tied!r}", ""] if written.tied else []
    keywords = [*map(ast.arg, written.defaults), ast.arg("rngs", trees.parsed("nnx.Rngs"))]
    parameters = _parameters([*map(ast.arg, written.required)], keywords, [*written.defaults.values(), None])
    lines += [f"    def __init__({parameters}):"]
    lines += [_indented(trees.shown(tree)) for tree in draft.init or [ast.Pass()]]
    for name, method in draft.methods.items():
        parameters = _parameters(method.parameters, method.keywords, [None] * len(method.keywords))
        lines += ["", f"    def {name}({parameters}):"]
        lines += [text for statement in method.body for text in _statement(statement, comments)]
    return "\n".join(lines) + "\n"


def _parameters(positional: list[ast.arg], keywords: list[ast.arg], defaults: list[ast.expr | None]) -> str:
    """Return the text of the parameters of a method; ``defaults`` belong to the keywords."""
    arguments = [ast.arg("self"), *positional]
    return trees.shown(ast.arguments([], arguments, None, keywords, defaults, None, []))


def _statement(statement: Statement, comments: bool) -> list[str]:
    comment = "".join(char for char in statement.line if char.isprintable())[:200]
    lines = [_indented(f"# {comment}")] if comments and comment else []
    return [*lines, _indented(_text(simplified(statement.tree)))]


def _text(tree: ast.stmt) -> str:
    """Return the text of a statement, with tuples without parentheses."""
    match tree:
        case ast.FunctionDef(name, parameters, body):
            header = f"def {name}({trees.shown(parameters)}):"
        case ast.For(variables, over, body):
            header = f"for {_bare(variables)} in {trees.shown(over)}:"
        case ast.Return(ast.expr() as value):
            return f"return {_bare(value)}"
        case ast.Assign([target], value):
            return f"{_bare(target)} = {_bare(value)}"
        case _:
            return trees.shown(tree)
    return "\n    ".join([header, *(_text(inner).replace("\n", "\n    ") for inner in body)])


def _bare(tree: ast.expr) -> str:
    """Return the text of an expression, a tuple without parentheses."""
    if isinstance(tree, ast.Tuple) and len(tree.elts) > 1:
        return ", ".join(map(trees.shown, tree.elts))
    return trees.shown(tree)


def _indented(text: str) -> str:
    return "\n".join(f"        {line}" for line in text.split("\n"))
