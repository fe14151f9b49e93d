"""Settings and borders that PyTorch's samples leave out: bags, grids, patches, spectra, writes."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jaxlstm import load_program
from jaxlstm.programs.errors import ProgramError
from testing.graphs import operator_function, program_of_function, to_numpy
from testing.modules import module_of
from testing.op_samples import require_equal_gradients, require_equal_results

SLOW = pytest.mark.slow
INDICES = torch.tensor([1, 2, 2, 0, 4, 1, 4, 0])
OFFSETS = torch.tensor([0, 3, 3, 6])
SPECTRUM = torch.randn(2, 9, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def require_equal(function: Callable[..., Any], *tensors: Tensor) -> None:
    """Compare values and gradients in float64."""
    with jax.enable_x64(True):
        require_equal_results(function, tensors, jit=True)
        require_equal_gradients(function, tensors)


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def table() -> Tensor:
    # Equal elements: the gradient of the maximum goes to the first.
    return torch.tensor([[1.0, 5], [3, 2], [3, 4], [7, 0], [0, 5]], dtype=torch.float64, requires_grad=True)


BAGS = itertools.product(("mean", "max", "sum"), (None, 2, -1))


@pytest.mark.parametrize(
    ("mode", "padding_idx"), [pytest.param(*bag, marks=[] if bag == ("max", -1) else SLOW) for bag in BAGS]
)
def test_bags(mode: str, padding_idx: int | None) -> None:
    """An empty bag, a bag that may hold only padding, an end as the last offset, and rows of a matrix."""
    ends = torch.tensor([0, 1, 3, 8])

    def bags(weight: Tensor) -> tuple[Tensor, ...]:
        settings: dict[str, Any] = {"mode": mode, "padding_idx": padding_idx}
        return (
            functional.embedding_bag(INDICES, weight, OFFSETS, **settings),
            functional.embedding_bag(INDICES, weight, ends, include_last_offset=True, **settings),
            functional.embedding_bag(INDICES.reshape(2, 4), weight, **settings),
            functional.embedding_bag(INDICES[:0], weight, OFFSETS[:1], **settings),
        )

    require_equal(bags, table())


def test_gradient_scaled_by_frequency() -> None:
    # torch 2.13 on a CPU divides the gradients of embedding_bag by the counts of other rows, except with
    # equal counts, as here.
    def rows(weight: Tensor) -> tuple[Tensor, ...]:
        pairs = torch.tensor([3, 1, 1, 3])
        bag = functional.embedding_bag(pairs, weight, OFFSETS[:2], mode="sum", scale_grad_by_freq=True)
        return functional.embedding(INDICES[:5], weight, scale_grad_by_freq=True), bag

    require_equal(rows, table())


GRIDS = list(itertools.product(("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")))
# The borders and centres of elements, where the interpolation changes, and places outside.
TIES = torch.tensor([-3.0, -1.25, -1.0, -0.75, -0.5, -0.25, 0.0, 0.5, 1.0, 1.5, 2.75], dtype=torch.float64)


@pytest.mark.parametrize(
    ("modes", "align_corners"),
    [
        ([("bilinear", "reflection")], False),
        *(pytest.param(GRIDS, align, marks=SLOW) for align in (True, False)),
    ],
    ids=["one mode", "aligned", "not aligned"],
)
def test_places_at_borders(modes: Sequence[tuple[str, str]], align_corners: bool) -> None:
    """An image of 5 x 1: reflection has no room on the second axis with aligned corners."""

    def sample(image: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
        return tuple(functional.grid_sample(image, grid, *mode, align_corners) for mode in modes)

    torch.manual_seed(0)
    grid = torch.stack([TIES.roll(3), TIES], -1)[None, None].requires_grad_()
    require_equal(sample, double(1, 2, 5, 1), grid)


@pytest.mark.parametrize(
    ("size", "align_corners"),
    [
        ((2, 3, 4, 1), False),
        pytest.param((2, 3, 4, 3), True, marks=SLOW),
        *(pytest.param((2, 1, 3, 2, 5), align, marks=SLOW) for align in (False, True)),
    ],
)
def test_affine_grid(size: tuple[int, ...], align_corners: bool) -> None:
    axes = len(size) - 2
    theta = double(2, axes, axes + 1)
    require_equal(lambda theta: (functional.affine_grid(theta, list(size), align_corners),), theta)


# Output size, kernel, dilation, padding, stride: overlaps, gaps, a cropped end, and one patch.
FOLDS: dict[str, Any] = {
    "padding and steps": ((6, 9), (3, 4), 1, (1, 2), (2, 3)),
    "gaps": ((8, 7), 2, 1, 0, 3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "padding and steps" else SLOW) for name in FOLDS]
)
def test_fold_and_unfold(name: str) -> None:
    size, *settings = FOLDS[name]

    def fold_and_unfold(x: Tensor) -> tuple[Tensor, ...]:
        columns = functional.unfold(x, *settings)
        return columns, functional.fold(columns.sin(), size, *settings), functional.unfold(x[0], *settings)

    torch.manual_seed(0)
    require_equal(fold_and_unfold, double(2, 3, *size))


def test_lengths_of_istft() -> None:
    """Shorter and longer than the frames, without padding at the ends, and one signal without a batch."""

    def inverse(spectrum: Tensor) -> tuple[Tensor, ...]:
        window = torch.hann_window(12) + 0.1
        return (
            torch.istft(spectrum, 16, 5, 12, window, length=17),
            torch.istft(spectrum, 16, 5, length=40, normalized=True),
            torch.istft(spectrum[0], 16, 5),
            torch.istft(spectrum, 16, 5, center=False),
        )

    require_equal_results(inverse, [SPECTRUM], jit=True)


def test_windows_that_leave_a_gap() -> None:
    """The error is raised outside of jit; under jit, samples without a frame are NaN."""
    istft, spectrum = operator_function("aten.istft.default"), jnp.asarray(to_numpy(SPECTRUM))
    settings = {"hop_length": 8, "win_length": 6}
    with pytest.raises(ValueError, match="add up to 0"):
        istft(spectrum, 16, **settings)
    signal = jax.jit(lambda spectrum: istft(spectrum, 16, **settings))(spectrum)
    # Six samples of each eight are in a frame.
    np.testing.assert_array_equal(np.isnan(signal[0, :8]), [False] * 3 + [True] * 2 + [False] * 3)


def parts(self: Any, x: Tensor, tokens: Tensor) -> list[Tensor]:
    """Fourier transforms, a grid, patches and a bag, which torch decomposes into core operators."""
    spectrum = torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True)
    grid = functional.affine_grid(x[:, :6].reshape(-1, 2, 3), [x.shape[0], 1, 5, 4], False)
    image = functional.grid_sample(spectrum.abs().unsqueeze(1), grid, align_corners=False)
    return [
        torch.istft(spectrum * spectrum.conj().angle(), 16, 4, window=torch.hann_window(16)),
        functional.fold(functional.unfold(image, 2), (5, 4), 2),
        torch.fft.ifft(torch.fft.fft(x) * 2, norm="ortho").real,
        torch.view_as_real(torch.polar(x.abs(), x)),
        self.bag(tokens),
    ]


@SLOW
def test_decomposed_program(tmp_path: Path) -> None:
    """Programs after ``run_decompositions``, at another batch size than at the export."""

    def arguments(batch: int) -> tuple[Tensor, Tensor]:
        return torch.randn(batch, 64), torch.randint(0, 5, (batch, 4))

    torch.manual_seed(0)
    module = module_of(parts, bag=nn.EmbeddingBag(5, 3, mode="max", padding_idx=1))
    free = {0: torch.export.Dim.AUTO}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, arguments(2), dynamic_shapes=(free, free)).run_decompositions()
    torch.export.save(exported, tmp_path / "parts.pt2")
    program = load_program(tmp_path / "parts.pt2")
    used = {node.op for node in program.graph.nodes}
    expected_operators = ("_fft_r2c", "_fft_c2r", "_fft_c2c", "grid_sampler_2d", "_embedding_bag")
    assert {f"aten.{name}.default" for name in expected_operators} <= used
    args = arguments(3)
    results = jax.jit(program)(program.params, *map(to_numpy, args))
    for result, expected in zip(results, module(*args), strict=True):
        np.testing.assert_allclose(result, to_numpy(expected), rtol=1e-5, atol=1e-5)


def test_fill_diagonal() -> None:
    for shape in ((3, 3), (7, 3), (3, 7), (4, 3), (8, 1), (3, 3, 3)):
        fills = lambda x: tuple(x.clone().fill_diagonal_(2.5, wrap=wrap) for wrap in (False, True))  # noqa: E731
        require_equal(fills, double(*shape))


def test_writes_in_place() -> None:
    def written(x: Tensor) -> tuple[Tensor, ...]:
        y = x.clone()
        row = y[0]
        y.masked_scatter_(x > 0, x.flip(0))
        y.index_copy_(1, torch.tensor([2, 0]), x[:, :2])
        y.put_(torch.tensor([1, -5]), x[0, :2], accumulate=True)
        return y, row * 2, y.addbmm_(x[None, :, :3], x[None]), torch.vdot(x[0], x[1])

    require_equal(written, double(3, 4))


def test_repeats_by_a_tensor() -> None:
    """As the length regulators of speech synthesis do."""

    def repeated(x: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
        return (torch.repeat_interleave(x, counts, dim=0, output_size=6),)

    x, counts = torch.randn(3, 4), torch.tensor([1, 3, 2])
    program = program_of_function(repeated, [x, counts])
    for other in ([1, 3, 2], [0, 6, 0]):
        for run in (program, jax.jit(program)):
            result = run({}, x.numpy(), np.array(other, np.int32))[0]
            np.testing.assert_array_equal(result, to_numpy(repeated(x, torch.tensor(other))[0]))
    with pytest.raises(ProgramError, match="output_size must be the sum of the repeats, 5, got 6"):
        program({}, x.numpy(), np.array([1, 2, 2], np.int32))
    repeat, known = operator_function("aten.repeat_interleave.self_Tensor"), jnp.asarray(x.numpy())
    np.testing.assert_array_equal(repeat(known, jnp.asarray(counts.numpy()), 0), repeated(x, counts)[0])
    with pytest.raises(ProgramError, match="Pass output_size, the sum of the repeats"):
        jax.jit(lambda n: repeat(known, n, 0))(np.arange(3))
