"""`pytest_text`: a file that repeats the proof of a written model."""

import json
from typing import Any

import jax
import numpy as np

from jaxlstm.programs.graph import Graph
from jaxlstm_converters.source.files import SourceFiles
from jaxlstm_converters.source.proof import Arguments, lacks_reverse

_SHORTEST = 32
"""Number of integers that the file of a test holds one by one."""


def pytest_text(files: SourceFiles, program_path: str, arguments: Arguments, graph: Graph) -> str:
    """Return a pytest file that repeats the proof, and compares with torch if it is installed.

    ``program_path`` is the path of the program with this graph, relative to the folder of the source.
    """
    options = ", gradients=False" if lacks_reverse(graph) else ""
    args, kwargs = jax.tree.map(_with_text, arguments)
    name = files.source.stem
    return f'''"""{name}.py equals the program from which it was written, and torch if it is installed."""

from pathlib import Path

import jaxlstm
import numpy as np
import pytest
from flax import nnx

import {name}

FOLDER = Path(__file__).parent
PROGRAM = FOLDER / {_quoted(program_path)}
RNG = np.random.default_rng(0)
ARGS, KWARGS = {args!r}, {kwargs!r}


def verify(reference):
    model = {name}.{files.model}(rngs=nnx.Rngs(0))
    model.eval()
    jaxlstm.load_state_dict(model, FOLDER / {_quoted(files.weights.name)})
    report = jaxlstm.check.verify_model(model, reference, ARGS, KWARGS{options})
    report.raise_if_failed()
    assert not [item for item in report.items if item.id == "refused"], report


def test_program():
    verify(jaxlstm.load_program(PROGRAM))


def test_torch():
    torch = pytest.importorskip("torch")
    verify(torch.export.load(PROGRAM))
'''


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Expression(str):
    """Source text that stands for itself in the repr of a list, tuple or dict."""

    __repr__ = str.__str__


def _with_text(leaf: Any) -> Any:
    """Return the expression of an array, or another argument as it is."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    if leaf.dtype.kind in "biu" and leaf.size <= _SHORTEST:
        return _Expression(f'np.array({leaf.tolist()}, "{leaf.dtype}")')
    largest = 1 if leaf.dtype.kind == "f" else int(leaf.max(initial=0)) + 1
    made = f"normal(size={leaf.shape})" if leaf.dtype.kind == "f" else f"integers(0, {largest}, {leaf.shape})"
    return _Expression(f'RNG.{made}.astype("{leaf.dtype}")')
