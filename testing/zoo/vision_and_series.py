"""Models of images and time series: text and forecasting."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.zoo.specimen import Specimens

SPECIMENS = Specimens(of_inputs=True, atol=2e-6)

POINTS = 3  # control points on each of the two edges


def smooth_images(batch: int, length: int) -> tuple[Tensor]:
    """Return images without noise, in which a rounded place is a rounded value."""
    noise = torch.randn(batch, 1, 3, 4)
    return (functional.interpolate(noise, (12, length), mode="bicubic"),)


@SPECIMENS.of(smooth_images, example=(2, 24), others=((1, 40), (3, 17)), atol=5e-6)
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


@SPECIMENS.of(lambda n, length: (torch.randn(n, 1, 16, length),), example=(2, 24), others=((1, 40), (3, 17)))
class TextRecogniser(nn.Module):
    """Convolutions that reduce the height of a line, two bidirectional LSTMs, scores of characters."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(), nn.MaxPool2d(2, (2, 1), (0, 1))),
            *(nn.Conv2d(6, 6, 2), nn.Hardswish()),
        )
        self.squeeze = nn.AdaptiveAvgPool2d((1, None))
        self.first = nn.LSTM(6, 5, bidirectional=True)
        self.embedding = nn.Linear(10, 6)
        self.second = nn.LSTM(6, 5, bidirectional=True)
        self.out = nn.Linear(10, 8)

    def forward(self, images: Tensor) -> Tensor:
        x = self.squeeze(self.cnn(images)).squeeze(2).permute(2, 0, 1)
        y, _ = self.first(x)
        time, batch, features = y.size()
        x = self.embedding(y.reshape(time * batch, features)).view(time, batch, -1)
        return self.out(self.second(x)[0])


@SPECIMENS.of(lambda n, length: (torch.randn(n, length, 3),), example=(2, 8), others=((5, 12), (1, 5)))
class Forecaster(nn.Module):
    """Reversible normalization, an LSTM over the past, a decoder over the horizon, and quantiles."""

    def __init__(self, horizon: int = 4) -> None:
        super().__init__()
        self.horizon = horizon
        self.scale, self.shift = nn.Parameter(torch.rand(3) + 0.5), nn.Parameter(torch.randn(3))
        self.encoder = nn.LSTM(3, 6, num_layers=2, batch_first=True, dropout=0.1)
        self.decoder = nn.LSTM(6, 6, num_layers=2, batch_first=True, dropout=0.1)
        self.gate = nn.Linear(6, 12)
        self.quantiles = nn.Linear(6, 9)

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = past.mean(1, keepdim=True), past.std(1, keepdim=True) + 1e-5
        y, state = self.encoder((past - mean) / std * self.scale + self.shift)
        y, _ = self.decoder(y[:, -1:].repeat(1, self.horizon, 1), state)
        y = functional.glu(self.gate(y), dim=-1)
        quantiles = self.quantiles(y).unflatten(-1, (3, 3))
        quantiles = (quantiles - self.shift.unsqueeze(-1)) / self.scale.unsqueeze(-1)
        quantiles = quantiles * std.unsqueeze(-1) + mean.unsqueeze(-1)
        return quantiles, quantiles.amax(-1) - quantiles.amin(-1)
