"""Names of layers in torch and in Flax, wrappers, and parts of checkpoints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from jaxlstm_converters.flax.names import Names
from testing.flax_models import NAMES, assert_equal, flax_model, torch_model

pytestmark = pytest.mark.filterwarnings("ignore::jaxlstm.PortingWarning")


@pytest.mark.parametrize(
    "names",
    [
        {"cnn[0].": "conv0.", "cnn[1]": "bn0", "blocks": "layers"},
        {**NAMES, "blocks.0": "layers[0]", "blocks.1": "layers[1]", "heads.tag": "heads['tag']"},
        {"cnn.0": "conv0", "cnn.1": "bn0", "blocks": "layers", "mlp": "mlp.layers"},
        {**NAMES, "cnn.0.weight": "conv0.weight", "weight": "weight"},
    ],
)
def test_spellings_of_names(names: dict[str, str]) -> None:
    model, theirs = flax_model(), torch_model()
    jaxlstm.load_state_dict(model, theirs, names=names)
    assert_equal(model, theirs, names)


def test_swapped_names() -> None:
    model = nnx.Dict({"a": nnx.Param(jnp.zeros(1)), "b": nnx.Param(jnp.zeros(1))})
    source = {"a": np.ones(1, "f"), "b": np.full(1, 2, "f")}
    jaxlstm.load_state_dict(model, source, names={"a": "b", "b": "a"})
    assert model["a"][...] == 2
    assert jaxlstm.state_dict(model, names={"a": "b", "b": "a"}) == source


def _nested(state_dict: dict[str, Any]) -> dict[str, Any]:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 3, "model_state_dict": state_dict, "optimizer_state_dict": optimizer}


WRAPPERS = {
    "data parallel": lambda model: torch.nn.DataParallel(model).state_dict(),
    # torch.compile is slow to import.
    "compiled": lambda model: {f"_orig_mod.{k}": v for k, v in model.state_dict().items()},
    "nested": lambda model: _nested(model.state_dict()),
    "nested, data parallel": lambda model: _nested(torch.nn.DataParallel(model).state_dict()),
    "Lightning": lambda model: {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}},
}


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper: str, in_file: bool, tmp_path: Path) -> None:
    model, theirs = flax_model(), torch_model()
    source = WRAPPERS[wrapper](theirs)
    if in_file:
        torch.save(source, tmp_path / "model.pt")
        source = tmp_path / "model.pt"
    result = jaxlstm.load_state_dict(model, source, names=NAMES)
    assert_equal(model, theirs)
    ignored = [note for note in result.notes if "ignored" in note]
    assert len(ignored) == ("nested" in wrapper)
    assert all("optimizer_state_dict" in note for note in ignored)


@pytest.mark.parametrize("other", ["net", "net.module"])
def test_two_models_in_one_checkpoint(other: str) -> None:
    model = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
    both = {"model.weight": np.ones((2, 2), "f"), f"{other}.weight": np.zeros((2, 2), "f")}
    with pytest.raises(ValueError, match="below 'net' and below 'model'"):
        jaxlstm.load_state_dict(model, both)
    jaxlstm.load_state_dict(model, both, names={"model": ""})
    assert (model.kernel[...] == 1).all()


@pytest.mark.parametrize("key", ["model", "net", "state_dict.model"])
@pytest.mark.parametrize("in_file", [False, True])
def test_another_part_beside_a_usual_attribute(key: str, in_file: bool, tmp_path: Path) -> None:
    """A torch module with the parts "model" and "head", of which the Flax model has only the first."""
    theirs = torch.nn.Linear(2, 2)
    outer = f"{key}.".removesuffix("model.").removesuffix("net.")
    source: Any = {f"{key}.{name}": array for name, array in theirs.state_dict().items()}
    source |= {f"{outer}head.weight": torch.ones(4, 2), "optimizer.state.0.exp_avg": torch.ones(2, 2)}
    if in_file:
        torch.save(source, tmp_path / "model.pt")
        source = tmp_path / "model.pt"
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    with pytest.raises(jaxlstm.StateDictError, match=re.escape(f"names={{{key!r}: ''}}")) as caught:
        jaxlstm.load_state_dict(model, source)
    assert [one.torch for one in caught.value.unexpected] == [f"{outer}head.weight"]
    result = jaxlstm.load_state_dict(model, source, strict=False)
    assert [one.torch for one in result.unexpected] == [f"{outer}head.weight"]
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    assert jaxlstm.load_state_dict(model, source, names={key: ""}).complete
    assert_equal(model, theirs, {})


@pytest.mark.parametrize(
    "other",
    ["optimizer", "lr_scheduler", "scaler", "rng_state", "ema", "model_ema", "criterion", "best_loss"],
)
def test_training_state_beside_the_model(other: str) -> None:
    model = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
    source = {"model": {"weight": np.ones((2, 2), "f")}, other: {"x": np.ones(1, "f")}}
    (note,) = jaxlstm.load_state_dict(model, source).notes
    assert note == f"1 tensors outside 'model' are ignored: {other}"


def test_a_part_wrapped_alone() -> None:
    """torch.compile and DataParallel of a submodule add a component in the middle of the names."""
    model, theirs = flax_model(), torch_model()
    parts: Any = theirs
    plain = torch_model()
    plain.load_state_dict(theirs.state_dict())
    parts.cnn = torch.nn.DataParallel(parts.cnn)
    source = {k.replace("mlp.0", "mlp.0._orig_mod"): v for k, v in parts.state_dict().items()}
    result = jaxlstm.load_state_dict(model, source, names=NAMES)
    assert ("cnn.module.0.weight", "conv0.kernel") in result.loaded
    assert_equal(model, plain)


def test_part_of_a_checkpoint() -> None:
    theirs = torch.nn.ModuleDict({"encoder": torch_model(), "decoder": torch.nn.Linear(2, 2)})
    names = {"encoder": "", **{f"encoder.{torch}": flax for torch, flax in NAMES.items()}}
    model = flax_model()
    with pytest.raises(
        jaxlstm.StateDictError, match=r"below 'encoder' in the source: pass names=\{'encoder': ''\}"
    ):
        jaxlstm.load_state_dict(model, theirs, names=None)
    result = jaxlstm.load_state_dict(model, theirs, names=names)
    assert result.notes == ("2 tensors outside 'encoder' are ignored: decoder",)
    assert_equal(model, theirs["encoder"])  # pyright: ignore[reportArgumentType]


def test_the_longest_prefix_decides() -> None:
    names = Names({"a": "x", "a.b": "y"})
    assert names.to_torch("x.weight") == ["a.weight"]
    # a.b.weight belongs to y, and a.weight to x.
    assert names.to_torch("x.b.weight") == names.to_torch("a.weight") == []
