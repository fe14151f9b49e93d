"""Train the demo checkpoint in PyTorch: a small character tagger that restores capitals and punctuation.

It stands for the existing code of a project that moves to JAX, and does not use JAX itself. It trains on
chapters 1 to 11 of ``data/alice.txt``, tests on chapter 12, and writes ``demo.pt``. It takes about a
minute on a CPU::

    python examples/train_demo.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from punctuation import ALPHABET, MARKS, encode, read_paragraphs, strip
from torch import nn

TRAIN_CHAPTERS, TEST_CHAPTERS = range(1, 12), range(12, 13)
STEPS, BATCH, WINDOW = 2500, 32, 160
CHECKPOINT = Path(__file__).parent / "demo.pt"


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


def tensors(chapters: range) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return characters, capitals and marks of whole chapters, each as one long sequence."""
    text, is_capital, mark = strip(" ".join(read_paragraphs(chapters)))
    return torch.tensor(encode(text)), torch.tensor(is_capital).float(), torch.tensor(mark)


def train(model: Restorer, optimizer: torch.optim.Optimizer) -> None:
    data = tensors(TRAIN_CHAPTERS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(1, STEPS + 1):
        starts = torch.randint(len(data[0]) - WINDOW, (BATCH, 1))
        characters, is_capital, mark = (values[starts + torch.arange(WINDOW)] for values in data)
        capital_logits, mark_logits = model(characters)
        loss = nn.functional.binary_cross_entropy_with_logits(capital_logits, is_capital)
        loss = loss + nn.functional.cross_entropy(mark_logits.flatten(0, 1), mark.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            print(f"step {step}  loss {loss.item():.4f}", flush=True)


def f1(predicted: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the F1 score of the non-zero labels."""
    correct = ((predicted == expected) & (expected != 0)).sum()
    return (2 * correct / ((predicted != 0).sum() + (expected != 0).sum())).item()


@torch.no_grad()
def evaluate(model: Restorer) -> dict[str, float]:
    """Return the F1 scores of capitals and marks on the held-out chapter."""
    characters, is_capital, mark = tensors(TEST_CHAPTERS)
    capital_logits, mark_logits = model(characters[None])
    return {
        "capital_f1": f1((capital_logits[0] > 0).float(), is_capital),
        "mark_f1": f1(mark_logits[0].argmax(-1), mark),
    }


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation: the same checkpoint in every run
    model = Restorer()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(model, optimizer)
    scores = evaluate(model)
    print("  ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    state = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save({"step": STEPS, **state, "scores": scores}, CHECKPOINT)


if __name__ == "__main__":
    main()
