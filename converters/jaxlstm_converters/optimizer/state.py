"""Optimizers in a checkpoint, and their moments in the state of an optax optimizer.

A checkpoint holds ``torch.optim.Optimizer.state_dict()``:
``{"state": {key: {field: tensor}}, "param_groups": [{"lr": ..., "params": [key, ...]}]}``. The keys number
the optimizer's parameters group by group; before torch 1.3 they were ``id()`` values. Since torch 2.6 a group
also has ``param_names`` if the optimizer was constructed from ``named_parameters()``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlstm_converters.checkpoint import Checkpoint
from jaxlstm_converters.optimizer.rules import Rule
from jaxlstm_converters.optimizer.trained import TrainedParameters

if TYPE_CHECKING:
    import optax

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
            # ``lr`` may be a scalar tensor.
            hyper[field] = np.asarray(value).item() if getattr(value, "shape", None) == () else value
    return ParamGroup(hyper, keys, names)


def _state(values: Mapping[str, Any], start: str) -> dict[str, dict[str, Any]]:
    state: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in values.items():
        if name.startswith(start) and value is not None:
            key, _, field = name[len(start) :].rpartition(".")
            state[key][field] = value
    return dict(state)


Moments = dict[str, Any]
"""State of one parameter: torch's field name ("exp_avg", "step", ...) -> tensor or number."""

# torch keeps these fields, unused, after the hyperparameter that needs them was switched off.
_UNUSED = ("momentum_buffer", "max_exp_avg_sq", "grad_avg")
_MAX_COUNT = 2**31 - 1  # optax counts steps in int32


class RuleGroup(NamedTuple):
    """Parameters with the same rule: name -> moments, {} before the first step."""

    rule: Rule
    moments: dict[str, Moments]


class OptimizerState(NamedTuple):
    """An optax optimizer; ``transform.update(grads, state, params)`` is torch's next step.

    Attributes:
      transform: the optimizer, with the hyperparameters at the time of saving.
      state: its state, with torch's moments.
      groups: the parameter groups of the torch optimizer, with ``param_names``, for ``save_optimizer``.
    """

    transform: optax.GradientTransformation
    state: Any
    groups: tuple[dict[str, Any], ...] = ()

    def __repr__(self) -> str:
        import jax

        sizes = [leaf.size for leaf in jax.tree.leaves(self.state) if hasattr(leaf, "size")]
        rates = ", ".join(dict.fromkeys(f"{group.get('lr')}" for group in self.groups))
        state = f"{len(sizes)} arrays of {sum(sizes):,} numbers"
        return f"OptimizerState(state of {state}, {len(self.groups)} groups, learning rate {rates})"


def model_moments(trained: TrainedParameters, stored: Mapping[str, Moments]) -> dict[str, Moments]:
    """Return path of a parameter -> moments in its layout, given the moments of each name in torch."""
    moments = {path: dict(stored[name]) for path, name in trained.names.items()}
    for row in trained.rows:
        for field in stored[row.torch].keys() & _MOMENTS:
            array = np.asarray(stored[row.torch][field])
            if array.shape != row.torch_shape:
                raise ValueError(
                    f"has a moment of {row.torch} with shape {array.shape}, expected {row.torch_shape}"
                )
            for path, part in zip(row.paths, row.to_model((array,)), strict=True):
                moments[path][field] = part
    return moments


def written_groups(
    optimizer: TorchOptimizer, homes: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, Any], ...]:
    """Return the parameter groups with the names of their parameters, "" where they are unknown."""
    groups: list[dict[str, Any]] = []
    for group in optimizer.groups:
        hyper: dict[str, Any] = {}
        for name, value in group.hyper.items():
            stem, _, place = name.rpartition(".")
            if place.isdigit():
                hyper[stem] = (*hyper.get(stem, ()), value)
            else:
                hyper[name] = value
        groups.append({**hyper, "param_names": group.names or [""] * len(group.keys)})
    if len(set(homes.values())) == len(homes):
        for name, (g, k) in homes.items():
            groups[g]["param_names"][k] = name
    return tuple(groups)


def fill(
    groups: list[RuleGroup], trained: TrainedParameters, written: tuple[dict[str, Any], ...] = ()
) -> OptimizerState:
    """Return one optimizer for all parameters, an ``optax.multi_transform`` if their rules differ."""
    import optax

    params = trained.tree(trained.params)
    if len(groups) == 1:
        transform = groups[0].rule.transform
        state: Any = _set(transform.init(params), groups[0], trained)
        return OptimizerState(transform, state, written)
    labels = trained.tree({name: index for index, group in enumerate(groups) for name in group.moments})
    transform = optax.multi_transform(
        {index: group.rule.transform for index, group in enumerate(groups)}, labels
    )
    state = transform.init(params)
    inner = {index: _set(state.inner_states[index], group, trained) for index, group in enumerate(groups)}
    return OptimizerState(transform, state._replace(inner_states=inner), written)


def _set(state: Any, group: RuleGroup, trained: TrainedParameters) -> Any:
    """Return the optax state with the moments of a group, and the parameters of other groups masked."""
    import jax.numpy as jnp
    import optax

    for name, moments in group.moments.items():
        _check(name, moments, group.rule)
    fields: dict[str, Any] = {
        ours: trained.tree(
            {
                name: _array(group.moments[name], theirs, param)
                if name in group.moments
                else optax.MaskedNode()
                for name, param in trained.params.items()
            }
        )
        for ours, theirs in group.rule.moments.items()
    }
    if group.rule.counted:
        fields["count"] = jnp.asarray(_count(group), jnp.int32)
    return optax.tree_utils.tree_set(state, **fields) if fields else state


def _check(name: str, moments: Moments, rule: Rule) -> None:
    """Raise unless a parameter has all fields, or none because it never had a gradient."""
    expected = {*rule.moments.values(), *(["step"] if rule.counted else [])}
    if missing := expected - moments.keys() if moments.keys() & expected else set():
        raise ValueError(f"has no {', '.join(sorted(missing))} of {name}")
    if extra := moments.keys() - expected - {"step", *_UNUSED}:
        raise ValueError(f"has {', '.join(sorted(extra))} of {name}, which torch.optim does not have")
    if rule.first_differs and not moments:
        raise ValueError(
            f"has dampening but no momentum_buffer of {name}: torch does not dampen the first step, "
            "which optax cannot express; take one step in torch before saving"
        )


def _array(moments: Moments, field: str, param: Any) -> Any:
    """Return a moment in the parameter's dtype, zeros before the first step."""
    import jax.numpy as jnp

    if field not in moments:
        return jnp.zeros_like(param)
    return jnp.asarray(np.asarray(moments[field]).astype(param.dtype))


def _count(group: RuleGroup) -> int:
    """Return the number of steps, of which optax has one for all parameters."""
    steps = {
        name: np.asarray(moments["step"]).item() if moments else 0 for name, moments in group.moments.items()
    }
    if len(set(steps.values())) > 1:
        counts = ", ".join(f"{name} {count:g}" for name, count in steps.items())
        raise ValueError(f"has different step counts, which optax cannot express: {counts}")
    count = next(iter(steps.values()))
    if not (count == int(count) and 0 <= count <= _MAX_COUNT):
        raise ValueError(f"has a step count of {count}, expected a whole number below 2**31")
    return int(count)
