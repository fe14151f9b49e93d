"""Modules of other classes with the parameter names of torch's LSTM."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from flax import nnx
from torch.nn.utils import parametrizations

import jaxlstm
from jaxlstm.cli.inspect import describe


class ForgetFirst(torch.nn.Module):
    """An LSTM of one layer with the gates in the order f, i, o, g."""

    def __init__(self, suffix: str = "_l0") -> None:
        super().__init__()
        for name, shape in (("weight_ih", (20, 3)), ("weight_hh", (20, 5)), ("bias_ih", 20), ("bias_hh", 20)):
            self.register_parameter(name + suffix, torch.nn.Parameter(torch.randn(shape)))


class Subclass(torch.nn.LSTM):
    pass


def outer(part: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.ModuleDict({"rnn": part, "other": torch.nn.Linear(2, 2)})


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("suffix", ["_l0", ""])
def test_another_class_is_named(nested: bool, suffix: str) -> None:
    module = ForgetFirst(suffix)
    with pytest.warns(jaxlstm.PortingWarning, match=r"is a .*\.ForgetFirst; its parameters") as caught:
        jaxlstm.from_torch(outer(module) if nested else module)
    assert caught[0].filename == __file__


BOTH = torch.nn.ModuleDict({"a": ForgetFirst(), "b": torch.nn.LSTM(3, 5)})


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (lambda: torch.nn.LSTM(3, 5), ""),
        (lambda: torch.nn.LSTMCell(3, 5), ""),
        (lambda: Subclass(3, 5), ""),
        (lambda: outer(torch.nn.LSTM(3, 5)), ""),
        (lambda: torch.nn.DataParallel(torch.nn.LSTM(3, 5)), ""),
        (lambda: torch.jit.script(torch.nn.LSTM(3, 5)), ""),
        (lambda: parametrizations.weight_norm(torch.nn.LSTM(3, 5), "weight_hh_l0"), ""),
        (lambda: ForgetFirst().state_dict(), ""),
        (lambda: BOTH, "b"),  # Only the chosen module counts.
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_no_warning(make: Any, prefix: str) -> None:
    module = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error", jaxlstm.PortingWarning)
        jaxlstm.from_torch(module, prefix=prefix)


class DerivedCell(torch.nn.LSTMCell):
    pass


@pytest.mark.parametrize("prefix", ["", "rnn"])
def test_the_class_in_a_file_of_a_module(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    torch.save(outer(ForgetFirst()) if prefix else ForgetFirst(), path)
    expected = r"is a tests\..*\.ForgetFirst; its parameters"
    with pytest.warns(jaxlstm.PortingWarning, match=expected) as caught:
        jaxlstm.load(path, batch_first=False)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(jaxlstm.PortingWarning, match=expected):
        jaxlstm.from_torch(jaxlstm.read_checkpoint(path))
    with pytest.warns(jaxlstm.PortingWarning, match=expected):
        jaxlstm.inference.BatchPredictor(path)({"inputs": []})
    (warning,) = describe(str(path))["warnings"]
    name = "rnn." if prefix else "(root)"
    assert re.match(f"{re.escape(name)}: the torch module {expected}", warning)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (torch.nn.LSTM(3, 5), False),
        (torch.nn.LSTMCell(3, 5), False),
        (Subclass(3, 5), False),
        (torch.nn.DataParallel(torch.nn.LSTM(3, 5)), False),
        (DerivedCell(3, 5), True),  # a file does not tell a derived cell from a foreign one
        (torch.nn.GRU(3, 5), False),
    ],
)
def test_classes_in_files(module: torch.nn.Module, named: bool, tmp_path: Path) -> None:
    torch.save(module, tmp_path / "module.pt")
    hints = jaxlstm.read_checkpoint(tmp_path / "module.pt").hints
    assert any("lookalike" in hint for hint in hints.values()) is named


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("right", [False, True])
def test_a_whole_model(right: bool, from_file: bool, tmp_path: Path) -> None:
    model = nnx.Dict({"rnn": jaxlstm.nnx.LSTM(3, 5, batch_first=True, rngs=nnx.Rngs(0))})
    theirs = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 5, batch_first=True) if right else ForgetFirst()})
    torch.save(theirs, tmp_path / "module.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxlstm.PortingWarning)
        result = jaxlstm.load_state_dict(model, tmp_path / "module.pt" if from_file else theirs)
    named = [line for line in result.warnings if line.startswith("rnn: ") and ".ForgetFirst; its" in line]
    assert len(named) == (not right)
