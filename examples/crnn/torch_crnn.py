"""A text recogniser in PyTorch, whose weights are in ``crnn.pt``: it stands for the model that you have."""

import torch
from images import CLASSES
from torch import nn


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
