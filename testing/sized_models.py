"""Random models with conditions, broadcasts and squeezes on sizes."""

import re

import numpy as np
import torch
from torch import nn

CONDITIONS = """
n == 1; n != 1; n > 1 and m < 3; n < 2 or m == 3; not n; n % 2 == 0; m and n % m == 0; m != 0 and n // m == 1
n * m > 6; 1 < n < 4; n - m == 1; n != 3; n >= m
"""
NUMBERS = "n % 3; min(n, 2); max(n, m) - 1; n**0.5; n / (m + 1); n == 1; (n % 2 == 0) * m"
PARTS = """
self.linear(y); self.lstm(y)[0]; nn.functional.scaled_dot_product_attention(y, y, y); y[:1].expand_as(y) + y
y @ (y.transpose(1, 2) @ y); y - y.mean(0, keepdim=True); torch.cat([y, y[:1]]); y + y[:, -1:]
y[-2:] * 2; y[:, 1:] - y[:, :-1]; y * torch.ones(1, y.shape[1], 1); y.reshape(y.shape[1], y.shape[0], 4)
y.transpose(0, 1).contiguous(); y + torch.arange(y.shape[1])[:, None]
y[:, (m - n) // 2 :]; y[: n - m // 2] + 1; y[:, n - m : m - n // 2]
y * (2 if y.transpose(0, 1).is_contiguous() else 3)
"""
ENDS = """
y; y.squeeze(); y.squeeze(0); y.squeeze(1) + 1; y.sum(1); y.flatten(0, 1)
y.amax(2) * torch.tensor(y.shape[1])
"""


class Model(nn.Module):
    """Two to four random steps on a tensor (n, m, 4), and a random end; ``steps`` is their code."""

    def __init__(self, rng: np.random.Generator, parts: str = PARTS) -> None:
        super().__init__()
        self.linear, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)

        def one_of(texts: str) -> str:
            return str(rng.choice(re.split(r"; |\n", texts.strip())))

        self.steps = []
        for _ in range(rng.integers(2, 5)):
            branch, added = f"y * 2 if {one_of(CONDITIONS)} else y * 3 + 1", f"y + ({one_of(NUMBERS)})"
            step = [branch, added, one_of(parts), one_of(parts)][rng.integers(4)]
            places = rng.permutation(2).tolist()
            self.steps.append(f"(lambda n, m: {step})(y.shape[{places[0]}], y.shape[{places[1]}])")
        self.steps.append(one_of(ENDS))
        self.functions = [eval(f"lambda self, y: {step}", globals()) for step in self.steps]

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Run the steps."""
        for function in self.functions:
            y = function(self, y)
        return y
