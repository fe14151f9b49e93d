"""Real models and real inputs: models of ``examples/real_models`` beside the models of their packages."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from testing import real_models as real


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


def beatnet() -> Problem:
    """Half a second of a drum beat, with the state after two seconds. The long input has eight seconds."""
    example = real.example("beatnet")
    theirs = real.StatelessBeatNet(real.load_beatnet())
    features = example.extract_features(example.drums())
    zeros = torch.zeros(2, 1, 150)
    with torch.no_grad():
        _, state = theirs(torch.from_numpy(features[None, :100]), (zeros, zeros))
    state = tuple(array.numpy() for array in state)
    ours = example.load(real.fetch_pinned(*real.BEATNET))
    return Problem(ours, theirs, (features[None, 100:125], state), (features[None], state), {})


def resemblyzer() -> Problem:
    """Two windows of speech, one of each speaker, shortened to half a second. The long input has 8."""
    example = real.example("voice_encoder")
    windows = example.partial_utterances(example.mel_spectrogram(real.speech()))
    ours = example.load(real.fetch_pinned(*real.RESEMBLYZER))
    return Problem(ours, real.load_resemblyzer(), (windows[[9, 16], :50],), (windows[8:24:2],), {})


def silero_vad() -> Problem:
    """Three frames of speech, with states of the model. The long input is one frame, as in a stream."""
    example = real.example("silero_vad")
    theirs = real.SileroVAD(real.load_silero_script())
    audio, state = real.speech(), torch.zeros(2, 1, 128)
    frames = np.stack([audio[k - 64 : k + 512] for k in range(106_496, 110_592, 512)])
    states = []
    with torch.no_grad():
        for frame in frames:
            states.append(state)
            _, state = theirs(torch.from_numpy(frame)[None], state)
    args = (frames[-3:], torch.cat(states[-3:], dim=1).numpy())
    names = {name.removeprefix("_model."): path for name, path in example.NAMES.items() if path}
    one = (args[0][:1], args[1][:, :1])
    return Problem(example.load(real.fetch_pinned(*real.SILERO)), theirs, args, one, names)


def g2pm() -> Problem:
    """Two sentences of one length, with marks of begin and end. The long input has 64 such sentences."""
    example = real.example("g2pm")
    reader = example.Reader(real.fetch_g2pm_folder())
    state_dict = pickle.loads(real.fetch_pinned(*real.G2PM).read_bytes())
    ids = np.stack([reader.encode(sentence[:16]) for sentence in real.SENTENCES[:2]])
    return Problem(reader.model, real.TorchG2pM(state_dict), (ids,), (np.tile(ids, (32, 1)),), example.NAMES)


PROBLEMS: list[Callable[[], Problem]] = [beatnet, resemblyzer, silero_vad, g2pm]
