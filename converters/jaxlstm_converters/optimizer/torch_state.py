"""What a checkpoint holds of a torch optimizer: the dict that ``Optimizer.state_dict()`` gives.

It is ``{"state": {key: {field: tensor}}, "param_groups": [{"lr": ..., "params": [key, ...]}]}``. A key is a
number and no name: the optimizer's parameters in order, group after group (an ``id()`` before torch 1.3).
Since torch 2.6 a group has ``param_names`` too, if the optimizer was made of ``named_parameters()``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlstm_converters.checkpoint import Checkpoint

# What a moment is called that has its parameter's shape: Adam's, RMSprop's and SGD's.
_SHAPED = ("exp_avg", "square_avg", "momentum_buffer")
_GROUP = re.compile(r"(?P<root>(?:.*\.)?)param_groups\.(?P<index>\d+)\.(?P<field>.+)", re.DOTALL)


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share hyper-parameters.

    Attributes:
      hyper: name -> number; of ``betas`` the two are ``betas.0`` and ``betas.1``.
      keys: of the parameters in the optimizer's ``state``.
      names: of the parameters in the model; empty if the file does not tell.
    """

    hyper: dict[str, Any]
    keys: list[str]
    names: list[str]


@dataclass(frozen=True)
class TorchOptimizer:
    """One optimizer of a checkpoint.

    Attributes:
      root: what its names start with, such as ``"optimizer_state_dict."``.
      groups: its parameter groups, in order.
      state: key -> field -> tensor (read on demand) or number; a parameter that never had a gradient has
        no key.
    """

    root: str
    groups: list[ParamGroup]
    state: dict[str, dict[str, Any]]

    def shape(self, key: str) -> tuple[int, ...] | None:
        """The shape of a parameter, told by its moments; None if it has none."""
        fields = self.state.get(key, {})
        moment = next((fields[name] for name in _SHAPED if name in fields), None)
        return None if moment is None else tuple(moment.shape)


def find_optimizers(checkpoint: Checkpoint) -> list[TorchOptimizer]:
    """Every optimizer of a checkpoint, wherever it is nested, in the order of the file."""
    values: dict[str, Any] = {**checkpoint.scalars, **checkpoint}
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for name, value in values.items():
        if match := _GROUP.fullmatch(name):
            found[match["root"]][int(match["index"])][match["field"]] = value
    optimizers = [
        TorchOptimizer(
            root,
            [_param_group(groups[index]) for index in sorted(groups)],
            _state(values, f"{root}state."),
        )
        for root, groups in found.items()
    ]
    return [one for one in optimizers if any(group.keys for group in one.groups)]


def _param_group(fields: Mapping[str, Any]) -> ParamGroup:
    keys, names, hyper = [], [], {}
    for field, value in fields.items():
        if field.startswith("params."):
            keys.append(str(value))
        elif field.startswith("param_names."):
            names.append(str(value))
        else:
            hyper[field] = _number(value)
    return ParamGroup(hyper, keys, names)


def _number(value: Any) -> Any:
    """A hyper-parameter; ``lr=torch.tensor(1e-3)`` is one of them."""
    return np.asarray(value).item() if getattr(value, "shape", None) == () else value


def _state(values: Mapping[str, Any], start: str) -> dict[str, dict[str, Any]]:
    state: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in values.items():
        if name.startswith(start) and value is not None:
            key, _, field = name[len(start) :].rpartition(".")
            state[key][field] = value
    return dict(state)
