"""Write ``demo.pt2``: the whole model of ``demo.pt`` as a program that needs neither this code nor PyTorch.

The model restores capitals and punctuation. It stands for the PyTorch code of a project. The example batch of
two sequences determines dtypes only: batch size and length stay free::

    python examples/export_demo.py
    jaxlstm inspect examples/demo.pt2
"""

from pathlib import Path

import torch
from punctuation import ALPHABET, MARKS
from torch import nn

import jaxlstm

CHECKPOINT = Path(__file__).parent / "demo.pt"
PROGRAM = CHECKPOINT.with_suffix(".pt2")


class Tagger(nn.Module):
    """Map characters to features of both directions."""

    def __init__(self, embedding_size: int = 16, hidden_size: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        features, _ = self.lstm(self.embedding(characters))
        return features


class Restorer(nn.Module):
    """Predict for each character whether it is a capital, and the mark that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.tagger = Tagger()
        features = 2 * self.tagger.lstm.hidden_size
        self.capital = nn.Linear(features, 1)
        self.mark = nn.Linear(features, len(MARKS))

    def forward(self, characters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.tagger(characters)
        return self.capital(features).squeeze(-1), self.mark(features)


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
