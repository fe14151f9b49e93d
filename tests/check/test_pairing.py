"""Pairing of parameters by their values: every order that Flax layers use, and gradients in torch's order."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlstm.check.subjects.pairing import pair_parameters

RNG = np.random.default_rng(0)
CONV = RNG.normal(size=(6, 4, 3, 2)).astype(np.float32)
PACKED = RNG.normal(size=(12, 4)).astype(np.float32)


def pair(ours, theirs, same_module=lambda a, b: False):
    return pair_parameters(ours, theirs, same_module)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (CONV, CONV),
        (CONV, CONV.transpose(2, 3, 1, 0)),
        (CONV, np.flip(CONV, (2, 3)).transpose(2, 3, 0, 1)),
        (CONV, CONV.reshape(6, -1).T),
        (PACKED, PACKED[4:8].T.reshape(4, 2, 2)),
        (PACKED, PACKED[:, [2, 0, 3, 1]].T),
        (PACKED[:, :1], PACKED[:, 0]),
    ],
)
def test_layout_of_one_parameter(theirs, ours):
    pairing = pair({"layer.kernel": ours}, {"layer.weight": theirs})
    assert not pairing.unpaired
    gradient = RNG.normal(size=theirs.shape)
    ((layout,), *_) = pairing.choices["layer.kernel"]
    np.testing.assert_array_equal(theirs.ravel()[layout.index], ours)
    found = pairing.gradients({"layer.kernel": gradient.ravel()[layout.index]}, {"layer.weight": gradient})
    np.testing.assert_array_equal(found["layer.weight"], gradient)


def test_a_foreign_value_has_no_layout():
    pairing = pair({"a": CONV * 2, "b": CONV}, {"w": CONV})
    assert pairing.unpaired == ["a"]


def test_summed_biases():
    b_ih, b_hh = RNG.normal(size=(2, 8)).astype(np.float32)
    theirs = {"lstm.bias_ih_l0": b_ih, "lstm.bias_hh_l0": b_hh}
    pairing = pair({"cell.hi.bias": (b_ih + b_hh)[:2], "cell.hf.bias": (b_ih + b_hh)[2:4]}, theirs)
    assert pairing.summed() == dict.fromkeys(
        ("cell.hi.bias", "cell.hf.bias"), ("lstm.bias_ih_l0", "lstm.bias_hh_l0")
    )
    gradients = {"cell.hi.bias": np.array([1.0, 2.0]), "cell.hf.bias": np.array([3.0, 4.0])}
    found = pairing.gradients(gradients, dict.fromkeys(theirs, np.full(8, 9.0)))
    for name in theirs:
        np.testing.assert_array_equal(found[name], [1, 2, 3, 4, 9, 9, 9, 9])


def test_tied_parameters_add_their_gradients():
    pairing = pair({"embed.embedding": PACKED, "head.kernel": PACKED.T}, {"embed.weight": PACKED})
    ones = np.ones((12, 4))
    found = pairing.gradients({"embed.embedding": ones, "head.kernel": 2 * ones.T}, {"embed.weight": ones})
    np.testing.assert_array_equal(found["embed.weight"], 3 * ones)


def test_equal_values_are_resolved_by_names_and_then_by_gradients():
    zeros = np.zeros(3, np.float32)
    theirs = {"a.bias": zeros, "b.bias": zeros}
    gradients = {"a.bias": np.array([1.0, 2, 3]), "b.bias": np.array([4.0, 5, 6])}
    by_name = pair({"x.bias": zeros}, theirs, lambda ours, name: name == "b.bias")
    assert [layout.theirs for (layout,) in by_name.choices["x.bias"]] == ["b.bias"]
    ours = {"x.bias": zeros, "y.bias": zeros}
    resolved = pair(ours, theirs).resolve(
        {"x.bias": gradients["b.bias"], "y.bias": gradients["a.bias"]}, gradients
    )
    assert {name: choices[0][0].theirs for name, choices in resolved.choices.items()} == {
        "x.bias": "b.bias",
        "y.bias": "a.bias",
    }


def test_repeated_values_leave_their_positions_open():
    weight = np.array([[1.0, 1.0, 2.0], [3.0, 4.0, 5.0]], np.float32)
    ours = weight.ravel()[[5, 0, 2, 1, 4, 3]]
    ((layout,),) = pair({"w": ours}, {"w": weight}).choices["w"]
    assert layout.index.tolist() == [5, -1, 2, -1, 4, 3]
