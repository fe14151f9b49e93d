"""The inverse of the short-time Fourier transform: lengths, refusals, and its decomposition by torch."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jaxlstm.programs.operators.registry import find_operator
from testing.fx_graphs import program_from, to_numpy
from testing.op_samples import require_equal_results

SPECTRUM = torch.randn(2, 9, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
WINDOW = torch.hann_window(12) + 0.1


def test_lengths() -> None:
    """Shorter and longer than the frames, without padding at the ends, and one signal without a batch."""

    def inverse(spectrum: Tensor) -> tuple[Tensor, ...]:
        settings: dict[str, Any] = {"hop_length": 5, "win_length": 12, "window": WINDOW}
        return (
            torch.istft(spectrum, 16, **settings, length=17),
            torch.istft(spectrum, 16, 5, length=40, normalized=True),
            torch.istft(spectrum[0], 16, 5),
            torch.istft(spectrum, 16, 5, center=False),
        )

    require_equal_results(inverse, [SPECTRUM], jit=True)


def istft(*args: Any, **kwargs: Any) -> jax.Array:
    operator = find_operator("aten.istft.default")
    assert operator is not None
    return operator.function(*args, **kwargs)


def test_windows_that_leave_a_gap() -> None:
    """The error is raised outside of jit; under jit, samples without a frame are NaN."""
    spectrum, settings = jnp.asarray(to_numpy(SPECTRUM)), {"hop_length": 8, "win_length": 6}
    with pytest.raises(ValueError, match="add up to 0"):
        istft(spectrum, 16, **settings)
    signal = jax.jit(lambda spectrum: istft(spectrum, 16, **settings))(spectrum)
    # Six samples of each eight are in a frame.
    np.testing.assert_array_equal(np.isnan(signal[0, :8]), [False] * 3 + [True] * 2 + [False] * 3)


@pytest.mark.parametrize(
    ("n_fft", "settings", "message"),
    [
        (12, {}, r"a spectrum \(batch, 7, frames\), got shape \(2, 9, 6\)"),
        (16, {"onesided": False}, r"a spectrum \(batch, 16, frames\)"),
        (16, {"hop_length": 0}, "hop_length must be at least 1"),
        (16, {"return_complex": True}, "return_complex needs all frequencies"),
    ],
)
def test_refused_arguments(n_fft: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        istft(jnp.asarray(to_numpy(SPECTRUM)), n_fft, **settings)


class Parts(nn.Module):
    """Fourier transforms, a grid, patches and a bag, which torch decomposes into core operators."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 3, mode="max", padding_idx=1)

    def forward(self, x: Tensor, tokens: Tensor) -> list[Tensor]:
        spectrum = torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True)
        grid = nn.functional.affine_grid(x[:, :6].reshape(-1, 2, 3), [x.shape[0], 1, 5, 4], False)
        image = nn.functional.grid_sample(spectrum.abs().unsqueeze(1), grid, align_corners=False)
        columns = nn.functional.unfold(image, 2)
        return [
            torch.istft(spectrum * spectrum.conj().angle(), 16, 4, window=torch.hann_window(16)),
            nn.functional.fold(columns, (5, 4), 2),
            torch.fft.ifft(torch.fft.fft(x) * 2, norm="ortho").real,
            torch.view_as_real(torch.polar(x.abs(), x)),
            self.bag(tokens),
        ]


@pytest.mark.slow
def test_decomposed_program() -> None:
    """Programs after ``run_decompositions``, at another batch size than at the export."""

    def arguments(batch: int) -> tuple[Tensor, Tensor]:
        return torch.randn(batch, 64), torch.randint(0, 5, (batch, 4))

    torch.manual_seed(0)
    module = Parts().eval()
    free = {0: torch.export.Dim.AUTO}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, arguments(2), dynamic_shapes=(free, free)).run_decompositions()
    program = program_from(exported)
    used = {node.op for node in program.graph.nodes}
    assert {"aten._fft_r2c.default", "aten._fft_c2r.default", "aten._fft_c2c.default"} <= used
    assert {"aten.grid_sampler_2d.default", "aten._embedding_bag.default"} <= used
    args = arguments(3)
    results = jax.jit(program)(program.params, *map(to_numpy, args))
    for result, expected in zip(results, module(*args), strict=True):
        np.testing.assert_allclose(result, to_numpy(expected), rtol=1e-5, atol=1e-5)
