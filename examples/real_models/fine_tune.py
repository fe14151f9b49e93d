"""Fine-tune the voice encoder of Resemblyzer in JAX, and give it back to the PyTorch package.

A sample of pyannote.audio has two speakers and a list of their turns. A few steps move the vectors of the two
voices apart. The package then loads the new file::

    pip download --no-deps pyannote.audio==4.0.7 && python -m zipfile -e pyannote_audio-4.0.7-*.whl pyannote
    python examples/real_models/fine_tune.py resemblyzer/resemblyzer/pretrained.pt \\
        pyannote/pyannote/audio/sample/sample.wav pyannote/pyannote/audio/sample/sample.rttm tuned.pt
    python -c "from resemblyzer import VoiceEncoder; VoiceEncoder(weights_fpath='tuned.pt')"
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from voice_encoder import HOP, SAMPLE_RATE, VoiceEncoder, load, mel_spectrogram, read_wav

import jaxlstm

FRAMES = 160


def labelled_windows(wav: Any, rttm: Any, step: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return windows (N, 160, 40) of 1.6 s that lie in one turn, and the number of the speaker (N,)."""
    mels = mel_spectrogram(read_wav(wav))
    windows, speakers = [], []
    for line in Path(rttm).read_text().splitlines():
        start, seconds, speaker = (line.split()[k] for k in (3, 4, 7))
        first, count = (int(float(value) * SAMPLE_RATE / HOP) for value in (start, seconds))
        starts = range(first, min(first + count, len(mels)) - FRAMES, step)
        windows += [mels[k : k + FRAMES] for k in starts]
        speakers += [speaker] * len(starts)
    return np.stack(windows), np.unique(speakers, return_inverse=True)[1]


def loss(model: VoiceEncoder, windows: jax.Array, speakers: jax.Array) -> jax.Array:
    """Return the softmax loss of Wan et al.: each vector against the mean vector of each speaker."""
    embeddings = model(windows)
    of_speaker = jax.nn.one_hot(speakers, 2)
    centroids = of_speaker.T @ embeddings / of_speaker.sum(0)[:, None]
    similarity = embeddings @ (centroids / jnp.linalg.norm(centroids, axis=1, keepdims=True)).T
    return optax.softmax_cross_entropy_with_integer_labels(10 * similarity, speakers).mean()


@nnx.jit
def train_step(
    model: VoiceEncoder, optimizer: nnx.Optimizer, windows: jax.Array, speakers: jax.Array
) -> jax.Array:
    value, gradients = nnx.value_and_grad(loss)(model, windows, speakers)
    optimizer.update(model, gradients)
    return value


def fine_tune(model: VoiceEncoder, windows: np.ndarray, speakers: np.ndarray, steps: int) -> list[float]:
    """Train in place, and return the loss before each step."""
    optimizer = nnx.Optimizer(model, optax.adam(1e-4), wrt=nnx.Param)
    arrays = jnp.asarray(windows), jnp.asarray(speakers)
    return [float(train_step(model, optimizer, *arrays)) for _ in range(steps)]


def write_for_torch(model: VoiceEncoder, path: Any) -> None:
    """Write a file that the package's ``VoiceEncoder(weights_fpath=path)`` loads."""
    import torch

    tensors = {name: torch.tensor(array) for name, array in jaxlstm.state_dict(model).items()}
    torch.save({"model_state": tensors}, path)


def main() -> None:
    weights, wav, rttm, output = sys.argv[1:]
    model = load(weights)
    for step, value in enumerate(fine_tune(model, *labelled_windows(wav, rttm), steps=10)):
        print(f"step {step}  loss {value:.4f}", flush=True)
    write_for_torch(model, output)


if __name__ == "__main__":
    main()
