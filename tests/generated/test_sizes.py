"""Random models with conditions, broadcasts and squeezes on sizes: equal to torch from size 0 on, or refused.

A program with its module is never refused: it exports the module again. A saved one and an artifact may be.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

from jaxlstm import from_module, load_program
from jaxlstm.inference.artifact import export_program
from jaxlstm.programs.errors import ProgramError
from testing.seeds import seeds
from testing.sized_models import Model

REFUSED = r"\[(guard|static-shape|node-failed|input-shape)\]|polymorphic shapes|Shape mismatch"


def _require_equal(actual: Any, expected: np.ndarray, what: str) -> None:
    assert np.shape(actual) == expected.shape, what
    np.testing.assert_allclose(actual, expected, 1e-5, 1e-5, err_msg=what)


def _unless_refused(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except (ProgramError, ValueError) as error:
        if not re.search(REFUSED, str(error)):
            raise
        return None


@pytest.mark.parametrize("seed", seeds(fast=1, slow=100))
def test_random_models(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = Model(rng).eval()
    program = from_module(model, (torch.randn(*rng.integers(2, 5, 2).tolist(), 4),))
    program.save(tmp_path / "saved.pt2")
    saved = load_program(tmp_path / "saved.pt2")
    artifact = _unless_refused(export_program, tmp_path / "a.stablehlo", saved, platforms=["cpu"])
    others = {"saved": partial(jax.jit(saved), saved.params)}
    if artifact is not None:
        others["artifact"] = artifact.call
    sizes = [(1, 1), *rng.integers(0, 6, (5, 2)).tolist(), (1, int(rng.integers(2, 9)))]
    ran = 0
    for n, m in sizes:
        x = torch.randn(n, m, 4)
        try:
            expected = model(x).detach().numpy()
        except (RuntimeError, IndexError, ZeroDivisionError):  # torch refuses the sizes.
            continue
        ran += 1
        what = f"sizes {n}, {m} of {model.steps}"
        _require_equal(program(program.params, x.numpy()), expected, what)
        for name, call in others.items():
            if (result := _unless_refused(call, x.numpy())) is not None:
                _require_equal(result, expected, f"{name}, {what}")
    assert ran
