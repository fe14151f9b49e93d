"""Settings of a layer that a state dict does not record, compared with torch's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax import nnx

import jaxlstm.linen.modules
import jaxlstm.nnx
from jaxlstm_converters.flax.convolution_settings import CONVOLUTIONS, check_convolution
from jaxlstm_converters.flax.layer import Layer, join
from jaxlstm_converters.flax.names import Names
from jaxlstm_converters.lstm.imitations import warning_of

_BATCH_NORMS = (nnx.BatchNorm, nn.BatchNorm)
_RMS_NORMS = (nnx.RMSNorm, nn.RMSNorm)
_NORMS = (
    *_BATCH_NORMS,
    *_RMS_NORMS,
    *(nnx.LayerNorm, nnx.GroupNorm, nnx.InstanceNorm),
    *(nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm),
)
# The number of heads or groups leaves no trace in the shapes of the tensors.
_COUNTS = {
    "num_heads": (nnx.MultiHeadAttention, nn.MultiHeadDotProductAttention),
    "num_groups": (nnx.GroupNorm, nn.GroupNorm),
}
# Settings of torch that Flax lacks, by the layers that have them.
_ONLY_IN_TORCH = {"add_zero_attn": _COUNTS["num_heads"], "max_norm": (nnx.Embed, nn.Embed)}
_RNNS = (nnx.RNN, nnx.Bidirectional, nn.RNN, nn.Bidirectional)
_LSTMS = (jaxlstm.nnx.LSTM, jaxlstm.linen.modules.LSTM)


def settings_to_check(
    layers: list[Layer], names: Names, settings: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return one line for each setting that differs or may differ, with the layers that have it.

    Args:
      layers: the layers of the model.
      names: the map of names.
      settings: prefix in torch -> settings that the source records.
    """
    found: dict[str, list[str]] = {}
    for layer in layers:
        torch = names.to_torch(join(layer.torch_path, "weight"))
        prefix = torch[0].rpartition(".")[0] if torch else ""
        for line in _check(layer.module, settings.get(prefix, {})):
            found.setdefault(line, []).append(layer.path or "the model")
    return [f"{_listed(paths)}: {line}" for line, paths in found.items()]


def _check(module: Any, theirs: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(module, _NORMS):
        yield from _check_epsilon(module, theirs)
        if module.use_fast_variance:
            yield (
                "use_fast_variance=True loses precision where the mean is far from zero; torch computes the "
                "variance as with use_fast_variance=False"
            )
    if isinstance(module, _BATCH_NORMS):
        yield from _check_momentum(module, theirs)
        if module.use_running_average is False:  # Linen's None leaves the choice to the call
            yield (
                "use_running_average=False, so the layer normalizes by the batch; for the results of "
                "torch's eval() call model.eval() or pass use_running_average=True"
            )
    for name, types in _COUNTS.items():
        ours = getattr(module, name) if isinstance(module, types) else None
        if ours is not None and theirs.get(name, ours) != ours:
            yield f"{name}={ours}, but the torch layer has {name}={theirs[name]}"
    for name, types in _ONLY_IN_TORCH.items():
        if isinstance(module, types) and theirs.get(name):
            yield f"the torch layer has {name}={theirs[name]}, which Flax does not have"
    if isinstance(module, _RNNS) and theirs.get("batch_first") is module.time_major:
        yield f"time_major={module.time_major}, but the torch layer has batch_first={theirs['batch_first']}"
    if isinstance(module, CONVOLUTIONS):
        yield from check_convolution(module, theirs)
    if isinstance(module, _LSTMS):
        yield from _check_batch_first(module, theirs)
    if "imitation" in theirs:
        yield warning_of(theirs["imitation"])


def _check_epsilon(module: Any, theirs: Mapping[str, Any]) -> Iterator[str]:
    default = float(np.finfo(np.float32).eps) if isinstance(module, _RMS_NORMS) else 1e-5
    epsilon = theirs.get("eps")
    epsilon, owner = (default, "torch's default") if epsilon is None else (epsilon, "the torch layer's eps")
    if module.epsilon != epsilon:
        yield f"epsilon={module.epsilon:g}, but {owner} is {epsilon:.3g}"


def _check_momentum(module: Any, theirs: Mapping[str, Any]) -> Iterator[str]:
    momentum = theirs.get("momentum", 0.1)
    if momentum is None:
        yield "the torch layer has momentum=None, a cumulative average that Flax does not have"
    elif abs(module.momentum - (1 - momentum)) > 1e-12:
        owner = "the torch layer's" if "momentum" in theirs else "torch's default"
        flax = f"{1 - momentum:g} in Flax"
        yield f"momentum={module.momentum:g}, but {owner} {momentum:g} is {flax} (matters in training)"


def _check_batch_first(module: Any, theirs: Mapping[str, Any]) -> Iterator[str]:
    ours = module.config.batch_first
    if "batch_first" in theirs:
        if theirs["batch_first"] != ours:
            yield f"batch_first={ours}, but the torch layer has batch_first={theirs['batch_first']}"
    elif not ours:
        yield "batch_first=False, the default; a state dict does not record torch's, so check it"


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
    return ", ".join(paths[:4]) + more
