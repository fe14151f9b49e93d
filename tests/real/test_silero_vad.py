"""Silero VAD, a published voice detector, as a program, against its own code on recorded speech."""

from __future__ import annotations

import warnings
import wave
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm.check import verify_model
from testing.wheels import fetch_pinned

pytestmark = pytest.mark.network
SILERO = ("silero-vad", "silero_vad/data/silero_vad.jit")
SPEECH = ("pyannote.audio", "pyannote/audio/sample/sample.wav")


@pytest.fixture
def script() -> Any:
    """The package's model, a TorchScript module."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        return torch.jit.load(fetch_pinned(*SILERO)).eval()


class SileroVAD(nn.Module):
    """The package's model for 16,000 Hz in eager torch: its TorchScript always computes in float32."""

    stft: Any
    encoder: Any
    decoder: Any

    def __init__(self, script: Any) -> None:
        super().__init__()
        sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.stft = nn.Module()
        self.stft.register_buffer("forward_basis_buffer", torch.zeros(258, 1, 256))
        self.encoder = nn.ModuleList()
        for inputs, outputs, stride in sizes:
            block = nn.Module()
            block.reparam_conv = nn.Conv1d(inputs, outputs, 3, stride, padding=1)
            self.encoder.append(block)
        self.decoder = nn.Module()
        self.decoder.rnn = nn.LSTMCell(128, 128)
        self.decoder.decoder = nn.Sequential(nn.Dropout(0.1), nn.ReLU(), nn.Conv1d(128, 1, 1), nn.Sigmoid())
        self.load_state_dict(script._model.state_dict(), strict=True)
        self.eval()

    def forward(self, frames: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.pad(frames, (0, 64), "reflect")[:, None]
        spectrum = nn.functional.conv1d(x, self.stft.forward_basis_buffer, stride=128)
        x = (spectrum[:, :129] ** 2 + spectrum[:, 129:] ** 2).sqrt()
        for block in self.encoder:
            x = block.reparam_conv(x).relu()
        state = torch.stack(self.decoder.rnn(x[..., 0], (state[0], state[1])))
        return self.decoder.decoder(state[0, ..., None])[..., 0], state


@pytest.fixture
def frames_and_states(script: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Three frames of speech, with the states of the model before them."""
    with wave.open(str(fetch_pinned(*SPEECH))) as file:  # 16 bits, mono, 16,000 Hz
        speech = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 2**15
    model, state, states = SileroVAD(script), torch.zeros(2, 1, 128), []
    frames = torch.from_numpy(np.stack([speech[k - 64 : k + 512] for k in range(106_496, 110_592, 512)]))
    with torch.no_grad():
        for frame in frames:
            states.append(state)
            _, state = model(frame[None], state)
    return frames[-3:], torch.cat(states[-3:], dim=1)


def test_the_eager_model_equals_the_script(script: Any) -> None:
    frames, state = 0.1 * torch.randn(3, 576), 0.3 * torch.randn(2, 3, 128)
    with torch.no_grad():
        results = zip(SileroVAD(script)(frames, state), script._model(frames, state), strict=True)
    for ours, theirs in results:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_program_equals_the_package(script: Any, frames_and_states: Any, tmp_path: Path) -> None:
    """The program, exported from three frames, runs on one, as in a stream, and the checker accepts it."""
    module, (frames, states) = SileroVAD(script), frames_and_states
    live = jaxlstm.from_module(module, frames_and_states)
    live.save(tmp_path / "model.pt2")
    read = jaxlstm.load_program(tmp_path / "model.pt2")
    args = frames[:1], states[:, :1]
    with torch.no_grad():
        expected = [result.numpy() for result in module(*args)]
    for program in (live, read):
        actual = jax.jit(program)(program.params, *(arg.numpy() for arg in args))
        for ours, theirs in zip(actual, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))
    assert [node.op for node in read.graph.nodes] == [node.op for node in live.graph.nodes]
    report = verify_model(read, module, frames_and_states)
    assert report.ok, str(report)
