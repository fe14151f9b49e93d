"""Run the PyTorch checkpoint ``demo.pt`` in JAX, without PyTorch: restore capitals and punctuation.

``jaxlstm.load`` reads the LSTM. The embedding and the two linear layers are one line of JAX each, with
weights from the same file::

    python examples/tag.py
    python examples/tag.py "alice opened her eyes and said the queen who is that"
"""

from __future__ import annotations

import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from punctuation import encode, read_paragraphs, restore, strip

import jaxlstm

CHECKPOINT = Path(__file__).parent / "demo.pt"


def load_model(path: Path = CHECKPOINT) -> tuple[dict[str, Any], jaxlstm.LSTMConfig]:
    """Return the weights of every layer, and the config of the batch-first LSTM."""
    lstm_params, config = jaxlstm.load(path, batch_first=True, dropout=0.0)
    tensors = jaxlstm.read_checkpoint(path)
    others = ("tagger.embedding.weight", "capital.weight", "capital.bias", "mark.weight", "mark.bias")
    weights = {name: jnp.asarray(np.asarray(tensors[f"model_state_dict.{name}"])) for name in others}
    return weights | {"tagger.lstm": lstm_params}, config


@partial(jax.jit, static_argnames="config")
def logits(
    weights: dict[str, Any], characters: jax.Array, *, config: jaxlstm.LSTMConfig
) -> tuple[jax.Array, jax.Array]:
    """Return logits of capitals (batch, time) and of marks (batch, time, marks), as ``Restorer`` does."""
    embedded = weights["tagger.embedding.weight"][characters]
    features, _ = jaxlstm.lstm(weights["tagger.lstm"], embedded, config=config)
    capital = features @ weights["capital.weight"].T + weights["capital.bias"]
    mark = features @ weights["mark.weight"].T + weights["mark.bias"]
    return capital[..., 0], mark


def punctuate(text: str, path: Path = CHECKPOINT) -> str:
    """Return the text with predicted capitals and marks; the ones that it has are ignored."""
    weights, config = load_model(path)
    plain = strip(text).text
    capital, mark = logits(weights, jnp.asarray([encode(plain)]), config=config)
    return restore(plain, (capital[0] > 0).tolist(), mark[0].argmax(-1).tolist())


def main() -> None:
    text = " ".join(sys.argv[1:]) or " ".join(read_paragraphs(range(12, 13))[9:11])
    for label, version in (
        ("given", text),
        ("read by the model", strip(text).text),
        ("restored", punctuate(text)),
    ):
        print(f"{label}:", *textwrap.wrap(version, 100), "", sep="\n")


if __name__ == "__main__":
    main()
