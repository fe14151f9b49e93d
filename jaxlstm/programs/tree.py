"""Structures of arguments and results, as ``torch.utils._pytree`` has them."""

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Tree

_SEQUENCES = {"tuple": tuple, "list": list, "namedtuple": tuple}


def flatten(tree: Tree, structure: Any, path: str) -> list[Any]:
    """Return the leaves of a structure that must have the form of ``tree``."""
    if tree.kind == "leaf":
        return [structure]
    if tree.kind == "none":
        if structure is not None:
            raise ProgramError("input-structure", f"{path} must be None, got {type(structure).__name__}")
        return []
    parts = _members(tree, structure, path)
    return [leaf for child, part, place in parts for leaf in flatten(child, part, place)]


def _members(tree: Tree, structure: Any, path: str) -> Iterator[tuple[Tree, Any, str]]:
    if tree.kind == "dict":
        keys = list(structure) if isinstance(structure, dict) else None
        if keys is None or set(keys) != set(tree.keys):
            got = type(structure).__name__ if keys is None else f"the keys {keys}"
            raise ProgramError(
                "input-structure", f"{path} must be a dict with the keys {list(tree.keys)}, got {got}"
            )
        members = [structure[key] for key in tree.keys]
        places = [f"{path}[{key!r}]" for key in tree.keys]
    else:
        expected = _SEQUENCES[tree.kind]
        if not isinstance(structure, expected) or len(structure) != len(tree.children):
            got = type(structure).__name__
            got += f" of length {len(structure)}" if isinstance(structure, Sequence) else ""
            raise ProgramError(
                "input-structure",
                f"{path} must be a {expected.__name__} of length {len(tree.children)}, got {got}",
            )
        members = list(structure)
        places = [f"{path}[{index}]" for index in range(len(members))]
    yield from zip(tree.children, members, places, strict=True)


def unflatten(tree: Tree, leaves: Iterator[Any]) -> Any:
    """Return the structure of a tree with the given leaves."""
    if tree.kind == "leaf":
        return next(leaves)
    if tree.kind == "none":
        return None
    members = [unflatten(child, leaves) for child in tree.children]
    if tree.kind == "dict":
        return dict(zip(tree.keys, members, strict=True))
    if tree.kind == "namedtuple":
        return _namedtuple(tree.name, tree.keys)(*members)
    return _SEQUENCES[tree.kind](members)


def builder(tree: Tree) -> Callable[[list[Any]], Any]:
    """Return the function from a list of leaves to the structure of a tree."""
    if tree.kind == "leaf":
        return itemgetter(0)
    if tree.kind in ("tuple", "list") and all(child.kind == "leaf" for child in tree.children):
        return _SEQUENCES[tree.kind]
    return lambda leaves: unflatten(tree, iter(leaves))


def leaf_names(tree: Tree) -> list[str]:
    """Return a name for each leaf: its keys and indices, such as "logits.0"; "result" for a single leaf."""
    return [path or "result" for path in _paths(tree, "")]


def _paths(tree: Tree, prefix: str) -> list[str]:
    if tree.kind == "leaf":
        return [prefix]
    keys = tree.keys or range(len(tree.children))
    return [
        path
        for key, child in zip(keys, tree.children, strict=True)
        for path in _paths(child, f"{prefix}.{key}" if prefix else str(key))
    ]


@cache
def _namedtuple(name: str, fields: tuple[Any, ...]) -> type:
    """Return the class of a named tuple; one class per name and fields, because JAX compares classes."""
    try:
        return namedtuple(name.rpartition(".")[2] or "Result", fields)
    except (TypeError, ValueError) as error:
        raise ProgramError("malformed-graph", f"a result is an invalid named tuple: {error}") from None
