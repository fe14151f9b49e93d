"""Operators with optional, numeric and list arguments, exported with free axes and read from a file."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import jaxlstm
from testing.graphs import to_numpy

pytestmark = pytest.mark.slow


class Shapes(nn.Module):
    """Operators that move elements."""

    def forward(self, x: Tensor) -> list[Tensor]:
        flat = x.flatten(1)
        first, second = torch.broadcast_tensors(x[:, :1], x)
        rows, columns = torch.meshgrid(flat[0], flat[1, :3], indexing="xy")
        stacks = (torch.hstack, torch.vstack, torch.dstack)
        images = [
            functional.pixel_shuffle(x, 2),
            functional.pixel_unshuffle(x.repeat(1, 1, 2, 2), 2),
            functional.channel_shuffle(x, 2),
            functional.adaptive_max_pool2d(x, (3, 2)),
            functional.interpolate(x, size=(7, 9), mode="bicubic", align_corners=True),
        ]
        parts = [*x.tensor_split(3, dim=1), *x.tensor_split((1, -1), dim=2), *x.hsplit(2), *x.dsplit((1,))]
        axes = [x.mT, x.swapaxes(1, 3), x.swapdims(0, -1), torch.moveaxis(x, (0, 1), (1, 0)), x[0, 0].H]
        moved = [x.ravel(), x.tile(2, 1), x.fliplr(), x.flipud(), x.rot90(3, (2, 3))]
        joined = [*(stack((x, x)) for stack in stacks), torch.column_stack((flat, flat))]
        diagonals = [x.diagonal(1, 2, 3), torch.diag_embed(flat, -1), torch.diag(flat[0]), x[0, 0].trace()]
        neighbours = [x.diff(dim=1), x.diff(prepend=x[..., :1]), torch.atleast_2d(x[0, 0, 0])]
        product = torch.kron(x[0, 0, :2, :3], x[1, 0, :2, :2])
        grids = [first - second, rows, columns]
        return [*images, *parts, *axes, *moved, *joined, *diagonals, *neighbours, product, *grids]


class Numbers(nn.Module):
    """Functions of elements, reductions and losses."""

    def forward(self, x: Tensor, target: Tensor) -> list[Tensor]:
        share = torch.special.expit(x)
        index = target.flatten()[:2]
        values, indices = x.cummax(2)
        special, linalg = torch.special, torch.linalg
        logits = [torch.logit(share), special.logit(share, 0.3), share.erfc(), x.sinc(), x.frac(), +x]
        pairs = [
            torch.xlogy(share, 2.5),
            special.xlogy(2, share),
            torch.copysign(x, -1.0),
            torch.greater(x, 0),
        ]
        synonyms = [torch.multiply(x, 3), torch.subtract(x, share, alpha=2)]
        rounded = [torch.divide(x, 2, rounding_mode="floor"), special.round(x, decimals=1)]
        finite = x.nan_to_num(posinf=1.0)
        running = [x.cumprod(1), x.logcumsumexp(-1), values, indices, *x.aminmax(dim=-1), x.argsort(1, True)]
        sums = [*torch.std_mean(x, 1), x.nansum((0, 2)), x.count_nonzero(), linalg.norm(x)]
        norms = [linalg.norm(x[:2, :, :3], float("-inf"), (1, 2)), linalg.matrix_norm(x)]
        products = [torch.cross(x[:, :3], x[:, 1:4], 1), torch.inner(x, share)]
        buckets = [
            torch.bucketize(x, share[0, 0, :3].sort()[0]),
            torch.bucketize(0.5, torch.arange(3.0), right=True),
        ]
        places = torch.searchsorted(share.sort(-1)[0], share, side="right")
        writes = [x.index_add(1, index, x[:, :2], alpha=2), x.index_fill(2, index, 4)]
        reductions = ("sum", "prod", "mean", "amin")
        scatters = [x.scatter_reduce(2, indices, share, reduction) for reduction in reductions]
        distances = [functional.cosine_similarity(x, share, -1), torch.cdist(x, share)]
        furthest = torch.cdist(x, share, float("inf"))
        losses = (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss)
        entropies = [
            functional.cross_entropy(x, target, torch.arange(1.0, 5), ignore_index=2, label_smoothing=0.1),
            functional.binary_cross_entropy_with_logits(x, share, pos_weight=torch.tensor(2.0)),
        ]
        return [
            *(*logits, *pairs, *synonyms, *rounded, finite, *running, *sums, *norms, *products, *buckets),
            *(places, *writes, *scatters, *distances, furthest),
            *(loss(x, share, reduction="sum") for loss in losses),
            *entropies,
        ]


@pytest.mark.parametrize("module", [Shapes(), Numbers()], ids=lambda module: type(module).__name__)
def test_other_sizes(module: nn.Module, tmp_path: Path) -> None:
    def arguments(n: int, width: int) -> tuple[Tensor, ...]:
        if isinstance(module, Shapes):
            return (torch.randn(n, 4, 4, width),)
        return torch.randn(n, 4, width), torch.arange(n * width).reshape(n, width) % 4

    torch.manual_seed(0)
    path = tmp_path / "operators.pt2"
    jaxlstm.from_module(module, arguments(2, 6)).save(path)
    program = jaxlstm.load_program(path)
    args = arguments(3, 8)
    results = jax.jit(program)(program.params, *map(to_numpy, args))
    expected = module(*args)
    assert len(results) == len(expected)
    for place, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        np.testing.assert_allclose(result, to_numpy(wanted), rtol=2e-5, atol=2e-5, err_msg=str(place))
