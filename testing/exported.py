"""Models exported with torch, for tests of the `.pt2` reader."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jaxlstm_converters.write.torch_zip import zip_bytes

AUTO = torch.export.Dim.AUTO


class Tagger(nn.Module):
    """An LSTM with each kind of buffer and constant, a constant input and a nested result."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.lstm = nn.LSTM(4, 3, bidirectional=True, batch_first=True)
        self.out = nn.Linear(6, 5)
        self.register_buffer("scale", torch.randn(5))
        self.register_buffer("shift", torch.arange(5.0), persistent=False)
        self.constant = torch.full((5,), 2.0)

    def forward(self, tokens: torch.Tensor, factor: float | None = None) -> dict[str, Any]:
        y, (h, c) = self.lstm(self.embedding(tokens))
        logits = self.out(y) * self.scale + self.shift * self.constant
        return {"logits": logits * factor + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), "state": [h, (c,)]}


def with_example(path: Path, saved: bytes) -> None:
    """Replace the file of torch.save in a `.pt2` file that holds the example."""
    with zipfile.ZipFile(path) as old:
        entries = {name: saved if "/sample_inputs/" in name else old.read(name) for name in old.namelist()}
    path.write_bytes(zip_bytes(entries))


def save(path: Path, module: nn.Module, *args: Any, **options: Any) -> torch.export.ExportedProgram:
    """Export a module in evaluation mode to a file."""
    with warnings.catch_warnings():
        # About constants that are attributes and storages without a tensor that covers them.
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), args, **options)
        torch.export.save(program, path)
    return program
