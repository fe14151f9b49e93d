"""Whole models of the wheels in `testing/wheels.py`: their own code in torch, and real inputs.

The packages are not installed: a file of a wheel is imported by its path. Modules that it imports without
using them here (feature extraction) are replaced by empty ones.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from testing.wheels import fetch_pinned

EXAMPLES = Path(__file__).parents[1] / "examples" / "real_models"
RESEMBLYZER = ("resemblyzer", "resemblyzer/pretrained.pt")
SILERO = ("silero-vad", "silero_vad/data/silero_vad.jit")
SPEECH = ("pyannote.audio", "pyannote/audio/sample/sample.wav")


@cache
def example(name: str) -> types.ModuleType:
    """Import a file of ``examples/real_models``. The files import one another by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return importlib.import_module(name)


def speech() -> np.ndarray:
    """Return 30 s of a conversation between two people, at 16,000 Hz."""
    return example("voice_encoder").read_wav(fetch_pinned(*SPEECH)).astype(np.float32)


def load_resemblyzer() -> nn.Module:
    """Return the package's ``VoiceEncoder`` with its weights."""
    fetch_pinned("resemblyzer", "resemblyzer/hparams.py")
    source = fetch_pinned("resemblyzer", "resemblyzer/voice_encoder.py")
    package, audio = types.ModuleType("resemblyzer"), types.ModuleType("resemblyzer.audio")
    package.__path__ = [str(source.parent)]
    package.audio = audio  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for module in (package, audio):
            patch.setitem(sys.modules, module.__name__, module)
        patch.delitem(sys.modules, "resemblyzer.hparams", raising=False)
        encoder = _import(source, "resemblyzer.voice_encoder").VoiceEncoder
        patch.delitem(sys.modules, "resemblyzer.hparams")
    return encoder("cpu", verbose=False, weights_fpath=fetch_pinned(*RESEMBLYZER)).eval()


def load_silero_script() -> Any:
    """Return the package's model, a TorchScript module."""
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


def _import(path: Path, name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Problem(NamedTuple):
    """A Flax model, the torch module that it should equal, and real inputs for both.

    Attributes:
      ours, theirs: the models.
      args: a short input, for the checker.
      long_args: an input of usual size, for timing.
      names: torch prefix -> Flax prefix.
    """

    ours: Any
    theirs: torch.nn.Module
    args: tuple[Any, ...]
    long_args: tuple[Any, ...]
    names: dict[str, str]


def resemblyzer() -> Problem:
    """Two windows of speech, one of each speaker, shortened to half a second. The long input has 8."""
    source = example("voice_encoder")
    windows = source.partial_utterances(source.mel_spectrogram(speech()))
    ours = source.load(fetch_pinned(*RESEMBLYZER))
    return Problem(ours, load_resemblyzer(), (windows[[9, 16], :50],), (windows[8:24:2],), {})


def silero_vad() -> Problem:
    """Three frames of speech, with states of the model. The long input is one frame, as in a stream."""
    source = example("silero_vad")
    theirs = SileroVAD(load_silero_script())
    audio, state = speech(), torch.zeros(2, 1, 128)
    frames = np.stack([audio[k - 64 : k + 512] for k in range(106_496, 110_592, 512)])
    states = []
    with torch.no_grad():
        for frame in frames:
            states.append(state)
            _, state = theirs(torch.from_numpy(frame)[None], state)
    args = (frames[-3:], torch.cat(states[-3:], dim=1).numpy())
    names = {name.removeprefix("_model."): path for name, path in source.NAMES.items() if path}
    one = (args[0][:1], args[1][:, :1])
    return Problem(source.load(fetch_pinned(*SILERO)), theirs, args, one, names)


PROBLEMS: list[Callable[[], Problem]] = [resemblyzer, silero_vad]
