"""Weight normalization and weight drop are folded into the weights that torch runs with."""

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, parametrize, prune

from jaxlstm import LSTMConfig, find_lstms, from_torch
from jaxlstm_converters.lstm._find_lstms import survey
from jaxlstm_converters.lstm.fold import fold

pytestmark = pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")

NAMES = ("weight_hh_l0", "weight_ih_l1", "weight_hh_l0_reverse")


def old_weight_norm(module: torch.nn.Module, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated in favor of parametrizations
        torch.nn.utils.weight_norm(module, name)


# A reparametrization, the weights that have it, and their error: torch accumulates the norm in float32.
FOLDED: list[tuple[Callable[..., Any], tuple[str, ...], int]] = [
    (old_weight_norm, NAMES, 4),
    (parametrizations.weight_norm, NAMES, 4),
    (partial(prune.l1_unstructured, amount=0.5), NAMES, 0),
    (partial(prune.l1_unstructured, amount=0.5), ("weight_ih_l0", "weight_hh_l0"), 0),
]


@pytest.mark.parametrize(("reparametrize", "names", "maxulp"), FOLDED)
def test_a_weight_is_folded_as_torch_computes_it(
    reparametrize: Callable[..., Any], names: tuple[str, ...], maxulp: int
) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.LSTM(6, 8, 2, bidirectional=True))
    for name in names:
        reparametrize(model[0], name)
    with torch.no_grad():  # change length and direction, as training does
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    model(torch.randn(5, 3, 6))  # the hooks compute the weights
    params, config = from_torch(model)
    assert config == LSTMConfig(6, 8, 2, bidirectional=True)
    for name, ours in params.items():
        theirs = getattr(model[0], name).detach().numpy()
        np.testing.assert_array_max_ulp(np.asarray(ours), theirs, maxulp=maxulp if name in names else 0)
    notes = survey(model.state_dict()).notes
    assert sorted(note.partition(" = ")[0] for note in notes) == sorted(f"0.{name}" for name in names)


def test_parts_that_do_not_fit_are_not_folded() -> None:
    state_dict = dict(torch.nn.LSTM(6, 8).state_dict())
    length = {**state_dict, "weight_hh_l0_g": torch.ones(32, 1)}
    with pytest.raises(ValueError, match="weight_hh_l0_g needs a direction weight_hh_l0_v"):
        find_lstms(length)
    for direction, shape in (((16, 8), (32, 1)), ((32, 8), (32,))):
        length |= {"weight_hh_l0_v": torch.ones(direction), "weight_hh_l0_g": torch.ones(shape)}
        message = f"weight_hh_l0_g has shape {shape}, expected (), or the shape {direction}"
        with pytest.raises(ValueError, match=re.escape(message)):
            find_lstms(length)
    state_dict["weight_hh_l0_orig"] = state_dict.pop("weight_hh_l0")
    state_dict["weight_hh_l0_mask"] = torch.ones(8, 32)
    with pytest.raises(ValueError, match="missing weight_hh_l0"):
        find_lstms(state_dict)


class Doubled(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class Scaled(torch.nn.Module):
    """Two tensors with the shapes of a weight normalization."""

    def forward(self, scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return scale * weight

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(weight), 1), 3.0), weight


def normalized_and_doubled(lstm: Any, name: str) -> None:
    parametrizations.weight_norm(lstm, name)
    parametrize.register_parametrization(lstm, name, Doubled())


PARAMETRIZATIONS: dict[str, Callable[[Any, str], Any]] = {
    "spectral": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "scaled": lambda lstm, name: parametrize.register_parametrization(lstm, name, Scaled()),
    "normalized and doubled": normalized_and_doubled,
}


@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
def test_a_module_computes_its_parametrized_weights(kind: str) -> None:
    lstm: Any = torch.nn.LSTM(6, 8)
    PARAMETRIZATIONS[kind](lstm, "weight_hh_l0")
    before = {name: tensor.clone() for name, tensor in lstm.state_dict().items()}
    for model, prefix in ((lstm, ""), (torch.nn.Sequential(lstm), "0.")):
        params, config = from_torch(model, prefix=prefix)
        assert config == LSTMConfig(6, 8)
        assert all(torch.equal(before[name], tensor) for name, tensor in lstm.state_dict().items())
        lstm.eval()
        np.testing.assert_array_equal(params["weight_hh_l0"], lstm.weight_hh_l0.detach().numpy())
        lstm.train()


@pytest.mark.parametrize("names", [["weight_hh_l0"], ["weight_ih_l0", "weight_hh_l0"]])
def test_another_parametrization_is_an_error(names: list[str]) -> None:
    lstm = torch.nn.LSTM(6, 8, bias=False)
    for name in names:
        parametrizations.orthogonal(lstm, name)
    state_dict = {f"lstm.{name}": tensor for name, tensor in lstm.state_dict().items()}
    with pytest.raises(ValueError, match=rf"lstm.{names[-1]} has a parametrization other than weight norm"):
        from_torch(state_dict)


@pytest.mark.parametrize("wrapped", [True, False])
def test_weight_drop_is_the_raw_weight(wrapped: bool) -> None:
    """fastai stores the raw weight in the wrapper, the code of the paper in the wrapped module."""
    lstm = torch.nn.LSTM(6, 8)
    inner = {f"rnns.0.module.{name}": tensor for name, tensor in lstm.state_dict().items()}
    raw = inner.pop("rnns.0.module.weight_hh_l0")
    inner["rnns.0.weight_hh_l0_raw" if wrapped else "rnns.0.module.weight_hh_l0_raw"] = raw
    assert find_lstms(inner) == {"rnns.0.module.": LSTMConfig(6, 8)}
    params, _ = from_torch(inner)
    np.testing.assert_array_equal(params["weight_hh_l0"], raw.numpy())
    assert survey(inner).notes[0].startswith("rnns.0.module.weight_hh_l0 = ")


def test_similar_names_are_not_folded() -> None:
    others = {f"a.{name}": np.ones(1) for name in ("weight_hh_l0_v", "weight_raw", "x_g", "weight_g")}
    assert fold(others) == (others, [], {})
