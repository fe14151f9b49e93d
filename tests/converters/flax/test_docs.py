"""The snippets of docs/porting.md run, one after the other, in a folder with the examples."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import jaxlstm
from testing.pages import ROOT, run_page


def test_snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    blocks = [torch.nn.Linear(3, 3) for _ in range(4)]
    tensors = [block.state_dict(prefix=f"blocks.{k}.fc.") for k, block in enumerate(blocks)]
    torch.save({name: t for block in tensors for name, t in block.items()}, "blocks.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error", jaxlstm.PortingWarning)
        names = run_page("porting.md")
    assert len(names["result"].loaded) == 21
    assert names["result"].complete
    kernels = np.stack([block.weight.detach().T for block in blocks])
    np.testing.assert_array_equal(names["stacked"].fc.kernel[...], kernels)
    theirs = torch.load("examples/demo.pt", weights_only=True)["model_state_dict"]
    assert names["state_dict"].keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(names["state_dict"][name], tensor, err_msg=name)
    dense, linear = names["Dense"](), torch.nn.Linear(3, 4)
    jaxlstm.load_state_dict(dense, linear)
    np.testing.assert_array_equal(dense.kernel[...], linear.weight.detach().T)
