"""Which parameter of a model is which of an optimizer, told by the order and the shapes alone.

An optimizer counts its parameters; a model's state dict names them, in the same order, and buffers, frozen
and tied tensors between them. So each group of the optimizer is a subsequence of the state dict. Every way
to lay the groups onto it is walked at once; what is the same in all of them is certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Shape = tuple[int, ...]
Place = tuple[int, int]
"""Group, and index in it."""
Layers = list[set[tuple[int, ...]]]

MAX_MOVES = 300_000


def places(
    shapes: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]
) -> list[set[Place | None]]:
    """Where each tensor of a model can be among an optimizer's parameters.

    Args:
      shapes: of the model's tensors, in order.
      groups: shapes of the optimizer's parameters, group by group; None fits any.

    Returns:
      For each tensor the places that it has in some layout of all parameters of the optimizer; None stands
      for not being one of them. Empty sets if there is no layout.

    Raises:
      ValueError: there are too many layouts to walk.
    """
    layers = _forward(shapes, groups)
    found: list[set[Place | None]] = [set() for _ in shapes]
    alive = layers[-1]
    for position in reversed(range(len(shapes))):
        earlier = set()
        for pointers in layers[position]:
            for place, moved in _moves(pointers, shapes[position], groups):
                if moved in alive:
                    earlier.add(pointers)
                    found[position].add(place)
        alive = earlier
    return found


def _forward(shapes: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]) -> Layers:
    """After each tensor, how many parameters of each group can be placed; in the end, all are."""
    left = sum(map(len, groups)) - len(shapes)  # parameters without a tensor: never above zero
    layers: Layers = [{(0,) * len(groups)}]
    moves = 0
    for position, shape in enumerate(shapes, start=1):
        layer = set()
        for pointers in layers[-1]:
            for _, moved in _moves(pointers, shape, groups):
                moves += 1
                if left + position <= sum(moved):
                    layer.add(moved)
            if moves > MAX_MOVES:
                raise ValueError("has parameters that fit the model in too many ways")
        layers.append(layer)
    return layers


def _moves(
    pointers: tuple[int, ...], shape: Shape, groups: Sequence[Sequence[Shape | None]]
) -> Iterator[tuple[Place | None, tuple[int, ...]]]:
    """A tensor is no parameter, or the next one of a group."""
    yield None, pointers
    for g, (pointer, group) in enumerate(zip(pointers, groups, strict=True)):
        if pointer < len(group) and group[pointer] in (None, shape):
            yield (g, pointer), (*pointers[:g], pointer + 1, *pointers[g + 1 :])
