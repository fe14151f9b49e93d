"""Models with spatial and Fourier transforms: a recogniser that rectifies its images, a speech enhancer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.model_shapes.shape import ModelShape

POINTS = 3  # control points on each of the two edges


class RectifiedTextRecogniser(nn.Module):
    """A thin-plate spline from predicted points, ``grid_sample``, convolutions, a bidirectional LSTM.

    The spline maps the points of the edges of the rectified image, ``size``, to the predicted points.
    """

    inverse: Tensor
    basis: Tensor

    def __init__(self, size: tuple[int, int] = (8, 20)) -> None:
        super().__init__()
        self.size = size
        self.locate = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.AdaptiveAvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(16, 4 * POINTS), nn.Tanh()),
        )
        along = torch.linspace(-1, 1, POINTS)
        edges = torch.cat([torch.stack([along, torch.full((POINTS,), y)], 1) for y in (-1.0, 1.0)])
        rows, columns = (torch.arange(1 - n, n, 2) / n for n in size)
        places = torch.cartesian_prod(rows, columns).flip(1)
        affine = torch.cat([torch.ones(2 * POINTS, 1), edges], 1)
        system = torch.cat([torch.cat([affine, spline(edges, edges)], 1), functional.pad(affine.T, (3, 0))])
        self.register_buffer("inverse", system.inverse())
        basis = [torch.ones(len(places), 1), places, spline(places, edges)]
        self.register_buffer("basis", torch.cat(basis, 1))
        self.cnn = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, (4, 2)), nn.ReLU(True)),
        )
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.out = nn.Linear(10, 7)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        batch = images.size(0)
        points = self.locate(images).view(batch, 2 * POINTS, 2)
        coefficients = self.inverse @ torch.cat([points, images.new_zeros(batch, 3, 2)], 1)
        grid = (self.basis @ coefficients).reshape(batch, *self.size, 2)
        rectified = functional.grid_sample(images, grid, padding_mode="border", align_corners=True)
        y, _ = self.lstm(self.cnn(rectified).squeeze(2).transpose(1, 2))
        return self.out(y), rectified


def spline(places: Tensor, points: Tensor) -> Tensor:
    """Return r ** 2 * log(r) for the distance r of each place to each point."""
    distances = torch.cdist(places, points)
    return torch.xlogy(distances.square(), distances)


class SpeechEnhancer(nn.Module):
    """A short-time Fourier transform, a mask from an LSTM over its frames, and the inverse transform.

    The result has whole hops: torch.export fixes the length of the signal if it is an argument of ``istft``.
    """

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.lstm = nn.LSTM(9, 6, num_layers=2, batch_first=True, dropout=0.2)
        self.mask = nn.Linear(6, 9)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = torch.stft(waveform, 16, 4, window=self.window, return_complex=True)
        magnitude = spectrum.abs()
        y, _ = self.lstm(magnitude.log1p().transpose(1, 2))
        mask = torch.sigmoid(self.mask(y)).transpose(1, 2)
        enhanced = torch.polar(magnitude * mask, spectrum.angle())
        return torch.istft(enhanced, 16, 4, window=self.window), mask


def smooth_images(batch: int, length: int) -> tuple[Tensor]:
    """Return images without noise, in which a rounded place is a rounded value."""
    noise = torch.randn(batch, 1, 3, 4)
    return (functional.interpolate(noise, (12, length), mode="bicubic"),)


SHAPES = {
    "rectified text recogniser": ModelShape(
        RectifiedTextRecogniser, smooth_images, (2, 24), ((1, 40), (3, 17))
    ),
    "speech enhancer": ModelShape(
        SpeechEnhancer, lambda batch, length: (torch.randn(batch, length),), (2, 64), ((3, 103), (1, 48))
    ),
}
