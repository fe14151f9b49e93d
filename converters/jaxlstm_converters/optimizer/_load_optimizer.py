"""A torch optimizer of a checkpoint, as the optax optimizer of the LSTM in the same checkpoint."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlstm.config import LSTMConfig
from jaxlstm.params import check_params, param_shapes
from jaxlstm_converters.checkpoint import Checkpoint, read_checkpoint
from jaxlstm_converters.lstm._find_lstms import survey
from jaxlstm_converters.lstm.select import choose_prefix
from jaxlstm_converters.optimizer.layout import locate, model_shapes
from jaxlstm_converters.optimizer.parameter_order import Place, Shape
from jaxlstm_converters.optimizer.rules import Rule, relevant, rule
from jaxlstm_converters.optimizer.state import OptimizerState, Part, fill
from jaxlstm_converters.optimizer.torch_state import TorchOptimizer, find_optimizers


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
    """The optimizer of one LSTM, so that training goes on in JAX where it stopped in torch.

    torch numbers an optimizer's parameters. They are matched to the names of the model's state dict in the
    same file by ``param_names`` where the optimizer has them (torch 2.6), else by order and shape, and only
    if that is possible in one way. Gradients in other parameters of the model are not needed: none of these
    optimizers mixes parameters.

    Args:
      path: a checkpoint with a model's state dict and that of its ``torch.optim`` Adam, AdamW, SGD or
        RMSprop, nested anywhere.
      params, config: the LSTM, as ``jaxlstm.load`` gives it. The moments are cast to the parameters' dtype.
      prefix: which LSTM of the file, as for ``jaxlstm.load``.
      optimizer: which optimizer of the file: the keys that lead to it, such as ``"optimizer_states.0"``.
      names: the model's names of all parameters of the optimizer, in its order, where the file does not
        tell: ``[name for name, _ in model.named_parameters()]``.
      decoupled_weight_decay: True for AdamW, False for Adam; before torch 2.7 a file does not tell.

    Returns:
      An :class:`OptimizerState`: an optax transformation and its state, both for the dict ``params``.

    Raises:
      ValueError: no optimizer, or several, or one that cannot be mapped; the message says why.
      CheckpointError: the file is refused.
      ImportError: optax is not installed.
    """
    if importlib.util.find_spec("optax") is None:
        raise ImportError("load_optimizer needs optax: pip install 'jaxlstm[optax]'")
    check_params(params, config)
    checkpoint = read_checkpoint(path)
    chosen = _lstm(checkpoint, config, prefix)
    optimizers = find_optimizers(checkpoint)
    model = model_shapes(checkpoint, optimizers)
    lstm = {name: chosen + name for name in param_shapes(config)}
    if folded := [full for full in lstm.values() if full not in model]:
        raise ValueError(f"{folded[0]!r} is computed from others, whose moments are not the LSTM's")

    mapped: dict[str, OptimizerState] = {}
    problems = []
    for one in _named(optimizers, optimizer, checkpoint):
        try:
            rules = [rule(group.hyper, decoupled_weight_decay) for group in one.groups]
            homes = _homes(one, model, lstm, names, certain=bool(names or optimizer))
            mapped[one.root] = fill(_parts(one, rules, homes), params)
        except ValueError as error:
            problems.append(f"the optimizer at {one.root.rstrip('.')!r} {error}")
    if not mapped:
        raise ValueError("; ".join(problems))
    if len(mapped) > 1:
        which = ", ".join(repr(root.rstrip(".")) for root in mapped)
        raise ValueError(f"optimizer must say which optimizer trains this LSTM: {which} can")
    return next(iter(mapped.values()))


def _lstm(checkpoint: Checkpoint, config: LSTMConfig, prefix: str | None) -> str:
    """The prefix of the LSTM; without one given, the only LSTM of this size."""
    wanted = param_shapes(config)
    found = {p: param_shapes(c) == wanted for p, c in survey(checkpoint).lstms.items()}
    fitting = [p for p, fits in found.items() if fits]
    chosen = choose_prefix(found if prefix or not fitting else fitting, prefix)
    if not found[chosen]:
        raise ValueError(f"the LSTM at {chosen!r} has other shapes than {config}")
    return chosen


def _named(
    optimizers: list[TorchOptimizer], name: str | None, checkpoint: Checkpoint
) -> list[TorchOptimizer]:
    there = ", ".join(repr(one.root.rstrip(".")) for one in optimizers) or "none"
    found = [one for one in optimizers if name is None or one.root.rstrip(".") == name.rstrip(".")]
    if not found:
        reason = "; ".join(["", *checkpoint.warnings])
        raise ValueError(
            f"no optimizer{'' if name is None else f' at {name!r}'} in {checkpoint.path!r}, which needs its "
            f"state and param_groups; there are: {there}{reason}"
        )
    return found


def _homes(
    optimizer: TorchOptimizer,
    model: Mapping[str, Shape],
    lstm: Mapping[str, str],
    names: Sequence[str] | None,
    *,
    certain: bool,
) -> dict[str, Place]:
    """The place of each of the LSTM's parameters among the optimizer's."""
    hypers = [relevant(group.hyper) for group in optimizer.groups]
    if not optimizer.state and all(hyper == hypers[0] for hyper in hypers):
        return dict.fromkeys(lstm, (0, 0))  # which is which makes no difference
    told = [name for group in optimizer.groups for name in group.names]
    found = locate(optimizer, model, list(lstm.values()), names or told or None, certain=certain)
    return {name: found[full] for name, full in lstm.items()}


def _parts(
    optimizer: TorchOptimizer, rules: Sequence[Rule], homes: Mapping[str, Place]
) -> list[Part]:
    """The LSTM's parameters by their hyper-parameters, whatever group they are in."""
    parts: list[tuple[dict[str, Any], Part]] = []
    for name, (g, k) in homes.items():
        group = optimizer.groups[g]
        hyper = relevant(group.hyper)
        part = next((part for known, part in parts if known == hyper), None)
        if part is None:
            part = Part(rules[g], {})
            parts.append((hyper, part))
        part.moments[name] = optimizer.state.get(group.keys[k], {}) if optimizer.state else {}
    return [part for _, part in parts]
