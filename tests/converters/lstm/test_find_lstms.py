"""LSTMs are found by the names and shapes of tensors, and selected by prefix."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from jaxlstm import LSTMCellConfig, LSTMConfig, find_lstms, param_shapes
from jaxlstm.layer.config import METADATA_KEY, saved_metadata
from jaxlstm_converters.layer_kinds import SETTINGS_KEY, settings_text
from jaxlstm_converters.lstm._find_lstms import group_by_prefix, layer_kind, recorded_settings, survey
from jaxlstm_converters.lstm.selected import choose_prefix

Shapes = dict[str, tuple[int, ...]]
PROJECTED = LSTMConfig(4, 5, num_layers=2, bidirectional=True, proj_size=3)
CONFIGS = [
    PROJECTED,
    LSTMConfig(4, 5),
    LSTMConfig(1, 1),
    LSTMConfig(7, 2, num_layers=12, bias=False),
    LSTMConfig(3, 8, proj_size=1),
    LSTMCellConfig(4, 5),
    LSTMCellConfig(2, 3, bias=False),
]


class StateDict(dict[str, Any]):
    """A state dict with the attributes of a checkpoint."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        super().__init__(tensors)
        self.hints: dict[str, dict[str, Any]] = {}
        self.metadata: dict[str, str] = {}


def state_dict(shapes: Shapes, prefix: str = "") -> StateDict:
    return StateDict({prefix + name: np.zeros(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_the_config_follows_from_the_shapes(config: LSTMConfig) -> None:
    """A missing tensor is reported."""
    assert find_lstms(state_dict(param_shapes(config), "a.b.")) == {"a.b.": config}
    for name in param_shapes(config):
        shapes = param_shapes(config)
        del shapes[name]
        found = survey(state_dict(shapes, "x."))
        assert not found.lstms
        assert f"x.{name}" in found.broken["x."] or name.startswith("weight_ih")
        with pytest.raises(ValueError, match=r"the LSTM at 'x\.'"):
            find_lstms(state_dict(shapes, "x."))


@pytest.mark.parametrize(("factor", "expected"), [(4, "LSTM"), (3, "GRU"), (1, "RNN"), (2, "")])
def test_the_number_of_rows_decides_the_kind(factor: int, expected: str) -> None:
    shapes: Shapes = {"weight_ih_l0": (factor * 7, 2), "weight_hh_l0": (factor * 7, 7)}
    assert layer_kind(shapes) == expected
    assert survey(state_dict(shapes, "m.")).others == ({"m.": expected} if expected in ("GRU", "RNN") else {})
    assert layer_kind({"weight_hh": (factor * 7, 7)}) == expected  # a cell without an input weight


@pytest.mark.parametrize("prefix", ["", "decoder.cell."])
@pytest.mark.parametrize(
    ("bias", "others"),
    [
        (True, {"weight_ci": (5,), "weight_cf": (5,), "weight_co": (5,)}),  # peepholes
        (True, {"weight_ch": (15,)}),
        (False, {"bias": (20,)}),  # one bias instead of two
        (False, {"layernorm_i.weight": (20,)}),  # as in PyTorch's benchmarks/fastrnns/custom_lstms.py
    ],
)
def test_other_kinds_of_lstm_cells_are_reported(prefix: str, bias: bool, others: Shapes) -> None:
    cell = param_shapes(LSTMCellConfig(4, 5, bias=bias))
    broken = survey(state_dict(cell | others, prefix)).broken[prefix]
    assert "; ".join(f"unexpected {prefix}{name} {shape}" for name, shape in others.items()) in broken
    assert broken.endswith("so this is another kind of layer")


def test_tensors_beside_an_lstm_are_not_part_of_it() -> None:
    cell, layer = LSTMCellConfig(4, 5), LSTMConfig(4, 5)
    beside: Shapes = {"h0": (1, 5), "fc.weight": (20, 5), "fc.bias": (20,), "a.norm.weight": (20,)}
    assert find_lstms(state_dict(param_shapes(cell) | beside)) == {"": cell}
    assert find_lstms(state_dict(param_shapes(layer) | beside | {"norm.weight": (20,)})) == {"": layer}
    assert survey(state_dict(param_shapes(layer) | {"weight_ch_l0": (5,)}, "m.")).broken.keys() == {"m."}


def test_whole_names_are_matched() -> None:
    shapes = param_shapes(LSTMConfig(4, 5))
    names = ("weight_ih_l00", "my_weight_ih_l0", "weight_ih_l0.scale", "weight_hh_l0_reversed", "weight")
    others: Shapes = dict.fromkeys(names, (1,))
    assert group_by_prefix(state_dict(shapes | others)) == {"": shapes}
    assert group_by_prefix(state_dict(shapes, "a\nb.")) == {"a\nb.": shapes}


def test_optimizer_moments_are_skipped() -> None:
    shapes = param_shapes(LSTMConfig(4, 5))
    for moment in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg"):
        for first in ("", "state."):
            assert group_by_prefix(state_dict(shapes, f"{first}{moment}.lstm.")) == {}
            module = f"{first}my_{moment}.lstm."
            assert list(group_by_prefix(state_dict(shapes, module))) == [module]


def test_hints_of_a_module_and_of_a_saved_file() -> None:
    shapes = param_shapes(LSTMConfig(4, 5, num_layers=2))
    hinted = state_dict(shapes, "a.")
    assert recorded_settings(hinted) == {}
    hinted.hints = {"a.": {"batch_first": True, "dropout": 0.5}}
    assert find_lstms(hinted)["a."] == LSTMConfig(4, 5, 2, batch_first=True, dropout=0.5)
    assert recorded_settings({}) == {}
    saved = state_dict(shapes, "a.")
    config = LSTMConfig(4, 5, 2, batch_first=True, dropout=0.25)
    saved.metadata = {METADATA_KEY: saved_metadata("a.", config)}
    assert recorded_settings(saved) == {"a.": {"batch_first": True, "dropout": 0.25}}
    assert find_lstms(saved)["a."] == config
    saved.metadata = {METADATA_KEY: saved_metadata("a.", LSTMCellConfig(4, 5))}
    assert recorded_settings(saved) == {}  # a cell has neither
    for path in ("a", ""):  # the weights of written source
        saved = state_dict(shapes, path and f"{path}.")
        saved.metadata = {SETTINGS_KEY: settings_text({path: {"batch_first": True}, "norm": {"eps": 0.5}})}
        assert [*find_lstms(saved).values()] == [LSTMConfig(4, 5, 2, batch_first=True)]
        assert recorded_settings(saved)["norm."] == {"eps": 0.5}
    saved.hints = {"a.": {"dropout": 0.5}}
    right = saved_metadata("a.", config, ["dropout"])
    wrong = {'"LSTM"': '"GRU"', '"dropout":': '"drop":', '["dropout"]': '["bias"]', '"config"': '"of"'}
    for text in ("of another program", "[" * 100_000, *(right.replace(*words) for words in wrong.items())):
        saved.metadata = {METADATA_KEY: text}
        assert recorded_settings(saved) == {"a.": {"dropout": 0.5}}
    saved.metadata = {METADATA_KEY: right}
    assert recorded_settings(saved) == {"a.": {"batch_first": True}}


def test_impossible_sizes_are_reported() -> None:
    """A projection must be smaller than the hidden size."""
    shapes: Shapes = {"weight_ih_l0": (20, 4), "weight_hh_l0": (20, 6), "weight_hr_l0": (6, 5)}
    found = survey(state_dict(shapes) | state_dict(param_shapes(LSTMConfig(2, 3)), "b."))
    assert "proj_size must be smaller than hidden_size" in found.broken[""]
    assert found.lstms == {"b.": LSTMConfig(2, 3)}


def test_the_prefix_of_one_of_several_lstms() -> None:
    """Without a prefix, the LSTM of the root is chosen. The errors are in ``test_conversion``."""
    assert choose_prefix(["a.", ""], "") == choose_prefix(["a.", ""], None) == ""
    with pytest.raises(ValueError, match=r"'lstm' matches more than one LSTM; .* 'a\.lstm\.', 'b\.lstm"):
        choose_prefix(["a.lstm.", "b.lstm."], "lstm", {"lstm.": "GRU"})
