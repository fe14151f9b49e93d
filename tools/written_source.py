"""Measure the source that ``jaxlstm convert`` writes for the models of the tests.

    python -m tools.written_source [NAME...]

For each model: does the written source hold, its lines of code per line of the torch classes, whether its
variables have names that a person would choose, and whether it needs ``jaxlstm.programs``. The exit status
is 1 if one of the shares is below its goal; the lines per line of torch are reported only.
"""

import argparse
import ast
import inspect
import re
import statistics
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxlstm import from_module
from jaxlstm_converters.source._write_source import SourceFiles
from jaxlstm_converters.source.proof import prove
from testing.zoo import PRACTICE

GOALS = {"holds": 0.95, "named": 0.9, "idiomatic": 0.7}
"""The share of the models for each of these quantities."""
RATIO = 1.3
"""The goal for the median of lines per line of torch."""
_NODE = re.compile(r"(v|value|([a-z]\w*_))\d+")


class Measured(NamedTuple):
    """The source of one model.

    Attributes:
        holds: the model equals its program.
        problem: the reason why it does not.
        ratio: lines of code per line of the torch classes.
        named: no variable has a name of the graph, such as ``add_3``.
        idiomatic: no operator is called through ``jaxlstm.programs``.
    """

    holds: bool
    problem: str = ""
    ratio: float = 0.0
    named: bool = False
    idiomatic: bool = False


def measure(name: str, folder: Path) -> Measured:
    """Return the measurements of one model, whose files are written to a folder."""
    module, args = PRACTICE[name].build(), PRACTICE[name].arguments(PRACTICE[name].example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes that torch fixes
        program = from_module(module, args)
    try:
        files = SourceFiles.of(program, folder / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.py")
    except Exception as error:  # A fault of the writer counts as one model that cannot be written.
        return Measured(False, f"{type(error).__name__}: {error}")
    files.write(overwrite=True)
    proof = prove(files, program, arguments=(args, {}))
    classes = dict.fromkeys(type(part) for part in module.modules())
    own_classes = (kind for kind in classes if not kind.__module__.startswith("torch."))
    torch_source = "\n\n".join(textwrap.dedent(inspect.getsource(kind)) for kind in own_classes)
    return Measured(
        proof.holds,
        "; ".join(proof.lines)[:400] if not proof.holds else "",
        _lines(files.text) / _lines(torch_source),
        not set(_variables(files.text)) - set(re.findall(r"\w+", torch_source)),
        not re.search(r"\bprograms\b", files.text),
    )


def _lines(source: str) -> int:
    """Return the number of lines of code in the classes of a source, without docstrings and comments."""
    bodies = [part for part in ast.parse(source).body if isinstance(part, ast.ClassDef)]
    for part in (part for body in bodies for part in ast.walk(body)):
        if isinstance(part, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part) is not None:
            part.body[0] = ast.Pass(lineno=0, end_lineno=0, col_offset=0, end_col_offset=0)
    lines = {
        line
        for body in bodies
        for part in ast.walk(body)
        if isinstance(part, ast.stmt | ast.expr | ast.arg)
        for line in range(part.lineno, (part.end_lineno or 0) + 1)
        if not isinstance(part, ast.ClassDef | ast.FunctionDef) or line == part.lineno
    }
    return len(lines - {0})


def _variables(source: str) -> Iterator[str]:
    """Yield the names of variables and arguments that look like names of a graph."""
    for part in ast.walk(ast.parse(source)):
        name = part.arg if isinstance(part, ast.arg) else part.id if isinstance(part, ast.Name) else ""
        if _NODE.fullmatch(name):
            yield name


def main(argv: list[str] | None = None) -> int:
    """Print a line for each model, and the shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to measure", default=[*PRACTICE])
    parser.add_argument("--folder", type=Path, help="keep the written files there")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        rows = []
        for name in args.names:
            row = measure(name, args.folder or Path(temporary))
            rows.append(row)
            found = [quantity for quantity in GOALS if getattr(row, quantity)]
            print(f"{name}: {', '.join(found)}, {row.ratio:.2f} lines per line {row.problem}", flush=True)
    shares = {quantity: statistics.fmean(getattr(row, quantity) for row in rows) for quantity in GOALS}
    for quantity, share in shares.items():
        print(f"{quantity}: {share:.2f}, goal {GOALS[quantity]}")
    # The classes of the tests are denser than most: this goal is reported only.
    ratio = statistics.median([row.ratio for row in rows if row.ratio] or [0.0])
    print(f"median lines per line of torch: {ratio:.2f}, goal {RATIO}")
    return 0 if all(share >= GOALS[quantity] for quantity, share in shares.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
