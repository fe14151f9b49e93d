"""Models of sound: a voice detector, DeepSpeech, Tacotron, a speech enhancer."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.zoo.specimen import Specimens

SPECIMENS = Specimens(of_inputs=True, atol=2e-6)


@SPECIMENS.of(lambda n: (torch.randn(n, 128), torch.randn(2, n, 6)), example=(2,), others=((1,), (5,)))
class VoiceDetector(nn.Module):
    """A Fourier transform as a convolution, a stack of convolutions, and an LSTMCell over one window."""

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(17.0), torch.arange(32.0)) * (2 * math.pi / 32)
        window = torch.hann_window(32)
        self.register_buffer("basis", torch.cat([angles.cos() * window, -angles.sin() * window])[:, None])
        self.encoder = nn.Sequential(
            *(nn.Conv1d(17, 12, 3, padding=1), nn.ReLU()),
            *(nn.Conv1d(12, 8, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv1d(8, 8, 3, stride=2, padding=1), nn.ReLU()),
        )
        self.cell = nn.LSTMCell(8, 6)
        self.decoder = nn.Sequential(nn.Dropout(0.1), nn.ReLU(), nn.Conv1d(6, 1, 1), nn.Sigmoid())

    def forward(self, samples: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.pad(samples, (0, 16), mode="reflect").unsqueeze(1)
        real, imaginary = functional.conv1d(x, self.basis, stride=16).split(17, dim=1)
        x = self.encoder(torch.sqrt(real**2 + imaginary**2 + 1e-8))
        h, c = self.cell(x.mean(dim=-1), (state[0], state[1]))
        speech = self.decoder(h.unsqueeze(-1))
        return speech.squeeze(1).mean(dim=1, keepdim=True), torch.stack([h, c])


@SPECIMENS.of(lambda n, length: (torch.rand(n, 20, length),), example=(2, 16), others=((3, 31), (1, 9)))
class DeepSpeech(nn.Module):
    """Convolutions over time and frequency, LSTMs with summed directions, and scores of characters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(1, 4, (5, 3), stride=(2, 2), padding=(2, 1)), nn.BatchNorm2d(4)),
            nn.Hardtanh(0, 20, inplace=True),
            *(nn.Conv2d(4, 4, (3, 3), stride=(2, 1), padding=(1, 1)), nn.BatchNorm2d(4)),
            nn.Hardtanh(0, 20, inplace=True),
        )
        self.layers = nn.ModuleList(nn.LSTM(size, 6, bidirectional=True) for size in (20, 6))
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 7, bias=False)

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(spectrogram.log1p().unsqueeze(1))
        batch, channels, bands, time = x.shape
        x = x.view(batch, channels * bands, time).permute(2, 0, 1).contiguous()
        for index, layer in enumerate(self.layers):
            if index:
                x = self.norm(x.view(time * batch, 6)).view(time, batch, 6)
            y, _ = layer(x)
            x = y.view(time, batch, 2, 6).sum(2)
        scores = functional.log_softmax(self.out(x), dim=-1)
        return scores, scores.argmax(-1).transpose(0, 1)


@SPECIMENS.of(
    lambda n, length: (torch.randint(0, 11, (n, length)), torch.randn(n, 2, 5)),
    example=(2, 6),
    others=((3, 9), (1, 4)),
)
class Tacotron(nn.Module):
    """An encoder of characters, two decoder steps with location-sensitive attention, and a postnet."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.convs = nn.Sequential(nn.Conv1d(8, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU())
        self.encoder = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.prenet = nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Dropout(0.5))
        self.attention_cell, self.decoder_cell = nn.LSTMCell(12, 6), nn.LSTMCell(14, 6)
        self.query, self.memory = nn.Linear(6, 7, bias=False), nn.Linear(8, 7, bias=False)
        self.location = nn.Conv1d(2, 7, 5, padding=2, bias=False)
        self.energy = nn.Linear(7, 1)
        self.frame = nn.Linear(14, 5)
        self.postnet = nn.Sequential(nn.Conv1d(5, 5, 3, padding=1), nn.BatchNorm1d(5), nn.Tanh())

    def forward(self, characters: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.convs(self.embedding(characters).transpose(1, 2)).transpose(1, 2)
        memory, _ = self.encoder(x)
        keys = self.memory(memory)
        weights = total = torch.zeros_like(keys[:, :, 0])
        context = torch.zeros_like(memory[:, 0])
        batch = keys.shape[0]
        attention = decoder = (keys.new_zeros(batch, 6), keys.new_zeros(batch, 6))
        outputs, alignments = [], []
        for step in range(2):
            inputs = torch.cat((self.prenet(frames[:, step]), context), -1)
            attention = self.attention_cell(inputs, attention)
            located = self.location(torch.stack([weights, total], 1)).transpose(1, 2)
            energy = self.energy(torch.tanh(self.query(attention[0]).unsqueeze(1) + keys + located))
            weights = functional.softmax(energy.squeeze(-1), dim=1)
            total = total + weights
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            decoder = self.decoder_cell(torch.cat((attention[0], context), -1), decoder)
            outputs.append(self.frame(torch.cat((decoder[0], context), -1)))
            alignments.append(weights)
        mel = torch.stack(outputs, dim=2)
        return mel + self.postnet(mel), torch.stack(alignments, dim=1)


@SPECIMENS.of(lambda n, length: (torch.randn(n, length),), example=(2, 64), others=((3, 103), (1, 48)))
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
