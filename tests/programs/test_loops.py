"""Loops over cells that run as a scan under ``jit``; their values and gradients are tested in the zoo."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor

from jaxlstm import from_module
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.passes import repeat_to_scan
from jaxlstm.programs.program import Program
from testing.graphs import to_numpy
from testing.zoo.loops import STEPS, Loop, unbound


def scans(program: Program, x: Any) -> int:
    return str(jax.make_jaxpr(program)(program.params, x)).count("scan[")


@pytest.mark.slow
def test_a_compilation_does_as_much_for_many_steps() -> None:
    module, work = Loop(unbound).eval(), set[int]()
    for steps in (50, 400):
        x = torch.randn(2, steps, 3)
        program = from_module(module, (x,))
        work.add(jax.jit(program).lower(program.params, to_numpy(x)).as_text().count("\n"))
    assert len(work) == 1


def test_few_steps_stay_as_they_are() -> None:
    x = torch.randn(2, STEPS, 3)
    assert scans(from_module(Loop(unbound).eval(), (x,)), to_numpy(x)) == 0


def test_values_are_checked_outside_of_jit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without jit the nodes run one by one, so that an index out of range is an error."""
    monkeypatch.setattr(repeat_to_scan, "FEWEST_COPIES", STEPS - 2)

    def embedded(m: Loop, x: Tensor) -> Tensor:
        tokens = x[..., 0].long()
        *_, h = m.states(m.embed(tokens[:, t]) for t in range(STEPS))
        return h

    program = from_module(Loop(embedded).eval(), (torch.ones(2, STEPS, 3),))
    x = np.ones((2, STEPS, 3), np.float32)
    assert scans(program, x) == 1
    x[1, 7] = 3
    with pytest.raises(ProgramError, match=r"\[index-range"):
        program(program.params, x)
    with pytest.raises(ProgramError):
        jax.grad(lambda params: program(params, x).sum())(program.params)


class Asserting(torch.nn.Module):
    """A loop, and a branch, that require small inputs."""

    def forward(self, x: Tensor) -> Tensor:
        h = x[:, 0]
        for t in range(20):
            torch.ops.aten._assert_async.msg((x[:, t] < 100).all(), "too large")
            h = torch.tanh(h + x[:, t])
        return h


class AssertingBranch(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        def small(x: Tensor) -> Tensor:
            torch.ops.aten._assert_async.msg((x < 100).all(), "too large")
            return x * 2

        return torch.cond(x.sum() > 0, small, lambda x: x * 3, (x,))


def test_an_assertion_in_a_loop_holds_under_jit() -> None:
    x = np.ones((2, 20), np.float32)
    program = from_module(Asserting(), (torch.ones(2, 20),))
    assert np.isfinite(jax.jit(program)(program.params, x)).all()
    x[1, 7] = 1000
    assert np.isnan(jax.jit(program)(program.params, x)).all()
    with pytest.raises(ProgramError, match="too large"):
        program(program.params, x)
    branch = from_module(AssertingBranch(), (torch.ones(2, 20),))
    with pytest.raises(ProgramError, match="too large"):
        branch(branch.params, x)
    with pytest.raises(ProgramError, match="branch asserts a value"):
        jax.jit(branch)(branch.params, x)
