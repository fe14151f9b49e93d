"""Silero VAD in Flax: the probability of speech in each 32 ms of audio (https://github.com/snakers4/silero-vad).

The weights come from the TorchScript file of the PyTorch package::

    pip download --no-deps silero-vad==6.2.3 && python -m zipfile -e silero_vad-6.2.3-*.whl silero
    python examples/real_models/silero_vad.py silero/silero_vad/data/silero_vad.jit speech.wav
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

FRAME, CONTEXT = 512, 64
# torch's names -> names here. The file holds a second model, for audio at 8,000 Hz.
NAMES = {
    "_model": "",
    "_model.stft.forward_basis_buffer": "stft.weight",
    **{f"_model.encoder.{k}.reparam_conv": f"encoder.{k}" for k in range(4)},
    "_model.decoder.rnn": "cell",
    "_model.decoder.decoder.2": "output",
}


class SileroVAD(nnx.Module):
    """The model for 16,000 Hz."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.stft = nnx.Conv(1, 258, 256, strides=128, padding="VALID", use_bias=False, rngs=rngs)
        sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.encoder = nnx.List(
            nnx.Conv(inputs, outputs, 3, strides=stride, padding=1, rngs=rngs)
            for inputs, outputs, stride in sizes
        )
        self.cell = jaxlstm.nnx.LSTMCell(128, 128, rngs=rngs)
        self.output = nnx.Conv(128, 1, 1, rngs=rngs)

    def encode(self, frames: jax.Array) -> jax.Array:
        """Return features (B, 128) of frames (B, 576): 64 samples of context and 512 new ones."""
        x = jnp.pad(frames, ((0, 0), (0, 64)), mode="reflect")[..., None]
        spectrum = self.stft(x)
        x = jnp.sqrt(spectrum[..., :129] ** 2 + spectrum[..., 129:] ** 2)
        for conv in self.encoder:
            x = nnx.relu(conv(x))
        return x[:, 0]

    def decode(self, hidden: jax.Array) -> jax.Array:
        """Return probabilities (B, 1) of hidden states (B, 128)."""
        return nnx.sigmoid(self.output(nnx.relu(hidden)[:, None]))[:, 0]

    def __call__(self, frames: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return probabilities (B, 1) and the new state (2, B, 128), for the next frame of each stream."""
        state = jnp.stack(self.cell(self.encode(frames), (state[0], state[1])))
        return self.decode(state[0]), state

    def whole(self, audio: jax.Array) -> jax.Array:
        """Return the probability of speech in every 512 samples of audio, in one call."""
        audio = jnp.pad(audio, (CONTEXT, -len(audio) % FRAME))
        starts = jnp.arange(0, len(audio) - CONTEXT, FRAME)
        features = self.encode(audio[starts[:, None] + jnp.arange(CONTEXT + FRAME)])
        params = {f"{name}_l0": array for name, array in self.cell.params.items()}  # an LSTM of one layer
        hidden, _ = jaxlstm.lstm(params, features[:, None], config=jaxlstm.LSTMConfig(128, 128))
        return self.decode(hidden[:, 0])[:, 0]


def load(path: Any) -> SileroVAD:
    """Return the model with the weights of the package's TorchScript file."""
    model = SileroVAD(rngs=nnx.Rngs(0))
    jaxlstm.load_state_dict(model, path, names=NAMES)
    return model


def read_wav(path: Any) -> np.ndarray:
    """Return the samples of a 16-bit mono file, in [-1, 1]."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (16000, 2, 1):
            raise ValueError(f"{path} must be a mono file of 16 bits at 16000 Hz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2.0**15


def main() -> None:
    model, audio = load(sys.argv[1]), read_wav(sys.argv[2])
    probabilities = nnx.jit(lambda model, x: model.whole(x))(model, jnp.asarray(audio, jnp.float32))
    speech = np.asarray(probabilities) > 0.5
    changes = np.flatnonzero(np.diff(speech, prepend=False, append=False)) * FRAME / 16000
    for start, end in zip(changes[::2], changes[1::2], strict=True):
        print(f"speech from {start:6.2f} s to {end:6.2f} s")


if __name__ == "__main__":
    main()
