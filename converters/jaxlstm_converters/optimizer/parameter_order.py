"""Match a model's tensors to an optimizer's parameters by order and shape.

An optimizer numbers its parameters. The model's state dict names them in the same order, with buffers,
frozen and tied tensors in between. So each group of the optimizer is a subsequence of the state dict. The
search follows all possible layouts at once; a match that is the same in every layout is certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Shape = tuple[int, ...]
Place = tuple[int, int]
"""Index of a group and of a parameter in it."""
Layers = list[set[tuple[int, ...]]]

MAX_MOVES = 300_000


def places(shapes: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]) -> list[set[Place | None]]:
    """Return the possible places of each tensor of a model among an optimizer's parameters.

    Args:
      shapes: shapes of the model's tensors, in order.
      groups: shapes of the optimizer's parameters, group by group; None matches any shape.

    Returns:
      For each tensor, its places in all layouts that use every parameter of the optimizer. None means that
        the tensor is
      not a parameter. The sets are empty if there is no layout.

    Raises:
      ValueError: there are too many layouts to search.
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
    """Return, after each tensor, the possible numbers of matched parameters per group."""
    surplus = sum(map(len, groups)) - len(shapes)  # never positive if there is a layout
    layers: Layers = [{(0,) * len(groups)}]
    moves = 0
    for position, shape in enumerate(shapes, start=1):
        layer = set()
        for pointers in layers[-1]:
            for _, moved in _moves(pointers, shape, groups):
                moves += 1
                if surplus + position <= sum(moved):  # enough tensors are left for the others
                    layer.add(moved)
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
