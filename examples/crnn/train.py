"""Train the text recogniser in PyTorch, and write ``crnn.pt``. It stands for the model that you already have.

It takes about a minute on two cores, and does not use JAX::

    python examples/crnn/train.py [OUTPUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from images import CLASSES, accuracy, batch
from torch import nn

CHECKPOINT = Path(__file__).parent / "crnn.pt"
STEPS, BATCH = 700, 64


class CRNN(nn.Module):
    """Map images (B, 1, 16, W) to logits (B, W / 2, classes), as in Shi et al., 2015 (arXiv:1507.05717)."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d((2, 1)),
        )
        self.lstm = nn.LSTM(32 * 4, 40, batch_first=True, bidirectional=True)
        self.head = nn.Linear(80, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.cnn(images)  # (B, channels, height, width)
        columns = features.permute(0, 3, 1, 2).flatten(2)
        return self.head(self.lstm(columns)[0])


def train(model: CRNN, rng: np.random.Generator) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=STEPS)
    ctc = nn.CTCLoss()
    for step in range(1, STEPS + 1):
        images, labels, texts = batch(BATCH, rng)
        logits = model(torch.from_numpy(images))
        log_probs = logits.log_softmax(-1).transpose(0, 1)
        lengths = torch.full((BATCH,), logits.shape[1]), torch.tensor([len(text) for text in texts])
        loss = ctc(log_probs, torch.from_numpy(labels), *lengths)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}  loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def evaluate(model: CRNN, slant: float = 0.0) -> float:
    """Return the accuracy on 500 images that are not in the training data."""
    images, _, texts = batch(500, np.random.default_rng(1), slant)
    return accuracy(model.eval()(torch.from_numpy(images)).numpy(), texts)


def main() -> None:
    output = sys.argv[1] if len(sys.argv) > 1 else CHECKPOINT
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation: the same checkpoint in every run
    model = CRNN()
    train(model, np.random.default_rng(0))
    print(f"accuracy {evaluate(model):.3f}, on slanted text {evaluate(model, slant=0.5):.3f}")
    torch.save({"model_state_dict": model.state_dict(), "steps": STEPS}, output)


if __name__ == "__main__":
    main()
