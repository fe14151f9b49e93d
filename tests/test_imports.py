"""Lazy imports: an import loads no package that it does not need."""

import pytest

import jaxlstm
from testing.processes import run_python


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import jaxlstm", ("jax", "flax", "torch", "numpy")),
        ("from jaxlstm import LSTMConfig", ("jax", "flax", "torch")),
        ("from jaxlstm import lstm, init_params, PackedSequence", ("flax", "torch")),
        ("from jaxlstm import read_checkpoint, find_lstms", ("jax", "flax", "torch")),
        ("from jaxlstm import load, save, from_torch, to_torch", ("flax", "torch")),
        ("from jaxlstm import load_program", ("jax", "torch", "jaxlstm_converters.checkpoint.pickle")),
        ("import jaxlstm.check", ("flax", "torch", "jaxlstm_converters")),
        ("import jaxlstm.check.pytest_plugin", ("jax", "torch")),
        ("import jaxlstm.nnx", ("torch", "jaxlstm_converters")),
        ("import jaxlstm.cli", ("jax", "flax", "torch", "rich", "matplotlib")),
    ],
)
def test_import_loads_only_what_it_needs(statement: str, absent: tuple[str, ...]) -> None:
    script = f"{statement}\nimport sys\nprint(*(m for m in {absent!r} if m in sys.modules))"
    assert run_python("-c", script).strip() == ""


def test_public_names() -> None:
    assert {"kernels", "training"} <= set(dir(jaxlstm))
    for name in dir(jaxlstm):
        assert getattr(jaxlstm, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'lstmm'"):
        jaxlstm.lstmm  # noqa: B018
