"""Run the PyTorch checkpoint ``demo.pt`` in JAX: restore the capitals and punctuation of a text.

The LSTM comes through ``jaxlstm.load``; the layers around it, an embedding and two linear ones, are a line
of JAX each on weights from the same file. PyTorch is not needed::

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
    """The weights of every layer, and the config of the LSTM, which the model calls batch first."""
    lstm_params, config = jaxlstm.load(path, batch_first=True)
    tensors = jaxlstm.read_checkpoint(path)
    others = (
        "tagger.embedding.weight",
        "capital.weight",
        "capital.bias",
        "mark.weight",
        "mark.bias",
    )
    weights = {
        name: jnp.asarray(np.asarray(tensors[f"model_state_dict.{name}"])) for name in others
    }
    return weights | {"tagger.lstm": lstm_params}, config


@partial(jax.jit, static_argnames="config")
def logits(
    weights: dict[str, Any], characters: jax.Array, *, config: jaxlstm.LSTMConfig
) -> tuple[jax.Array, jax.Array]:
    """``Restorer.forward`` of ``train_demo.py``: (batch, time) -> (batch, time) and (batch, time, marks)."""
    embedded = weights["tagger.embedding.weight"][characters]
    features, _ = jaxlstm.lstm(weights["tagger.lstm"], embedded, config=config)
    capital = features @ weights["capital.weight"].T + weights["capital.bias"]
    mark = features @ weights["mark.weight"].T + weights["mark.bias"]
    return capital[..., 0], mark


def punctuate(text: str, path: Path = CHECKPOINT) -> str:
    """The text with the capitals and marks that the model thinks right, whatever it had of them before."""
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
