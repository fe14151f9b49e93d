"""Fill the state of an optax optimizer with the moments of a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlstm_converters.optimizer.rules import Rule

if TYPE_CHECKING:
    import optax

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
    """

    transform: optax.GradientTransformation
    state: Any


def fill(groups: list[RuleGroup], params: Mapping[str, Any]) -> OptimizerState:
    """Return one optimizer for all parameters, an ``optax.multi_transform`` if their rules differ.

    Raises:
      ValueError: moments are missing, unexpected or misshapen, or step counts differ.
    """
    import optax

    params = dict(params)
    if len(groups) == 1:
        transform = groups[0].rule.transform
        state = transform.init(params)
        return OptimizerState(transform, _set(state, _fields(groups[0], params)))
    labels = {name: index for index, group in enumerate(groups) for name in group.moments}
    transform = optax.multi_transform(
        {index: group.rule.transform for index, group in enumerate(groups)}, labels
    )
    state: Any = transform.init(params)
    inner = {i: _set(state.inner_states[i], _fields(group, params)) for i, group in enumerate(groups)}
    return OptimizerState(transform, state._replace(inner_states=inner))


def _set(state: Any, fields: dict[str, Any]) -> Any:
    import optax

    return optax.tree_utils.tree_set(state, **fields) if fields else state


def _fields(group: RuleGroup, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the optax state, with the parameters of other groups masked."""
    import jax.numpy as jnp
    import optax

    for name, moments in group.moments.items():
        _check(name, moments, group.rule)
    fields: dict[str, Any] = {
        ours: {
            name: _array(group.moments[name], theirs, name, params[name])
            if name in group.moments
            else optax.MaskedNode()
            for name in params
        }
        for ours, theirs in group.rule.moments.items()
    }
    if group.rule.counted:
        fields["count"] = jnp.asarray(_count(group), jnp.int32)
    return fields


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


def _array(moments: Moments, field: str, name: str, param: Any) -> Any:
    """Return a moment in the parameter's dtype, zeros before the first step."""
    import jax.numpy as jnp

    if field not in moments:
        return jnp.zeros_like(param)
    moment = np.asarray(moments[field])
    if moment.shape != np.shape(param):
        raise ValueError(f"has {field} of {name} with shape {moment.shape}, expected {np.shape(param)}")
    return jnp.asarray(moment.astype(param.dtype))


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
