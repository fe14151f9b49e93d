"""The memory of parameters: apart from the caller's arrays, and shared with what `load_program` read."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxlstm.programs.graph import Value
from jaxlstm.programs.program import Program
from jaxlstm_converters.pt2._read_pt2 import read_pt2
from testing.checkpoints.seeds import CORPUS
from testing.graphs import X, node, program


def test_program_copies_the_values() -> None:
    weight = np.ones((2, 3), np.float32)
    made = program(node("aten.linear.default", input=X, weight=Value("p_w")), params={"w": weight})
    weight[:] = 5
    np.testing.assert_array_equal(made.params["w"], 1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices copy the values")
def test_values_that_were_read_are_not_copied() -> None:
    graph, tensors, _ = read_pt2(CORPUS / "pt2-2.13.pt2")
    made = Program(graph, tensors, copy=False)
    assert made.params
    for name, array in made.params.items():
        assert array.unsafe_buffer_pointer() == tensors[name].__array_interface__["data"][0]
