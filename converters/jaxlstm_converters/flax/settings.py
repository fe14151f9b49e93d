"""Settings of a layer that a state dict does not record, compared with torch's."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxlstm_converters.layer_kinds import KINDS

Pads = tuple[tuple[int, int], ...]

_OF_CONVOLUTIONS = ("stride", "dilation", "padding", "padding_mode", "transposed")
_SETTINGS = {kind.name: kind.settings for kind in KINDS}


def differences(module: Any, kind: str, theirs: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each setting of a Flax layer that differs from torch's, or may differ.

    ``kind`` is the kind of torch's layer, and ``theirs`` are its settings as far as the source records them.
    """
    settings = _SETTINGS.get(kind, {})
    if "eps" in settings:
        yield from _normalization(module, settings["eps"], theirs)
    if "momentum" in settings:
        yield from _statistics(module, settings["momentum"], theirs)
    if "stride" in settings:
        yield from _convolution(module, theirs, transposed="output_padding" in settings)
    if "batch_first" in settings:
        yield from _time_axis(module, theirs)
    for name in ("num_groups", "num_heads", "batch_first", "nonlinearity"):
        ours = _setting(module, name) if name in settings else None
        if ours is not None and theirs.get(name, ours) != ours:
            yield f"{name}={ours!r}, but the torch layer has {name}={theirs[name]!r}"
    for name in ("add_zero_attn", "max_norm"):
        if settings and theirs.get(name):
            yield f"the torch layer has {name}={theirs[name]}, which Flax does not have"


def _normalization(module: Any, default: float | None, theirs: Mapping[str, Any]) -> Iterator[str]:
    """Compare the epsilon, by default float32's if ``default`` is None, and judge the variance."""
    epsilon, owner = theirs.get("eps"), "the torch layer's eps"
    if epsilon is None:
        epsilon, owner = default or float(np.finfo(np.float32).eps), "torch's default"
    if module.epsilon != epsilon:
        yield f"epsilon={module.epsilon:g}, but {owner} is {epsilon:.3g}"
    if module.use_fast_variance:
        yield (
            "use_fast_variance=True loses precision where the mean is far from zero; torch computes the "
            "variance as with use_fast_variance=False"
        )


def _statistics(module: Any, default: float, theirs: Mapping[str, Any]) -> Iterator[str]:
    """Check the momentum of a BatchNorm, which is one minus torch's, and that it uses its statistics.

    ``use_running_average=None`` in Linen leaves the choice to the call.
    """
    momentum = theirs.get("momentum", default)
    if momentum is None:
        yield "the torch layer has momentum=None, a cumulative average that Flax does not have"
    elif abs(module.momentum - (1 - momentum)) > 1e-12:
        owner = "the torch layer's" if "momentum" in theirs else "torch's default"
        flax = f"{1 - momentum:g} in Flax"
        yield f"momentum={module.momentum:g}, but {owner} {momentum:g} is {flax} (matters in training)"
    if module.use_running_average is False:
        yield (
            "use_running_average=False, so the layer normalizes by the batch; for the results of "
            "torch's eval() call model.eval() or pass use_running_average=True"
        )


def _time_axis(module: Any, theirs: Mapping[str, Any]) -> Iterator[str]:
    if hasattr(module, "time_major") and theirs.get("batch_first") is module.time_major:
        yield f"time_major={module.time_major}, but the torch layer has batch_first={theirs['batch_first']}"
    if "batch_first" not in theirs and _setting(module, "batch_first") is False:
        yield "batch_first=False, the default; a state dict does not record torch's, so check it"


def _setting(module: Any, name: str) -> Any:
    """Return a setting of a Flax layer, or of a layer of this library, which has a config."""
    return getattr(module, name, getattr(getattr(module, "config", None), name, None))


def _convolution(module: Any, theirs: Mapping[str, Any], *, transposed: bool) -> Iterator[str]:
    """Check a convolution, if the source records all its settings; of a transposed one not the padding."""
    kernel = _each(module.kernel_size, 1)
    if not set(_OF_CONVOLUTIONS) <= theirs.keys() or len(theirs["stride"]) != len(kernel):
        return
    if theirs["transposed"] != transposed:
        kinds = ("transposed convolution", "convolution")[:: 1 if transposed else -1]
        yield f"the layer is a {kinds[0]}, but the torch layer is a {kinds[1]}"
        return
    for name, torch_name in (("strides", "stride"), ("kernel_dilation", "dilation")):
        ours = _each(getattr(module, name), len(kernel))
        if ours != tuple(theirs[torch_name]):
            yield f"{name}={ours}, but the torch layer has {torch_name}={tuple(theirs[torch_name])}"
    if not transposed:
        extents = [d * (k - 1) for d, k in zip(theirs["dilation"], kernel, strict=True)]
        yield from _padding(module.padding, theirs, extents)


def _padding(padding: Any, theirs: Mapping[str, Any], extents: list[int]) -> Iterator[str]:
    """Compare the padding of both layers. A kernel reaches ``extents`` further than its first element."""
    mode, name = theirs["padding_mode"], str(padding).upper()
    our_mode = name if name in ("CIRCULAR", "REFLECT") else "zeros"
    if our_mode.lower() != mode:
        yield f"padding={padding!r} pads with {our_mode}, but the torch layer has padding_mode={mode!r}"
        return
    if name == "CAUSAL":  # torch has no such padding: the model pads elsewhere
        return
    torch_pads = _pads(theirs["padding"], extents)
    if name == "SAME" and any(s > 1 and extent for s, extent in zip(theirs["stride"], extents, strict=True)):
        yield (
            f"padding={padding!r} with strides above 1 depends on the size of the input, and the torch layer "
            f"pads {_listed(torch_pads)}: pass padding={torch_pads}"
        )
    elif (pads := _pads(padding, extents)) != torch_pads:
        yield (
            f"padding={padding!r} pads {_listed(pads)}, but the torch layer {_listed(torch_pads)}: pass "
            f"padding={torch_pads}, unless the model pads elsewhere"
        )


def _pads(padding: Any, extents: list[int]) -> Pads:
    """Return the numbers of elements before and after each axis, for strides of 1."""
    if isinstance(padding, str):
        if padding.upper() == "VALID":
            return ((0, 0),) * len(extents)
        return tuple((extent // 2, extent - extent // 2) for extent in extents)
    per_axis = (padding,) * len(extents) if isinstance(padding, int) else padding
    return tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in per_axis)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    value = 1 if value is None else value
    return (value,) * dims if isinstance(value, int) else tuple(value)


def _listed(pads: Pads) -> str:
    return ", ".join(f"{before} and {after}" for before, after in pads)
