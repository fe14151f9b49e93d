"""Settings and borders that PyTorch's samples leave out: bags, grids, patches, spectra, writes."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import partial
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
from testing.gradients import assert_close
from testing.graphs import operator_function, program_of_function, to_numpy
from testing.modules import module_of
from testing.op_samples import require_equal_gradients, require_equal_results

INDICES = torch.tensor([1, 2, 2, 0, 4, 1, 4, 0])
OFFSETS = torch.tensor([0, 3, 3, 6])
SPECTRUM = torch.randn(2, 9, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def table() -> Tensor:
    # Equal elements: the gradient of the maximum goes to the first.
    return torch.tensor([[1.0, 5], [3, 2], [3, 4], [7, 0], [0, 5]], dtype=torch.float64, requires_grad=True)


def bags(mode: str, padding_idx: int | None, weight: Tensor) -> tuple[Tensor, ...]:
    """An empty bag, a bag that may hold only padding, an end as the last offset, and rows of a matrix."""
    ends = torch.tensor([0, 1, 3, 8])
    settings: dict[str, Any] = {"mode": mode, "padding_idx": padding_idx}
    return (
        functional.embedding_bag(INDICES, weight, OFFSETS, **settings),
        functional.embedding_bag(INDICES, weight, ends, include_last_offset=True, **settings),
        functional.embedding_bag(INDICES.reshape(2, 4), weight, **settings),
        functional.embedding_bag(INDICES[:0], weight, OFFSETS[:1], **settings),
    )


def scaled_by_frequency(weight: Tensor) -> tuple[Tensor, ...]:
    # torch 2.13 on a CPU divides the gradients of embedding_bag by the counts of other rows, except with
    # equal counts, as here.
    pairs = torch.tensor([3, 1, 1, 3])
    bag = functional.embedding_bag(pairs, weight, OFFSETS[:2], mode="sum", scale_grad_by_freq=True)
    return functional.embedding(INDICES[:5], weight, scale_grad_by_freq=True), bag


GRIDS = list(itertools.product(("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")))
# The borders and centres of elements, where the interpolation changes, and places outside.
TIES = torch.tensor([-3.0, -1.25, -1.0, -0.75, -0.5, -0.25, 0.0, 0.5, 1.0, 1.5, 2.75], dtype=torch.float64)


def sampled(
    modes: Sequence[tuple[str, str]], align_corners: bool, image: Tensor, grid: Tensor
) -> tuple[Tensor, ...]:
    return tuple(functional.grid_sample(image, grid, *mode, align_corners) for mode in modes)


def image_and_grid() -> list[Tensor]:
    """An image of 5 x 1: reflection has no room on the second axis with aligned corners."""
    grid = torch.stack([TIES.roll(3), TIES], -1)[None, None].requires_grad_()
    return [double(1, 2, 5, 1), grid]


def affine_grid(size: tuple[int, ...], align_corners: bool, theta: Tensor) -> tuple[Tensor]:
    return (functional.affine_grid(theta, list(size), align_corners),)


def fold_and_unfold(size: tuple[int, int], settings: Sequence[Any], x: Tensor) -> tuple[Tensor, ...]:
    columns = functional.unfold(x, *settings)
    return columns, functional.fold(columns.sin(), size, *settings), functional.unfold(x[0], *settings)


def filled_diagonals(x: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.clone().fill_diagonal_(2.5, wrap=wrap) for wrap in (False, True))


def written(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    row = y[0]
    y.masked_scatter_(x > 0, x.flip(0))
    y.index_copy_(1, torch.tensor([2, 0]), x[:, :2])
    y.put_(torch.tensor([1, -5]), x[0, :2], accumulate=True)
    return y, row * 2, y.addbmm_(x[None, :, :3], x[None]), torch.vdot(x[0], x[1])


SIZES = [((2, 3, 4, 1), False), ((2, 3, 4, 3), True), ((2, 1, 3, 2, 5), False), ((2, 1, 3, 2, 5), True)]
SHAPES = ((3, 3), (7, 3), (3, 7), (4, 3), (8, 1), (3, 3, 3))
CASES: dict[str, tuple[Callable[..., Any], list[Tensor]]] = {
    **{
        f"bags: {mode}, {padding_idx}": (partial(bags, mode, padding_idx), [table()])
        for mode, padding_idx in itertools.product(("mean", "max", "sum"), (None, 2, -1))
    },
    "frequencies": (scaled_by_frequency, [table()]),
    "one grid": (partial(sampled, [("bilinear", "reflection")], False), image_and_grid()),
    **{f"grids, {align}": (partial(sampled, GRIDS, align), image_and_grid()) for align in (True, False)},
    **{
        f"affine grid: {size}, {align}": (
            partial(affine_grid, size, align),
            [double(2, len(size) - 2, len(size) - 1)],
        )
        for size, align in SIZES
    },
    # Output size, kernel, dilation, padding, stride: overlaps, gaps, a cropped end, and one patch.
    "fold": (partial(fold_and_unfold, (6, 9), ((3, 4), 1, (1, 2), (2, 3))), [double(2, 3, 6, 9)]),
    "fold with gaps": (partial(fold_and_unfold, (8, 7), (2, 1, 0, 3)), [double(2, 3, 8, 7)]),
    **{f"diagonal of {shape}": (filled_diagonals, [double(*shape)]) for shape in SHAPES},
    "writes": (written, [double(3, 4)]),
    # The axis is one of the broadcast shape.
    "vecdot": (
        lambda x, y: (torch.linalg.vecdot(x, y, dim=1), torch.linalg.vecdot(x[:1], y)),
        [double(3), double(2, 3)],
    ),
}
FAST = ("bags: max, -1", "one grid", "affine grid: (2, 3, 4, 1), False", "fold")


@pytest.mark.quick(*FAST, *(n for n in CASES if not n.startswith(("bags", "grids", "affine", "fold"))))
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    """Compare in float64."""
    function, tensors = CASES[name]
    with jax.enable_x64(True):
        require_equal_results(function, tensors, jit=True)
        require_equal_gradients(function, tensors)


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


@pytest.mark.slow
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
    assert_close(results, module(*args), 1e-5)


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
