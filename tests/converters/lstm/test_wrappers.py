"""LSTMs in wrapped models, and copies of a model in one file, are found under their own prefixes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jaxlstm import LSTMConfig, find_lstms, load, read_checkpoint

CONFIG = LSTMConfig(3, 5, num_layers=2, bidirectional=True)


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 5, 2, bidirectional=True)
        self.head = torch.nn.Linear(10, 2)


def test_copies_of_a_model(tmp_path: Path) -> None:
    """A compiled model, its moving average and a DataParallel model in one file."""
    model = Tagger()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update_parameters(model)  # the first update copies
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update_parameters(model)
    compiled = {f"_orig_mod.{n}": t for n, t in model.state_dict().items()}  # as torch.compile does
    everywhere = torch.nn.DataParallel(Tagger())
    optimizer = torch.optim.Adam(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    torch.save(
        {
            "epoch": 3,
            "model": compiled,
            "ema": {"shadow": average.state_dict()},
            "other": [everywhere.state_dict()],
            "optimizer": optimizer.state_dict(),
        },
        tmp_path / "m.pt",
    )
    found = find_lstms(read_checkpoint(tmp_path / "m.pt"))
    assert found == {
        "model._orig_mod.lstm.": CONFIG,
        "ema.shadow.module.lstm.": CONFIG,
        "other.0.module.lstm.": CONFIG,
    }
    expected = [model.lstm, average.module.lstm, everywhere.module.lstm]
    for prefix, lstm in zip(found, expected, strict=True):
        params, _ = load(tmp_path / "m.pt", prefix=prefix, batch_first=False, dropout=0.0)
        for name, parameter in lstm.named_parameters():
            np.testing.assert_array_equal(params[name], parameter.detach().numpy())
    with pytest.raises(ValueError, match=r"matches more than one LSTM.*'ema\.shadow\.module\.lstm\.'"):
        load(tmp_path / "m.pt", prefix="module.lstm")
