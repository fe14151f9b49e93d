"""Run the program ``demo.pt2`` in JAX, without PyTorch: restore capitals and punctuation.

``jaxlstm.load_program`` reads the whole model: embedding, LSTM and linear layers::

    python examples/tag.py
    python examples/tag.py "alice opened her eyes and said the queen who is that"
"""

import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
from punctuation import encode, read_paragraphs, restore, strip

import jaxlstm

PROGRAM = Path(__file__).parent / "demo.pt2"


def logits(characters: np.ndarray, path: Path = PROGRAM) -> tuple[jax.Array, jax.Array]:
    """Return logits of capitals (batch, time) and of marks (batch, time, marks), as ``Restorer`` does."""
    program = jaxlstm.load_program(path)
    return jax.jit(program)(program.params, characters)


def punctuate(text: str) -> str:
    """Return the text with predicted capitals and marks; the ones that it has are ignored."""
    plain = strip(text)
    capital, mark = logits(np.array([encode(plain)]))
    return restore(plain, (capital[0] > 0).tolist(), mark[0].argmax(-1).tolist())


def main() -> None:
    text = " ".join(sys.argv[1:]) or " ".join(read_paragraphs(range(12, 13))[9:11])
    for label, version in (
        ("given", text),
        ("read by the model", strip(text)),
        ("restored", punctuate(text)),
    ):
        print(f"{label}:", *textwrap.wrap(version, 100), "", sep="\n")


if __name__ == "__main__":
    main()
