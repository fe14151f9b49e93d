"""The branches of a model whose condition ``jit`` hides, each a program, as one ``jax.lax.cond``."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.programs.errors import ProgramError


class Branches:
    """The programs of a model from a file: other decisions of its conditions on values, and other sizes.

    It is the ``at_sizes`` of the first program.
    """

    def __init__(self, programs: Sequence[Any], sizes: Sequence[Any] = ()) -> None:
        self._programs, self._sizes = tuple(programs), tuple(sizes)

    def __call__(
        self, first: Any, args: Any, kwargs: Any, error: ProgramError, run: Callable[[Any], Any]
    ) -> Any:
        """Run the first of the programs that takes the arguments, or raise the error."""
        # What runs a program may check its tensors only.
        for program in (other for other in (*self._programs, *self._sizes) if other.takes(args, kwargs)):
            with contextlib.suppress(ProgramError):
                return run(program)
        raise error

    def branches(self, program: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """Return the programs that take the sizes of a call of the first program."""
        is_first = all(program.graph is not other.graph for other in self._programs)
        return tuple(other for other in self._programs if is_first and other.takes(args, kwargs))

    def stored(self) -> tuple[Any, ...]:
        """Return the programs of other branches, to write into a file."""
        return self._programs

    def of_sizes(self) -> tuple[Any, ...]:
        """Return the programs of other sizes, to write into a file."""
        return self._sizes


Run = Callable[..., tuple[Any, Any, jax.Array | None]]
"""Runs a program: (its results, the buffers after the call, whether its assertions hold).

If True is a second argument, they are known to hold.
"""


def in_branches(programs: Sequence[Any], run: Run) -> tuple[Any, Any]:
    """Return the results, and the buffers after the call, of the program whose assertions hold.

    If another program does not run or has results of other shapes, only the first one runs, and its results
    are NaN where its assertions fail.
    """
    first, *rest = programs
    *found, valid = run(first)
    if valid is None or not rest:
        return found[0], found[1]
    leaves, structure = jax.tree.flatten(found)
    try:
        others = jax.tree.flatten([*in_branches(rest, run)])
    except ProgramError:
        return found[0], found[1]
    if structure != others[1] or [*map(_kind, leaves)] != [*map(_kind, others[0])]:
        return found[0], found[1]
    pairs = enumerate(zip(leaves, others[0], strict=True))
    # Equal sizes of axes stay Python's integers.
    places = [
        place
        for place, pair in pairs
        if any(isinstance(leaf, jax.Array) for leaf in pair) or pair[0] != pair[1]
    ]

    def arrays(results: Any) -> list[jax.Array]:
        leaves = jax.tree.leaves(results)
        return [jnp.asarray(leaves[place]) for place in places]

    # A program whose assertions fail has a gradient of NaN.
    run_first, run_rest = lambda: [*run(first, True)[:2]], lambda: [*in_branches(rest, run)]
    chosen = jax.lax.cond(valid, lambda: arrays(run_first()), lambda: arrays(run_rest()))
    for place, array in zip(places, chosen, strict=True):
        leaves[place] = array
    results, after = jax.tree.unflatten(structure, leaves)
    return results, after


def _kind(leaf: Any) -> Any:
    return (jnp.shape(leaf), jnp.result_type(leaf)) if isinstance(leaf, jax.Array | int | float) else leaf
