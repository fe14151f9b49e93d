"""Operators that write to some elements, in their in-place forms, and windows, against torch."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest
import torch

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.registry import find_operator
from testing.fx_graphs import program_of_function, to_numpy
from testing.op_samples import require_equal_gradients, require_equal_results

Tensor = torch.Tensor


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("shape", [(3, 3), (7, 3), (3, 7), (4, 3), (8, 1), (3, 3, 3)])
def test_fill_diagonal(shape: tuple[int, ...], wrap: bool) -> None:
    with jax.enable_x64(True):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for check in (require_equal_results, require_equal_gradients):
            check(lambda x: (x.clone().fill_diagonal_(2.5, wrap=wrap),), [x])


def filled_by_reduction(x: Tensor) -> tuple[Tensor, ...]:
    index = torch.tensor([[0, 1], [1, 2], [2, 3]])
    y = x.clone().scatter_(1, index, x[:, 2:], reduce="multiply")
    return y, y.clone().scatter_(1, index, 0.5, reduce="add")


def other_overloads(x: Tensor) -> tuple[Tensor, ...]:
    """Their in-place forms have other overloads than the functional ones."""
    return x.clone().floor_divide_(0.3), x.abs().pow_(x.abs()), x.clone().true_divide_(3)


def windows(x: Tensor) -> tuple[Tensor, ...]:
    one = x.dtype
    return (
        torch.hamming_window(9, dtype=one),
        torch.hamming_window(9, False, dtype=one),
        torch.hamming_window(8, True, 0.6, dtype=one),
        torch.hamming_window(8, True, 0.6, 0.3, dtype=one),
        torch.blackman_window(9, dtype=one),
        torch.blackman_window(9, False, dtype=one),
        torch.blackman_window(1, dtype=one),
        torch.hann_window(9, False, dtype=one),
    )


def triangles(x: Tensor) -> tuple[Tensor, ...]:
    rows, columns = torch.tril_indices(3, 4, -1)
    return x[rows, columns], torch.triu_indices(3, 4, 1), torch.triu_indices(3, 2, dtype=torch.int32)


@pytest.mark.parametrize("function", [filled_by_reduction, other_overloads, windows, triangles])
@pytest.mark.parametrize("jit", [False, True])
def test_results(function: Callable[[Tensor], tuple[Tensor, ...]], jit: bool) -> None:
    with jax.enable_x64(True):
        require_equal_results(function, [torch.randn(3, 4, dtype=torch.float64)], jit=jit)


def written_in_place(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    row = y[0]
    y.masked_scatter_(x > 0, x.flip(0))
    y.index_copy_(1, torch.tensor([2, 0]), x[:, :2])
    y.put_(torch.tensor([1, -5]), x[0, :2], accumulate=True)
    return y, row * 2, y.addbmm_(x[None, :, :3], x[None]), torch.vdot(x[0], x[1])


@pytest.mark.parametrize("check", [require_equal_results, require_equal_gradients])
def test_in_place(check: Callable[..., None]) -> None:
    with jax.enable_x64(True):
        check(written_in_place, [torch.randn(3, 4, dtype=torch.float64, requires_grad=True)])


def repeated(x: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
    """As the length regulators of speech synthesis do."""
    return (torch.repeat_interleave(x, counts, dim=0, output_size=6),)


def test_repeats_by_a_tensor() -> None:
    x, counts = torch.randn(3, 4), torch.tensor([1, 3, 2])
    program = program_of_function(repeated, [x, counts])
    for other in ([1, 3, 2], [0, 6, 0]):
        expected = repeated(x, torch.tensor(other))[0]
        for run in (program, jax.jit(program)):
            result = run({}, x.numpy(), np.array(other, np.int32))[0]
            np.testing.assert_array_equal(result, to_numpy(expected))
    with pytest.raises(ProgramError, match="output_size must be the sum of the repeats, 5, got 6"):
        program({}, x.numpy(), np.array([1, 2, 2], np.int32))


def test_repeats_without_a_size() -> None:
    x, counts = torch.randn(3, 4), torch.tensor([1, 3, 2])
    program = program_of_function(lambda x, n: (x.repeat_interleave(n, 0, output_size=6),), [x, counts])
    repeat = find_operator("aten.repeat_interleave.self_Tensor")
    assert repeat is not None
    known = repeat.function(jax.numpy.asarray(x.numpy()), jax.numpy.asarray(counts.numpy()), 0)
    np.testing.assert_array_equal(known, program({}, x.numpy(), counts.numpy())[0])
    with pytest.raises(ProgramError, match="Pass output_size, the sum of the repeats"):
        jax.jit(lambda n: repeat.function(known, n, 0))(np.arange(6))


def test_too_few_elements_for_a_mask() -> None:
    x, mask = torch.ones(3), torch.tensor([True, False, True])
    program = program_of_function(
        lambda x, mask, few: (x.masked_scatter(mask, few),), [x, mask, torch.ones(2)]
    )
    np.testing.assert_array_equal(program({}, x.numpy(), mask.numpy(), np.array([5, 6], "f"))[0], [5, 1, 6])
    arrays = (x.numpy(), np.ones(3, bool), np.array([5, 6], "f"))
    with pytest.raises(ProgramError, match=r"must have 3 elements, one for each True, got 2.*index-range"):
        program({}, *arrays)
    np.testing.assert_array_equal(jax.jit(program)({}, *arrays)[0], [5, 6, np.nan])
