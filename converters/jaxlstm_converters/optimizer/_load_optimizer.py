"""Load a torch optimizer of a checkpoint as an optax optimizer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlstm._shared.imports import import_optional
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import check_params, param_shapes
from jaxlstm_converters.checkpoint import Checkpoint, read_checkpoint
from jaxlstm_converters.lstm._find_lstms import survey
from jaxlstm_converters.lstm.selected import choose_prefix
from jaxlstm_converters.optimizer.match import Place, Shape, find_places, model_shapes
from jaxlstm_converters.optimizer.rules import Rule, relevant, rule
from jaxlstm_converters.optimizer.state import (
    OptimizerState,
    RuleGroup,
    TorchOptimizer,
    fill,
    find_optimizers,
)


def load_optimizer(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: LSTMConfig,
    *,
    prefix: str | None = None,
    optimizer: str | None = None,
    names: Sequence[str] | None = None,
    decoupled_weight_decay: bool | None = None,
) -> OptimizerState:
    """Load the optimizer of one LSTM, to continue in JAX a training run that began in torch.

    A torch optimizer numbers its parameters. They are matched to the model's state dict in the same file by
    ``param_names`` if the optimizer has them (torch 2.6), and otherwise by order and shape. The match must be
    unique.

    Args:
      path: a checkpoint with the state dicts of a model and of its ``torch.optim`` Adam, AdamW, SGD or
        RMSprop, at any depth.
      params, config: the LSTM, from ``jaxlstm.load``. The moments are cast to the dtype of the parameters.
      prefix: the LSTM in the file, as for ``jaxlstm.load``.
      optimizer: the optimizer in the file: the keys that lead to it, such as ``"optimizer_states.0"``.
      names: names of the optimizer's parameters in the model, in the order of the optimizer, if the file
        does not record them: ``[name for name, _ in model.named_parameters()]``.
      decoupled_weight_decay: True for AdamW, False for Adam. Files from before torch 2.7 do not record it.

    Returns:
      An :class:`OptimizerState`: an optax transformation and its state, both for the dict ``params``.

    Raises:
      ValueError: no optimizer of the file trains the LSTM, several do, or it is not supported.
      CheckpointError: the file is damaged, unsafe or in an unknown format.
      ImportError: optax is not installed.
    """
    import_optional("optax", "optax")
    check_params(params, config)
    checkpoint = read_checkpoint(path)
    chosen = _lstm(checkpoint, config, prefix)
    optimizers = find_optimizers(checkpoint)
    model = model_shapes(checkpoint, optimizers)
    lstm = {name: chosen + name for name in param_shapes(config)}
    if folded := [full for full in lstm.values() if full not in model]:
        raise ValueError(f"{folded[0]!r} is computed from other tensors, so it has no moments")

    mapped: dict[str, OptimizerState] = {}
    problems = []
    for one in _named(optimizers, optimizer, checkpoint):
        try:
            rules = [rule(group.hyper, decoupled_weight_decay) for group in one.groups]
            homes = _homes(one, model, lstm, names, certain=bool(names or optimizer))
            mapped[one.root] = fill(_groups(one, rules, homes), params)
        except ValueError as error:
            problems.append(f"the optimizer at {one.label!r} {error}")
    if not mapped:
        raise ValueError("; ".join(problems))
    if len(mapped) > 1:
        listed = ", ".join(repr(root.rstrip(".")) for root in mapped)
        raise ValueError(f"optimizer must select one of the optimizers that match this LSTM: {listed}")
    return next(iter(mapped.values()))


def _lstm(checkpoint: Checkpoint, config: LSTMConfig, prefix: str | None) -> str:
    """Return the prefix of the selected LSTM, or of the only LSTM with this config."""
    expected = param_shapes(config)
    fits = {p: param_shapes(c) == expected for p, c in survey(checkpoint).lstms.items()}
    fitting = [p for p in fits if fits[p]]
    chosen = choose_prefix(fits if prefix or not fitting else fitting, prefix)
    if not fits[chosen]:
        raise ValueError(f"the LSTM at {chosen!r} does not have the shapes of {config}")
    return chosen


def _named(
    optimizers: list[TorchOptimizer], name: str | None, checkpoint: Checkpoint
) -> list[TorchOptimizer]:
    """Return the optimizers called ``name``, or all if it is None; raise if there is none."""
    selected = [one for one in optimizers if name is None or one.label == name.rstrip(".")]
    if not selected:
        listed = ", ".join(repr(one.label) for one in optimizers) or "none"
        raise ValueError(
            f"no optimizer{'' if name is None else f' at {name!r}'} with state and param_groups in "
            f"{checkpoint.path!r}; " + "; ".join([f"the optimizers are: {listed}", *checkpoint.warnings])
        )
    return selected


def _homes(
    optimizer: TorchOptimizer,
    model: Mapping[str, Shape],
    lstm: Mapping[str, str],
    names: Sequence[str] | None,
    *,
    certain: bool,
) -> dict[str, Place]:
    """Return the place of each of the LSTM's parameters in the optimizer."""
    hypers = [relevant(group.hyper) for group in optimizer.groups]
    if not optimizer.state and all(hyper == hypers[0] for hyper in hypers):
        return dict.fromkeys(lstm, (0, 0))  # without state, all places are equivalent
    stored = [name for group in optimizer.groups for name in group.names]
    found = find_places(optimizer, model, list(lstm.values()), names or stored or None, certain=certain)
    return {name: found[full] for name, full in lstm.items()}


def _groups(optimizer: TorchOptimizer, rules: Sequence[Rule], homes: Mapping[str, Place]) -> list[RuleGroup]:
    """Group the LSTM's parameters by their hyperparameters, whatever group they are in."""
    hypers = [relevant(group.hyper) for group in optimizer.groups]
    found: dict[int, RuleGroup] = {}
    for name, (g, k) in homes.items():
        first = hypers.index(hypers[g])
        same = found.setdefault(first, RuleGroup(rules[first], {}))
        same.moments[name] = optimizer.state.get(optimizer.groups[g].keys[k], {})
    return list(found.values())
