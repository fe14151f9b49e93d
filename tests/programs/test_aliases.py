"""In-place operators: values that share memory in torch change together; unknown sharing is refused."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest
import torch

from jaxlstm.programs.errors import ProgramError
from testing.fx_graphs import program_of_function, to_numpy

Tensor = torch.Tensor


def through_transpose(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.t()[0].mul_(2)
    return (y,)


def through_a_slice_of_a_slice(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    part = y[1:]
    part[:, ::2].add_(10)
    return y, part


def through_unsqueeze_and_permute(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.unsqueeze(0).permute(2, 0, 1)[1].zero_()
    return (y,)


def through_split(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    first, second = y.split(2, dim=1)
    second.copy_(first)
    return y, first


def through_chunk_and_unbind(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.chunk(2, dim=1)[1].neg_()
    y.unbind(0)[2].fill_(7)
    return (y,)


def through_view_and_unflatten(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.view(2, 6)[0].sub_(1)
    y.unflatten(1, (2, 2))[:, 1].div_(2)
    return (y,)


def through_narrow_and_movedim(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.narrow(1, 1, 2).movedim(0, 1)[0].clamp_(max=0)
    return (y,)


def base_changes_the_view(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    row, wide = y[0], y.unsqueeze(1).expand(3, 2, 4)
    y.mul_(3)
    return row, wide, y.detach()


def result_is_the_argument(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    z = y.add_(1)
    w = z.mul_(2)
    y.sub_(3)
    return y, z, w


def through_dropout(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    z = torch.dropout(y, 0.5, False)
    z.add_(1)
    return y, z


def keeps_the_dtype(x: Tensor) -> tuple[Tensor, ...]:
    y = (x * 10).to(torch.int32)
    y.mul_(2).add_(1)
    return (y,)


def broadcasts(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.mul_(x[0]).masked_fill_(y > 0, -1.0)
    y[:, 1] = x[:, 0]
    y[y < -2] = 5.0
    y[torch.tensor([0, 2])] += 1
    return (y,)


def through_windows(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    windows = y.unfold(1, 2, 2)
    windows[:, 1].mul_(5)
    y[0].add_(1)
    return y, windows


def through_complex_numbers(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    z = torch.view_as_complex(y.view(3, 2, 2))
    z.real.mul_(2)
    z.imag.sub_(1)
    torch.view_as_real(z)[0].neg_()
    return y, torch.view_as_real(z).clone()


def through_diagonals(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.diagonal(1).mul_(3)
    y.unsqueeze(0).diagonal(-1, 2, 1).sub_(1)
    return (y,)


def through_other_names_of_transpose(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.swapaxes(0, 1)[0].mul_(2)
    y.mT[1].sub_(1)
    y.swapdims(-1, 0)[2].neg_()
    y.moveaxis(0, 1)[3].add_(5)
    y.adjoint()[0].div_(2)
    return (+y,)


def through_sections(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.tensor_split(3, dim=1)[0].mul_(2)
    y.tensor_split((1, -1), dim=1)[2].sub_(3)
    y.hsplit(2)[1].neg_()
    y.vsplit((1,))[1].add_(1)
    torch.atleast_3d(y).dsplit(1)[0].div_(2)
    return (y,)


def through_grids(x: Tensor) -> tuple[Tensor, ...]:
    y, z = x.clone(), x[:1].clone()
    same, wide = torch.broadcast_tensors(y, z)
    same.add_(1)
    z.mul_(2)
    rows, columns = torch.meshgrid(y[0], z[0, :1], indexing="ij")
    rows.neg_()
    return y, same, wide, rows, columns


def through_a_new_shape(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    row = y[0]
    y.t_()
    y.mul_(2)
    y.swapaxes_(0, 1).swapdims_(0, 1)[1].fill_(7)
    return y, row


def through_a_removed_axis(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()[:, None]
    across = y.transpose(0, 2)
    y.squeeze_(1)
    y.unsqueeze_(0).squeeze_()
    across[1] = 3
    y[0].unsqueeze_(0).add_(1)
    return y, across, y.transpose_(0, 1) + 1


FUNCTIONS = [
    through_a_new_shape,
    through_a_removed_axis,
    through_diagonals,
    through_other_names_of_transpose,
    through_sections,
    through_grids,
    through_windows,
    through_complex_numbers,
    through_transpose,
    through_a_slice_of_a_slice,
    through_unsqueeze_and_permute,
    through_split,
    through_chunk_and_unbind,
    through_view_and_unflatten,
    through_narrow_and_movedim,
    base_changes_the_view,
    result_is_the_argument,
    through_dropout,
    keeps_the_dtype,
    broadcasts,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_shared_memory(function: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
    x = torch.randn(3, 4)
    expected = function(x.clone())
    ran = program_of_function(function, [x.clone()])
    for run in (ran, jax.jit(ran)):
        for result, wanted in zip(run({}, x.numpy()), expected, strict=True):
            np.testing.assert_allclose(result, to_numpy(wanted), rtol=1e-6)


def test_input_is_not_changed() -> None:
    x = np.ones((2, 2), np.float32)
    ran = program_of_function(lambda x: (x.mul_(2),), [torch.ones(2, 2)])
    np.testing.assert_array_equal(ran({}, x)[0], 2 * x)
    np.testing.assert_array_equal(x, np.ones((2, 2)))


def detached(x: Tensor) -> tuple[Tensor, ...]:
    return (x * x.detach(), x + (x.round() - x).detach())


def written_through_detach(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    z = y.detach()
    z[0].mul_(3)
    return y * x, z


def detached_in_place(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    y.detach_()
    return (y * x,)


@pytest.mark.parametrize("function", [detached, written_through_detach, detached_in_place])
def test_detach_stops_the_gradient(function: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    ran = program_of_function(function, [x.detach().clone()])
    expected = function(x)
    torch.autograd.backward([result.sum() for result in expected if result.requires_grad])
    for result, wanted in zip(ran({}, to_numpy(x)), expected, strict=True):
        np.testing.assert_allclose(result, to_numpy(wanted), rtol=1e-6)
    gradient = jax.grad(lambda x: sum(result.sum() for result in ran({}, x)))(to_numpy(x))
    assert x.grad is not None
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-6)


def row_of_an_expanded_tensor(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y[:1].expand(3, 4)[0].add_(1)
    return (y,)


def row_of_windows_that_overlap(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    y.unfold(1, 2, 1)[:, 0].add_(1)
    return (y,)


@pytest.mark.parametrize("function", [row_of_an_expanded_tensor, row_of_windows_that_overlap])
def test_write_to_one_of_several_copies_is_refused(function: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
    ran = program_of_function(function, [torch.randn(3, 4)])
    with pytest.raises(ProgramError, match=r"node add_.*share memory.*\.clone\(\)") as caught:
        ran({}, np.ones((3, 4), np.float32))
    assert caught.value.code == "unsupported-alias"


def unknown_sharing(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    flat = y.t().reshape(-1)
    flat.add_(1)
    return y, flat


def unknown_sharing_through_einsum(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    z = torch.einsum("ij->ji", y)
    z.add_(1)
    return y, z


def unknown_but_unused(x: Tensor) -> tuple[Tensor, ...]:
    flat = x.clone().t().reshape(-1)
    flat.add_(1)
    return (flat,)


def conversion_copies(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    z = y.to(torch.int32)
    z.add_(1)
    return y, z


@pytest.mark.parametrize(
    ("function", "link"), [(unknown_sharing, "reshape"), (unknown_sharing_through_einsum, "einsum")]
)
def test_unknown_sharing_is_refused(function: Callable[[Tensor], tuple[Tensor, ...]], link: str) -> None:
    with pytest.raises(ProgramError, match=rf"{link}.*\.clone\(\)") as caught:
        program_of_function(function, [torch.randn(3, 4)])
    assert caught.value.code == "unsupported-alias"


@pytest.mark.parametrize("function", [unknown_but_unused, conversion_copies])
def test_harmless_copies(function: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
    x = torch.randn(3, 4)
    ran = program_of_function(function, [x.clone()])
    for result, wanted in zip(ran({}, x.numpy()), function(x.clone()), strict=True):
        np.testing.assert_allclose(result, to_numpy(wanted), rtol=1e-6)
