"""Load a torch optimizer of a checkpoint as an optax optimizer."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlstm._shared.imports import import_optional
from jaxlstm.layer.config import LSTMConfig, require_config
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
    model_moments,
    written_groups,
)
from jaxlstm_converters.optimizer.trained import TrainedParameters, parameters_of_lstm


def load_optimizer(
    path: str | os.PathLike[str],
    model: Any,
    config: LSTMConfig | None = None,
    *,
    prefix: str | None = None,
    optimizer: str | None = None,
    names: Mapping[str, str] | Sequence[str] | None = None,
    order: Sequence[str] | None = None,
    decoupled_weight_decay: bool | None = None,
) -> OptimizerState:
    """Load the optimizer of a model, to continue in JAX a training run that began in torch.

    A torch optimizer numbers its parameters. They are matched to the model's state dict in the same file by
    ``param_names`` if the optimizer has them (torch 2.6), and otherwise by order and shape. The match must be
    unique.

    >>> optimizer = jaxlstm.load_optimizer("checkpoint.pt", model, names={"cnn.0": "conv0"})  # doctest: +SKIP

    Args:
      path: a checkpoint with the state dicts of a model and of its ``torch.optim`` Adam, AdamW, SGD or
        RMSprop, at any depth.
      model: a Flax NNX model, whose parameters are its ``nnx.Param``; a :class:`jaxlstm.Program`; or the
        parameters of one LSTM, from ``jaxlstm.load``. Moments are cast to the dtype of the parameters.
      config: the LSTM, if ``model`` holds the parameters of one.
      prefix: the LSTM in the file, as for ``jaxlstm.load``.
      optimizer: the optimizer in the file: the keys that lead to it, such as ``"optimizer_states.0"``.
      names: torch prefix -> prefix in the model, as for ``jaxlstm.load_state_dict``. A list is ``order``.
      order: names of the optimizer's parameters in the torch model, in the order of the optimizer, if the
        file does not record them: ``[name for name, _ in model.named_parameters()]``.
      decoupled_weight_decay: True for AdamW, False for Adam. Files from before torch 2.7 do not record it.

    Returns:
      An :class:`OptimizerState`: an optax transformation and its state, for the pytree
      ``nnx.state(model, nnx.Param)`` of an NNX model, ``program.params``, or the dict of an LSTM.

    Raises:
      ValueError: no optimizer of the file trains all parameters of the model, several do, or it is not
        supported.
      CheckpointError: the file is damaged, unsafe or in an unknown format.
      ImportError: optax is not installed.
    """
    import_optional("optax", "optax")
    if names is not None and not isinstance(names, Mapping):
        names, order = None, names
    trained, checkpoint = _trained(path, model, config, prefix, names)
    optimizers = find_optimizers(checkpoint)
    shapes = model_shapes(checkpoint, optimizers)
    if folded := [name for name in trained.originals.values() if name not in shapes]:
        raise ValueError(f"{folded[0]!r} is computed from other tensors, so it has no moments")

    mapped: dict[str, OptimizerState] = {}
    problems = []
    for opt in _named(optimizers, optimizer, checkpoint):
        try:
            rules = [rule(group.hyper, decoupled_weight_decay) for group in opt.groups]
            homes = _homes(opt, shapes, trained.originals, order, certain=bool(order or optimizer))
            mapped[opt.root] = fill(_groups(opt, rules, homes, trained), trained, written_groups(opt, homes))
        except ValueError as error:
            problems.append(f"the optimizer at {opt.label!r} {error}")
    if not mapped:
        raise ValueError("; ".join(problems))
    if len(mapped) > 1:
        listed = ", ".join(repr(root.rstrip(".")) for root in mapped)
        raise ValueError(f"optimizer must select one of the optimizers that match this model: {listed}")
    ((root, state),) = mapped.items()
    if any(group.get("lr") == 0 for group in state.groups):
        warnings.warn(
            f"the optimizer at {root.rstrip('.')!r} has the learning rate 0.0, as at the end of a schedule: "
            "its updates are zero. To train on, use its state with an optax transformation of another rate",
            UserWarning,
            stacklevel=2,
        )
    return state


def _trained(
    path: str | os.PathLike[str],
    model: Any,
    config: LSTMConfig | None,
    prefix: str | None,
    names: Mapping[str, str] | None,
) -> tuple[TrainedParameters, Checkpoint]:
    """Return the parameters of a model and the checkpoint that holds their tensors."""
    if isinstance(model, Mapping):
        config = require_config(config)
        check_params(model, config)
        checkpoint = read_checkpoint(path)
        return parameters_of_lstm(model, _lstm(checkpoint, config, prefix)), checkpoint
    # Imported here because it imports flax.
    from jaxlstm_converters.flax.trained import trained_parameters

    checkpoint = read_checkpoint(path)
    return trained_parameters(model, names, checkpoint), checkpoint


def _lstm(checkpoint: Checkpoint, config: LSTMConfig, prefix: str | None) -> str:
    """Return the prefix of the selected LSTM, or of the only LSTM with this config."""
    expected = param_shapes(config)
    fits = {p: param_shapes(c) == expected for p, c in survey(checkpoint).lstms.items()}
    fitting = [p for p in fits if fits[p]]
    selected = choose_prefix(fits if prefix or not fitting else fitting, prefix)
    if not fits[selected]:
        raise ValueError(f"the LSTM at {selected!r} does not have the shapes of {config}")
    return selected


def _named(
    optimizers: list[TorchOptimizer], name: str | None, checkpoint: Checkpoint
) -> list[TorchOptimizer]:
    """Return the optimizers called ``name``, or all if it is None; raise if there is none."""
    selected = [opt for opt in optimizers if name is None or opt.label == name.rstrip(".")]
    if not selected:
        listed = ", ".join(repr(opt.label) for opt in optimizers) or "none"
        raise ValueError(
            f"no optimizer{'' if name is None else f' at {name!r}'} with state and param_groups in "
            f"{checkpoint.path!r}; " + "; ".join([f"the optimizers are: {listed}", *checkpoint.warnings])
        )
    return selected


def _homes(
    optimizer: TorchOptimizer,
    shapes: Mapping[str, Shape],
    originals: Mapping[str, str],
    order: Sequence[str] | None,
    *,
    certain: bool,
) -> dict[str, Place]:
    """Return the place of each of the model's tensors in the optimizer."""
    hypers = [relevant(group.hyper) for group in optimizer.groups]
    if not optimizer.state and all(hyper == hypers[0] for hyper in hypers):
        return dict.fromkeys(originals, (0, 0))  # without state, all places are equivalent
    stored = [name for group in optimizer.groups for name in group.names]
    full_names = list(originals.values())
    places = find_places(optimizer, shapes, full_names, order or stored or None, certain=certain)
    return {name: places[original] for name, original in originals.items()}


def _groups(
    optimizer: TorchOptimizer, rules: Sequence[Rule], homes: Mapping[str, Place], trained: TrainedParameters
) -> list[RuleGroup]:
    """Group the parameters by their hyperparameters, whatever group they are in."""
    hypers = [relevant(group.hyper) for group in optimizer.groups]
    stored = {name: optimizer.state.get(optimizer.groups[g].keys[k], {}) for name, (g, k) in homes.items()}
    moments = model_moments(trained, stored)
    groups: dict[int, RuleGroup] = {}
    for path, name in trained.names.items():
        first = hypers.index(hypers[homes[name][0]])
        groups.setdefault(first, RuleGroup(rules[first], {})).moments[path] = moments[path]
    return list(groups.values())
