"""g2pM in Flax: the reading of Chinese characters that have several (https://github.com/kakaobrain/g2pM).

The weights, the characters and the readings come from the files of the package::

    pip download --no-deps g2pM==0.1.2.5 && python -m zipfile -e g2pM-0.1.2.5-*.whl g2pm
    python examples/real_models/g2pm.py g2pm/g2pM 然而，他红了20年以后，他竟退出了大家的视线。
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import jaxlstm

BEGIN, END, UNKNOWN = "시", "끝", "<UNK>"
NAMES = {"logit_layer.0": "hidden", "logit_layer.2": "output"}


class G2pM(nnx.Module):
    """Map characters (B, T) to logits (B, T, 876) of readings."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(5398, 64, rngs=rngs)
        self.lstm = jaxlstm.nnx.LSTM(64, 32, batch_first=True, bidirectional=True, rngs=rngs)
        self.hidden = nnx.Linear(64, 32, rngs=rngs)
        self.output = nnx.Linear(32, 876, rngs=rngs)

    def __call__(self, characters: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """Return the logits; ``lengths`` (B,) are needed for sentences of different lengths."""
        x, _ = self.lstm(self.embedding(characters), seq_lengths=lengths)
        return self.output(nnx.relu(self.hidden(x)))


def load(path: Any) -> G2pM:
    """Return the model with the weights of ``np_ckpt.pkl``."""
    model = G2pM(rngs=nnx.Rngs(0))
    jaxlstm.load_state_dict(model, path, names=NAMES)
    return model


class Reader:
    """The model with the package's tables of characters and readings.

    The tables are pickles, which may run code when they are read: use files that you trust.
    """

    def __init__(self, folder: Path) -> None:
        self.model = load(folder / "np_ckpt.pkl")
        self.character_ids, classes, self.readings = (
            pickle.loads((folder / f"{name}.pkl").read_bytes())
            for name in ("char2idx", "class2idx", "digest_cedict")
        )
        self.classes = {index: reading for reading, index in classes.items()}
        self._logits = nnx.jit(lambda model, characters: model(characters))

    def encode(self, sentence: str) -> np.ndarray:
        """Return the model's input (T + 2,) for a sentence of T characters."""
        unknown = self.character_ids[UNKNOWN]
        ids = [self.character_ids.get(character, unknown) for character in [BEGIN, *sentence, END]]
        return np.array(ids, np.int32)

    def __call__(self, sentence: str) -> list[str]:
        """Return the reading of each character; characters without one stay as they are."""
        logits = self._logits(self.model, self.encode(sentence)[None])
        best = np.asarray(logits[0].argmax(-1))[1:-1]
        return [self._choose(character, index) for character, index in zip(sentence, best, strict=True)]

    def _choose(self, character: str, index: int) -> str:
        readings = self.readings.get(character, [character])
        return readings[0] if len(readings) == 1 else self.classes[int(index)]


def main() -> None:
    print(*Reader(Path(sys.argv[1]))(sys.argv[2]))


if __name__ == "__main__":
    main()
