"""Write ``demo.pt2``: the whole model of ``demo.pt`` as a program that needs neither this code nor PyTorch.

The example batch of two sequences determines dtypes only: batch size and length stay free::

    python examples/export_demo.py
    jaxlstm inspect examples/demo.pt2
"""

from __future__ import annotations

from pathlib import Path

import torch
from punctuation import ALPHABET
from train_demo import CHECKPOINT, Restorer

import jaxlstm

PROGRAM = Path(__file__).parent / "demo.pt2"


def export() -> jaxlstm.Program:
    """Return the trained model as a program."""
    model = Restorer()
    model.load_state_dict(torch.load(CHECKPOINT, weights_only=True)["model_state_dict"])
    characters = torch.randint(len(ALPHABET), (2, 40))
    return jaxlstm.from_module(model.eval(), (characters,))


def main() -> None:
    program = export()
    program.save(PROGRAM, overwrite=True)
    print(program)


if __name__ == "__main__":
    main()
