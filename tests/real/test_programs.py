"""BeatNet, Resemblyzer and Silero VAD as programs, from the live modules and from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jaxlstm
from testing.real_problems import Problem, beatnet, resemblyzer, silero_vad

pytestmark = pytest.mark.network


@pytest.mark.slow
@pytest.mark.parametrize("make", [beatnet, resemblyzer, silero_vad])
def test_program_equals_the_package(make: Callable[[], Problem], tmp_path: Path) -> None:
    """The program, exported from a short example, runs on an input of usual size."""
    problem = make()
    live = jaxlstm.from_module(problem.theirs, to_torch(problem.args))
    live.save(tmp_path / "model.pt2")
    read = jaxlstm.load_program(tmp_path / "model.pt2")
    args = problem.long_args
    with torch.no_grad():
        expected = jax.tree.leaves(jax.tree.map(np.asarray, problem.theirs(*to_torch(args))))
    for program in (live, read):
        actual = jax.tree.leaves(jax.jit(program)(program.params, *args))
        for ours, theirs in zip(actual, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))
    assert [node.op for node in read.graph.nodes] == [node.op for node in live.graph.nodes]


def to_torch(args: tuple[Any, ...]) -> Any:
    return jax.tree.map(torch.from_numpy, args)
