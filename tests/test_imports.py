"""What an import loads: nothing that was not asked for."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jaxlstm

PACKAGE = Path(jaxlstm.__file__).parent


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import jaxlstm", ("jax", "flax", "torch", "numpy")),
        ("from jaxlstm import LSTMConfig", ("jax", "flax", "torch")),
        ("from jaxlstm import lstm, init_params, PackedSequence", ("flax", "torch")),
        ("from jaxlstm import read_checkpoint, find_lstms", ("jax", "flax", "torch", "onnx")),
        ("from jaxlstm import load, save, from_torch, to_torch", ("flax", "torch", "orbax")),
        ("import jaxlstm.check", ("flax", "torch", "jaxlstm_converters")),
        ("import jaxlstm.nnx", ("torch", "jaxlstm_converters")),
        ("import jaxlstm.cli", ("jax", "flax", "torch", "rich", "matplotlib")),
    ],
)
def test_nothing_is_loaded_that_was_not_asked_for(statement: str, absent: tuple[str, ...]) -> None:
    script = f"{statement}\nimport sys\nprint(*(m for m in {absent!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""


def test_every_public_name_is_there() -> None:
    assert {"kernels", "training"} <= set(dir(jaxlstm))  # as the pages of docs/ call them
    for name in dir(jaxlstm):
        assert getattr(jaxlstm, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'lstmm'"):
        jaxlstm.lstmm  # noqa: B018


def imported_by(path: Path) -> set[str]:
    """The packages that a file imports, at its top or within a function; not those for types alone."""
    found: set[str] = set()
    left: list[Any] = [ast.parse(path.read_text())]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
        left += ast.iter_child_nodes(node)
    return found


FOREIGN = ("torch", "onnx", "onnxruntime", "openvino", "equinox", "haiku", "keras", "flax")
HOMES = {  # within jaxlstm/: who may import what is not its own
    "check/torch_precision.py": {"torch"},
    "check/torch_runner.py": {"torch"},
    "linen.py": {"flax"},
    "nnx.py": {"flax"},
}


def test_foreign_libraries_are_imported_where_they_belong() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        allowed = next((may for home, may in HOMES.items() if name.startswith(home)), set())
        assert imported_by(path) & set(FOREIGN) <= allowed, name
    for home, may in HOMES.items():  # and the rule has something to look at
        files = [PACKAGE / home] if home.endswith(".py") else (PACKAGE / home).glob("*.py")
        assert set().union(*map(imported_by, files)) & set(FOREIGN) == may, home
