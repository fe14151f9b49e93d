"""Optimizers in a checkpoint, stored in the form of ``torch.optim.Optimizer.state_dict()``.

The form is ``{"state": {key: {field: tensor}}, "param_groups": [{"lr": ..., "params": [key, ...]}]}``. The
keys number the optimizer's parameters group by group; before torch 1.3 they were ``id()`` values. Since
torch 2.6 a group also has ``param_names`` if the optimizer was constructed from ``named_parameters()``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlstm_converters.checkpoint import Checkpoint

# Fields with the shape of their parameter. Adam, RMSprop and SGD each have one of the first three.
_MOMENTS = ("exp_avg", "square_avg", "momentum_buffer", "exp_avg_sq", "max_exp_avg_sq", "grad_avg")
_MOMENT = re.compile(rf"(^|\.)({'|'.join(_MOMENTS)})(\.|$)")
_STATE = re.compile(r"(^|\.)optim\w*\.|(^|\.)state\.\d+\.(step|sum|acc_delta)$")
_GROUP = re.compile(r"(?P<root>(?:.*\.)?)param_groups\.(?P<index>\d+)\.(?P<field>.+)", re.DOTALL)


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share hyperparameters.

    Attributes:
      hyper: name -> hyperparameter; ``betas`` is split into ``betas.0`` and ``betas.1``.
      keys: keys of the parameters in the optimizer's ``state``.
      names: names of the parameters in the model; empty if the file does not record them.
    """

    hyper: dict[str, Any]
    keys: list[str]
    names: list[str]


@dataclass(frozen=True)
class TorchOptimizer:
    """One optimizer of a checkpoint.

    Attributes:
      root: prefix of its names in the checkpoint, such as ``"optimizer_state_dict."``.
      groups: its parameter groups, in order.
      state: key -> field -> lazy tensor or number; a parameter that never had a gradient has no key.
    """

    root: str
    groups: list[ParamGroup]
    state: dict[str, dict[str, Any]]

    @property
    def label(self) -> str:
        """The root without its final dot, as users pass it."""
        return self.root.rstrip(".")

    @property
    def num_params(self) -> int:
        """Number of parameters in all groups."""
        return sum(len(group.keys) for group in self.groups)

    def shape(self, key: str) -> tuple[int, ...] | None:
        """Return the shape of a parameter's moments, or None if it has none."""
        fields = self.state.get(key, {})
        moment = next((fields[name] for name in _MOMENTS if name in fields), None)
        return None if moment is None else tuple(moment.shape)


def is_moment(name: str) -> bool:
    """Return True for a tensor that an optimizer stores under the name of a moment, "exp_avg.lstm.weight"."""
    return bool(_MOMENT.search(name))


def is_optimizer_state(name: str) -> bool:
    """Return True for a tensor in the state of an optimizer, such as "optimizer.state.0.exp_avg"."""
    return is_moment(name) or bool(_STATE.search(name))


def find_optimizers(checkpoint: Checkpoint) -> list[TorchOptimizer]:
    """Return every optimizer of a checkpoint, at any depth, in the order of the file."""
    values: dict[str, Any] = {**checkpoint.scalars, **checkpoint}
    fields: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for name, value in values.items():
        if match := _GROUP.fullmatch(name):
            fields[match["root"]][int(match["index"])][match["field"]] = value
    optimizers = [
        TorchOptimizer(
            root, [_param_group(groups[index]) for index in sorted(groups)], _state(values, f"{root}state.")
        )
        for root, groups in fields.items()
    ]
    return [optimizer for optimizer in optimizers if optimizer.num_params]


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
    """Return a hyperparameter as a Python value; ``lr`` may be a scalar tensor."""
    return np.asarray(value).item() if getattr(value, "shape", None) == () else value


def _state(values: Mapping[str, Any], start: str) -> dict[str, dict[str, Any]]:
    state: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in values.items():
        if name.startswith(start) and value is not None:
            key, _, field = name[len(start) :].rpartition(".")
            state[key][field] = value
    return dict(state)
