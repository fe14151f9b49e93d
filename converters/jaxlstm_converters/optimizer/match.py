"""Match an LSTM's parameters with the parameters of an optimizer in the same checkpoint.

An optimizer numbers its parameters. The model's state dict names them in the same order, with buffers,
frozen and tied tensors in between. So each group of the optimizer is a subsequence of the state dict. The
search by order follows all such layouts at once; a match that is the same in every layout is certain.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate

from jaxlstm_converters.checkpoint import Checkpoint
from jaxlstm_converters.optimizer.state import TorchOptimizer

Shape = tuple[int, ...]
Place = tuple[int, int]
"""Index of a group and of a parameter in it."""
Options = dict[str, set[Place | None]]
"""Name of a tensor -> its possible places in an optimizer; None means that it is not a parameter."""

MAX_MOVES = 300_000
# Buffers of BatchNorm and InstanceNorm. Other buffers match no parameter of the optimizer.
_BUFFER = re.compile(r"(.*\.)?(running_mean|running_var|num_batches_tracked)", re.DOTALL)


def model_shapes(checkpoint: Checkpoint, optimizers: Sequence[TorchOptimizer]) -> dict[str, Shape]:
    """Return name -> shape of the possible parameters: float tensors except known buffers."""
    inside = tuple(f"{opt.root}{part}." for opt in optimizers for part in ("state", "param_groups"))
    return {
        name: tuple(tensor.shape)
        for name, tensor in checkpoint.items()
        if not (name.startswith(inside) or _BUFFER.fullmatch(name) or tensor.dtype.kind in "biu")
    }


def find_places(
    optimizer: TorchOptimizer,
    model: Mapping[str, Shape],
    lstm: Sequence[str],
    names: Sequence[str] | None,
    *,
    certain: bool,
) -> dict[str, Place]:
    """Return the place of each of the LSTM's tensors in the optimizer.

    The model is taken to be the smallest part of the file that holds the LSTM and matches the optimizer.
    """
    if names is not None and not len(names) == len(set(names)) == optimizer.num_params:
        raise ValueError(
            f"has {optimizer.num_params} parameters, but there are {len(set(names))} different names"
        )
    groups = [[optimizer.shape(key) for key in group.keys] for group in optimizer.groups]
    match = partial(_match, groups, model, names)
    home, matched = next(
        ((root, matched) for root in reversed(_roots(lstm[0])) if (matched := match(root))), ("", {})
    )
    if not matched:
        raise ValueError(
            f"has {optimizer.num_params} parameters, which do not match the model's in "
            f"{'names' if names else 'order and shape'}; pass order=[name for name, _ in "
            "model.named_parameters()], in the order of the optimizer"
        )
    other_roots = {root for name in model for root in _roots(name)} if not certain else set()
    for root in sorted(other_roots):
        if not root.startswith(home) and not home.startswith(root) and match(root):
            raise ValueError(
                f"matches both {home!r} and {root!r}; pass optimizer={optimizer.label!r} if it trains "
                "this model"
            )
    options = {name: matched.get(name, {None}) for name in lstm}
    if all(places == {None} for places in options.values()):
        raise ValueError("does not train this model")
    return {name: _only(name, places) for name, places in options.items()}


def _only(name: str, options: set[Place | None]) -> Place:
    place = next(iter(options))
    if place is None and len(options) == 1:
        raise ValueError(f"does not train {name!r}")
    if len(options) > 1 or place is None:
        raise ValueError(
            f"has several parameters that may be {name!r} by order and shape; "
            "pass order=[name for name, _ in model.named_parameters()], in the order of the optimizer"
        )
    return place


def _match(
    groups: Sequence[Sequence[Shape | None]],
    model: Mapping[str, Shape],
    names: Sequence[str] | None,
    root: str,
) -> Options:
    """Match the part of the file under a root by the names of the parameters, or by order and shape."""
    if names is None:
        part = {name: shape for name, shape in model.items() if name.startswith(root)}
        fits = len(part) >= sum(map(len, groups))
        options = dict(zip(part, places(list(part.values()), groups), strict=True)) if fits else {}
        return options if any(options.values()) else {}
    options = {}
    slots = (((g, k), shape) for g, group in enumerate(groups) for k, shape in enumerate(group))
    for name, (slot, shape) in zip(names, slots, strict=True):
        if root + name not in model or shape not in (None, model[root + name]):
            return {}
        options[root + name] = {slot}
    return options


def _roots(name: str) -> list[str]:
    """Return "", "a." and "a.b." for the tensor "a.b.c"."""
    return ["", *accumulate(f"{part}." for part in name.split(".")[:-1])]


def places(shapes: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]) -> list[set[Place | None]]:
    """Return the possible places of each tensor of a model among an optimizer's parameters.

    Args:
      shapes: shapes of the model's tensors, in order.
      groups: shapes of the optimizer's parameters, group by group; None matches any shape.

    Returns:
      For each tensor, its places in all layouts that use every parameter of the optimizer. None means that
      the tensor is not a parameter. The sets are empty if no layout exists.
    """
    layers = _forward(shapes, groups)
    options: list[set[Place | None]] = [set() for _ in shapes]
    alive = layers[-1]
    for position in reversed(range(len(shapes))):
        moves = [
            (pointers, place)
            for pointers in layers[position]
            for place, next_pointers in _moves(pointers, shapes[position], groups)
            if next_pointers in alive
        ]
        alive, options[position] = {pointers for pointers, _ in moves}, {place for _, place in moves}
    return options


def _forward(shapes: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]) -> list[set[tuple[int, ...]]]:
    """Return, after each tensor, the possible numbers of matched parameters per group."""
    surplus = sum(map(len, groups)) - len(shapes)  # never positive if there is a layout
    layers: list[set[tuple[int, ...]]] = [{(0,) * len(groups)}]
    moves = 0
    for position, shape in enumerate(shapes, start=1):
        layer = set()
        for pointers in layers[-1]:
            for _, next_pointers in _moves(pointers, shape, groups):
                moves += 1
                if surplus + position <= sum(next_pointers):  # enough tensors are left for the others
                    layer.add(next_pointers)
            if moves > MAX_MOVES:
                raise ValueError("has parameters that match the model in too many ways")
        layers.append(layer)
    return layers


def _moves(
    pointers: tuple[int, ...], shape: Shape, groups: Sequence[Sequence[Shape | None]]
) -> Iterator[tuple[Place | None, tuple[int, ...]]]:
    """Yield the choices for a tensor: not a parameter, or the next parameter of a group."""
    yield None, pointers
    for g, (pointer, group) in enumerate(zip(pointers, groups, strict=True)):
        if pointer < len(group) and group[pointer] in (None, shape):
            yield (g, pointer), (*pointers[:g], pointer + 1, *pointers[g + 1 :])
