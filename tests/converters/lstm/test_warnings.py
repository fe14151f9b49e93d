"""Warnings about lookalikes of torch's LSTM, and about settings that a state dict does not record."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from flax import nnx
from torch.nn.utils import parametrizations

import jaxlstm
from jaxlstm import LSTMConfig, load
from jaxlstm.cli.inspect import describe
from testing.command import jaxlstm_command


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


CONFIG = LSTMConfig(3, 4, num_layers=2)
FILES = ("x.safetensors", "x.pt")
WARNING = (
    "jaxlstm convert: warning: m.pt does not record batch_first and dropout of the LSTM; assumed "
    "batch_first=False and dropout=0.0. Pass --batch-first or --no-batch-first and --dropout P\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.LSTM(3, 4, 2, batch_first=True).state_dict(), "m.pt")
    torch.save(torch.nn.LSTM(3, 4).state_dict(), "one.pt")
    torch.save(torch.nn.LSTMCell(3, 4).state_dict(), "cell.pt")
    torch.save(torch.nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5), "module.pt")
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("m.pt", {"batch_first": True}, r"record dropout of the LSTM; assumed dropout=0\.0\. Pass the val"),
        ("one.pt", {}, r"^one.pt does not record batch_first of the LSTM; assumed batch_first=False\. Pass"),
    ],
)
def test_load_warns(path: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.warns(jaxlstm.PortingWarning, match=message):
        load(path, **arguments)


@pytest.mark.usefixtures("folder")
def test_load_does_not_warn_of_known_settings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("m.pt", batch_first=False, dropout=0.0)
        load("one.pt", batch_first=False)
        load("cell.pt")
        assert load("module.pt")[1] == LSTMConfig(3, 4, 2, batch_first=True, dropout=0.5)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("output", FILES)
def test_a_converted_file_records_the_assumption(output: str) -> None:
    done = jaxlstm_command("convert", "m.pt", "-o", output)
    assert (done.status, done.err) == (0, WARNING)
    with pytest.warns(
        jaxlstm.PortingWarning, match="does not record batch_first and dropout of the LSTM; assumed"
    ):
        assert load(output)[1] == CONFIG
    (lstm,) = json.loads(jaxlstm_command("inspect", output, "--json").out)["lstms"]
    assert lstm["not_recorded"] == ["batch_first", "dropout"]
    assert (
        "not recorded: batch_first and dropout of (root); convert and export assume batch_first=False and "
        "dropout=0.0 unless" in jaxlstm_command("inspect", output).out
    )
    # A conversion of the converted file warns again, and an option settles the matter.
    done = jaxlstm_command("convert", output, "-o", f"again{output[1:]}", "--batch-first", "--dropout", 0)
    assert (done.status, done.err) == (0, "")
    assert load(f"again{output[1:]}")[1] == LSTMConfig(3, 4, 2, batch_first=True)


@pytest.mark.usefixtures("folder")
def test_export_warns_and_check_does_not() -> None:
    pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
    options = ["--platforms", "cpu", "--weights", "beside"]
    done = jaxlstm_command("export", "one.pt", "-o", "x.stablehlo", *options, "--json", status=0)
    assert "export: warning: one.pt does not record batch_first of the LSTM; assumed batch_" in done.err
    assert json.loads(done.out)["config"]["assumed"] == ["batch_first"]
    with pytest.warns(jaxlstm.PortingWarning, match="does not record batch_first"):
        load("x.safetensors")
    assert jaxlstm_command("export", "one.pt", "-o", "y.stablehlo", *options, "--no-batch-first").err == ""
    # The checker runs every LSTM time-major and without dropout.
    assert jaxlstm_command("check", "one.pt", "--dtype", "float32").err == ""
