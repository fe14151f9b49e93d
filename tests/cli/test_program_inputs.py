"""The inputs with which the command line compares two ways to run a program."""

from __future__ import annotations

from jaxlstm.cli.program.inputs import random_inputs
from testing.graphs import X, node, program


def test_free_axes_have_sizes_of_their_own() -> None:
    """``verify_model`` resizes axes of equal size together, so no two axes are equal by accident."""
    relu = node("aten.relu.default", shape=("a", "b", "c", 3, 5, 6), self=X)
    arrays = random_inputs(program(relu, shape=("a", "b", "c", 3, 5, 6)))
    assert arrays is not None
    (array,) = arrays
    assert array.shape[3:] == (3, 5, 6)
    assert len(set(array.shape)) == 6
