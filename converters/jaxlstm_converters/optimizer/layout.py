"""Where an LSTM's parameters are among those of an optimizer of the same checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from jaxlstm_converters.checkpoint import Checkpoint
from jaxlstm_converters.optimizer.parameter_order import Place, Shape, places
from jaxlstm_converters.optimizer.torch_state import TorchOptimizer

# The buffers of torch's BatchNorm and InstanceNorm; others are told by being left over.
_BUFFER = re.compile(r"(.*\.)?(running_mean|running_var|num_batches_tracked)", re.DOTALL)

Options = dict[str, set[Place | None]]
"""Name of a tensor -> where it can be in an optimizer; None: nowhere."""


def model_shapes(checkpoint: Checkpoint, optimizers: Sequence[TorchOptimizer]) -> dict[str, Shape]:
    """The tensors that may be parameters: of floating point, no known buffers, not of an optimizer."""
    inside = tuple(f"{one.root}{part}." for one in optimizers for part in ("state", "param_groups"))
    return {
        name: tuple(tensor.shape)
        for name, tensor in checkpoint.items()
        if not (name.startswith(inside) or _BUFFER.fullmatch(name) or tensor.dtype.kind in "biu")
    }


def locate(
    optimizer: TorchOptimizer,
    model: Mapping[str, Shape],
    lstm: Sequence[str],
    names: Sequence[str] | None,
    *,
    certain: bool,
) -> dict[str, Place]:
    """The place in the optimizer of each of the LSTM's tensors.

    The model is the smallest part of the file that holds the LSTM and can hold all parameters of the
    optimizer.

    Args:
      optimizer: the optimizer.
      model: name -> shape, of all tensors that may be its parameters.
      lstm: full names of the LSTM's tensors.
      names: of the optimizer's parameters in the model, in order; None: go by order and shapes.
      certain: the optimizer is known to be this LSTM's, whatever other model it would fit as well.

    Raises:
      ValueError: it does not fit, does not train the LSTM, or fits in several ways.
    """
    fit = _by_order(optimizer, model) if names is None else _by_name(optimizer, model, names)
    home, found = next(
        ((root, found) for root in reversed(_roots(lstm[0])) if (found := fit(root))), ("", {})
    )
    if not found:
        raise ValueError(
            f"has {_count(optimizer)} parameters, which do not fit the model's in "
            f"{'names' if names else 'order and shape'}; pass names=[name for name, _ in "
            "model.named_parameters()], those of the optimizer in its order"
        )
    others = {root for name in model for root in _roots(name)} if not certain else set()
    for root in sorted(others):
        if not root.startswith(home) and not home.startswith(root) and fit(root):
            raise ValueError(
                f"fits {home!r} and {root!r} alike; pass optimizer={optimizer.root.rstrip('.')!r} "
                "if it is the one of this LSTM"
            )
    options = {name: found.get(name, {None}) for name in lstm}
    if all(places == {None} for places in options.values()):
        raise ValueError("does not train this LSTM")
    return {name: _only(name, places) for name, places in options.items()}


def _only(name: str, options: set[Place | None]) -> Place:
    place = next(iter(options))
    if len(options) > 1 or place is None:
        raise ValueError(
            f"does not tell by order and shapes which of its parameters is {name!r}, or whether one is; "
            "pass names=[name for name, _ in model.named_parameters()], in its order"
        )
    return place


def _by_order(
    optimizer: TorchOptimizer, model: Mapping[str, Shape]
) -> Callable[[str], Options | None]:
    groups = [[optimizer.shape(key) for key in group.keys] for group in optimizer.groups]
    count = _count(optimizer)

    def fit(root: str) -> Options | None:
        shapes = {name: shape for name, shape in model.items() if name.startswith(root)}
        if len(shapes) < count:
            return None
        found = dict(zip(shapes, places(list(shapes.values()), groups), strict=True))
        return found if any(found.values()) else None

    return fit


def _by_name(
    optimizer: TorchOptimizer, model: Mapping[str, Shape], names: Sequence[str]
) -> Callable[[str], Options | None]:
    slots = [(g, k) for g, group in enumerate(optimizer.groups) for k in range(len(group.keys))]
    if len(names) != len(slots) or len(set(names)) != len(names):
        raise ValueError(
            f"has {len(slots)} parameters, and there are {len(set(names))} different names for them"
        )
    shapes = [optimizer.shape(key) for group in optimizer.groups for key in group.keys]

    def fit(root: str) -> Options | None:
        full = [root + name for name in names]
        if any(
            n not in model or s not in (None, model[n]) for n, s in zip(full, shapes, strict=True)
        ):
            return None
        return {name: {slot} for name, slot in zip(full, slots, strict=True)}

    return fit


def _count(optimizer: TorchOptimizer) -> int:
    return sum(len(group.keys) for group in optimizer.groups)


def _roots(name: str) -> list[str]:
    """ "", "a.", "a.b." of a tensor "a.b.c"."""
    return ["", *accumulate(f"{part}." for part in name.split(".")[:-1])]
