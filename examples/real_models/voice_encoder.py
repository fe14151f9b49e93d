"""The voice encoder of Resemblyzer in Flax: one vector per utterance, close for the same speaker.

It is the model of "Generalized end-to-end loss for speaker verification" (Wan et al., 2018,
https://arxiv.org/abs/1710.10467). The weights come from the file of the PyTorch package::

    pip download --no-deps resemblyzer==0.1.4 && python -m zipfile -e Resemblyzer-0.1.4-*.whl resemblyzer
    python examples/real_models/voice_encoder.py resemblyzer/resemblyzer/pretrained.pt speech.wav
"""

from __future__ import annotations

import sys
import wave
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxlstm

SAMPLE_RATE, WINDOW, HOP, BANDS = 16000, 400, 160, 40


class VoiceEncoder(nnx.Module):
    """Map mel spectrograms (B, T, 40) to vectors (B, 256) of length 1."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.lstm = jaxlstm.nnx.LSTM(BANDS, 256, num_layers=3, batch_first=True, rngs=rngs)
        self.linear = nnx.Linear(256, 256, rngs=rngs)

    def __call__(self, mels: jax.Array) -> jax.Array:
        _, (hidden, _) = self.lstm(mels)
        embedding = nnx.relu(self.linear(hidden[-1]))
        return embedding / jnp.linalg.norm(embedding, axis=1, keepdims=True)


def load(path: Any) -> VoiceEncoder:
    """Return the model with the weights of the package's file.

    The file also holds two scalars of the loss and the state of the optimizer, which this model lacks.
    """
    model = VoiceEncoder(rngs=nnx.Rngs(0))
    result = jaxlstm.load_state_dict(model, path, strict=False)
    if result.missing or result.misshapen:
        raise ValueError(str(result))
    return model


def read_wav(path: Any) -> np.ndarray:
    """Return the samples of a 16-bit mono file, in [-1, 1]."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (SAMPLE_RATE, 2, 1):
            raise ValueError(f"{path} must be a mono file of 16 bits at {SAMPLE_RATE} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2.0**15


def mel_spectrogram(audio: np.ndarray) -> np.ndarray:
    """Return the mel energies (T, 40), as ``librosa.feature.melspectrogram`` computes them."""
    padded = np.pad(audio, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])) ** 2
    return (power @ _mel_filters()).astype(np.float32)


def partial_utterances(mels: np.ndarray, frames: int = 160, step: int = 77) -> np.ndarray:
    """Return windows (N, 160, 40) of 1.6 s, 1.3 per second, as ``embed_utterance`` does."""
    return np.stack([mels[k : k + frames] for k in range(0, len(mels) - frames + 1, step)])


def _mel_filters() -> np.ndarray:
    """Return triangular filters (201, 40) of area 1 on Slaney's mel scale: linear up to 1,000 Hz."""
    log_step = np.log(6.4) / 27
    top = 15 + np.log(SAMPLE_RATE / 2 / 1000) / log_step
    mels = np.linspace(0, top, BANDS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * log_step))
    bins = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])


def main() -> None:
    model, audio = load(sys.argv[1]), read_wav(sys.argv[2])
    windows = partial_utterances(mel_spectrogram(audio))
    embeddings = nnx.jit(lambda model, x: model(x))(model, jnp.asarray(windows))
    similarity = np.asarray(embeddings @ embeddings.T)
    print("similarity of the first window to each window:")
    print(*(f"{value:.2f}" for value in similarity[0]))


if __name__ == "__main__":
    main()
