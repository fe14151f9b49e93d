"""The models of :mod:`benchmarks.programs`, at the sizes of published ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def _block(inputs: int, outputs: int, *, norm: bool = False) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()] if norm else [conv, nn.ReLU()]


class TextRecogniser(nn.Module):
    """CRNN (Shi et al. 2015): seven convolutions and two bidirectional LSTM layers."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            *(*_block(1, 64), nn.MaxPool2d(2), *_block(64, 128), nn.MaxPool2d(2)),
            *(*_block(128, 256, norm=True), *_block(256, 256), nn.MaxPool2d((2, 1))),
            *(*_block(256, 512, norm=True), *_block(512, 512), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(512, 512, (2, 1)), nn.BatchNorm2d(512), nn.ReLU()),
        )
        self.lstm = nn.LSTM(512, 256, num_layers=2, bidirectional=True)
        self.out = nn.Linear(512, 97)

    def forward(self, images: Tensor) -> Tensor:
        x = self.cnn(images).squeeze(2).permute(2, 0, 1)
        return self.out(self.lstm(x)[0])


class Tagger(nn.Module):
    """Embedding, two bidirectional LSTM layers, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10_000, 100)
        self.lstm = nn.LSTM(100, 200, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(400, 18)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.lstm(self.embedding(words))[0])


class VoiceDetector(nn.Module):
    """The layers of Silero VAD: a Fourier transform as a convolution, four convolutions, an LSTMCell."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.encoder = nn.Sequential(
            *(part for i, o, s in sizes for part in (nn.Conv1d(i, o, 3, s, padding=1), nn.ReLU()))
        )
        self.cell = nn.LSTMCell(128, 128)
        self.out = nn.Sequential(nn.ReLU(), nn.Linear(128, 1), nn.Sigmoid())

    def forward(self, samples: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.pad(samples, (0, 64), mode="reflect").unsqueeze(1)
        real, imaginary = self.stft(x).chunk(2, dim=1)
        x = self.encoder(torch.sqrt(real**2 + imaginary**2))
        state = torch.stack(self.cell(x.mean(dim=-1), (state[0], state[1])))
        return self.out(state[0]), state


class Large(nn.Module):
    """12.5 million parameters in float32, for the time to load a file."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(640, 832, num_layers=2, batch_first=True)
        self.out = nn.Linear(832, 2400)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0])


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "text recogniser, 4 lines of 32 x 256": (TextRecogniser, lambda: (torch.randn(4, 1, 32, 256),)),
    "tagger, 16 sentences of 40 words": (Tagger, lambda: (torch.randint(0, 10_000, (16, 40)),)),
    "voice detector, 1 window": (VoiceDetector, lambda: (torch.randn(1, 576), torch.randn(2, 1, 128))),
}
