"""The snippets of docs/porting.md run, on files that torch wrote."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jaxlstm

PAGE = Path(__file__).parents[3] / "docs" / "porting.md"


def test_snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crnn = torch.nn.ModuleDict(
        {
            "cnn": torch.nn.Sequential(torch.nn.Conv2d(1, 32, 3), torch.nn.BatchNorm2d(32)),
            "lstm": torch.nn.LSTM(512, 64, bidirectional=True),
            "fc": torch.nn.Linear(128, 37),
        }
    )
    tagger = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(100, 16), "lstm": torch.nn.LSTM(16, 32), "fc": torch.nn.Linear(32, 5)}
    )
    blocks = torch.nn.ModuleList([torch.nn.ModuleDict({"fc": torch.nn.Linear(3, 3)}) for _ in range(4)])
    torch.save(torch.nn.ModuleDict({"blocks": blocks}).state_dict(), tmp_path / "blocks.pt")
    torch.save(crnn.state_dict(), tmp_path / "crnn.pt")
    torch.save(tagger.state_dict(), tmp_path / "tagger.pt")
    monkeypatch.chdir(tmp_path)
    first, second, third, fourth = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scope: dict[str, Any] = {"__name__": "porting"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", jaxlstm.PortingWarning)
        exec(first, scope)
        crnn.load_state_dict(scope["state_dict"])
        exec(second, scope)
        dense, linear = scope["Dense"](), torch.nn.Linear(3, 4)
        jaxlstm.load_state_dict(dense, linear)
        np.testing.assert_array_equal(dense.kernel[...], linear.weight.detach().T)
        scope["jax"] = jax
        exec(third, scope)
        kernels = np.stack([block["fc"].weight.detach().T for block in blocks])  # type: ignore[index]
        np.testing.assert_array_equal(scope["stacked"].fc.kernel[...], kernels)
        exec(fourth, scope)
        tagger.load_state_dict(scope["state_dict"])
