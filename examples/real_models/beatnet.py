"""BeatNet in Flax: the beats and downbeats of music (Heydari et al., 2021, https://arxiv.org/abs/2108.03576).

The weights come from the file of the PyTorch package::

    pip download --no-deps beatnet==1.1.3 && python -m zipfile -e beatnet-1.1.3-*.whl beatnet
    python examples/real_models/beatnet.py beatnet/BeatNet/models/model_1_weights.pt

The model runs on one bar of drums, and prints the probabilities of a beat and of a downbeat.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxlstm

SAMPLE_RATE, HOP, WINDOW = 22050, 441, 1411  # 50 frames per second of 64 ms


class BeatNet(nnx.Module):
    """Map features (B, T, 272) to logits (B, 3, T) of beat, downbeat and neither, as ``BDA`` does."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 2, kernel_size=(10,), padding="VALID", rngs=rngs)
        self.linear0 = nnx.Linear(262, 150, rngs=rngs)
        self.lstm = jaxlstm.nnx.LSTM(150, 150, num_layers=2, batch_first=True, rngs=rngs)
        self.linear = nnx.Linear(150, 3, rngs=rngs)

    def __call__(
        self, features: jax.Array, state: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, jaxlstm.LSTMState]:
        """Return the logits, and the state for the frames that follow."""
        batch, time, bands = features.shape
        x = nnx.relu(self.conv1(features.reshape(batch * time, bands, 1)))
        x = nnx.max_pool(x, window_shape=(2,), strides=(2,))
        x = x.swapaxes(1, 2).reshape(batch, time, 262)  # torch flattens (channels, bands)
        x, state = self.lstm(self.linear0(x), state)
        return self.linear(x).swapaxes(1, 2), state


def load(path: Any) -> BeatNet:
    """Return the model with the weights of a file of the package."""
    model = BeatNet(rngs=nnx.Rngs(0))
    jaxlstm.load_state_dict(model, path)
    return model


def extract_features(audio: np.ndarray) -> np.ndarray:
    """Return the features (T, 272) of mono audio in [-1, 1] at 22,050 Hz.

    The package computes the same features with madmom: 24 logarithmic bands per octave, and their increase
    since the frame before.
    """
    padded = np.pad(audio, (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: -(-len(audio) // HOP)]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(WINDOW)))[:, : WINDOW // 2]
    bands = np.log10(1 + spectrum @ _filters(spectrum.shape[1]))
    increase = np.maximum(np.diff(bands, axis=0, prepend=bands[:1]), 0)
    return np.hstack([bands, increase]).astype(np.float32)


def _filters(bins: int) -> np.ndarray:
    """Return triangular filters (bins, bands) of area 1 between 30 and 17,000 Hz."""
    semitones = np.arange(np.floor(np.log2(30 / 440) * 24), np.ceil(np.log2(17000 / 440) * 24))
    frequencies = 440 * 2 ** (semitones / 24)
    frequencies = frequencies[(frequencies >= 30) & (frequencies <= 17000)]
    nearest = np.round(frequencies * 2 * bins / SAMPLE_RATE).astype(int)
    edges = np.unique(np.minimum(nearest, bins - 1))
    filters = np.zeros((bins, len(edges) - 2))
    for band, (start, center, stop) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        if stop - start < 2:
            center, stop = start, start + 1
        filters[start:center, band] = np.linspace(0, 1, center - start, endpoint=False)
        filters[center:stop, band] = np.linspace(1, 0, stop - center, endpoint=False)
    return filters / filters.sum(axis=0)


def drums(bars: int = 4) -> np.ndarray:
    """Return bars of four beats at 120 beats per minute: a kick on the first, a snare on the others."""
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    kick = np.sin(2 * np.pi * 55 * time + 8 * np.exp(-time * 40)) * np.exp(-time * 12)
    snare = np.random.default_rng(0).standard_normal(len(time)) * np.exp(-time * 30)
    return np.concatenate([kick, *3 * [0.3 * snare]] * bars) * 0.7


def main() -> None:
    model = load(sys.argv[1])
    logits, _ = nnx.jit(lambda model, x: model(x))(model, jnp.asarray(extract_features(drums()))[None])
    beat, downbeat, _ = np.asarray(nnx.softmax(logits[0], axis=0))
    for frame in range(0, len(beat), 25):  # a beat every half second
        window = slice(max(frame - 3, 0), frame + 4)
        print(f"{frame / 50:4.1f} s  beat {beat[window].max():.2f}  downbeat {downbeat[window].max():.2f}")


if __name__ == "__main__":
    main()
