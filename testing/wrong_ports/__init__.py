"""85 ways to get an LSTM port wrong, and the port that has them.

`BUGS` maps each bug to a part of the cause that the checker must name, or to None if the catalogue lacks it.
"""

from __future__ import annotations

from testing.wrong_ports.port import WrongPort, sigmoid

__all__ = ["BUGS", "NEEDS_PROJECTION", "PAIRS", "WrongPort", "sigmoid"]

BUGS: dict[str, str | None] = {
    # Gates in the wrong order, wrong functions, and wrong cell equations.
    "order iofg": "the gates are read in the order i, o, f, g",
    "order igfo": "the gates are read in the order i, g, f, o",
    "order figo": "the gates are read in the order f, i, g, o",
    "order ifog": "the gates are read in the order i, f, o, g",
    "order ofig": "the gates are read in the order o, f, i, g",
    "order gofi": "the gates are read in the order g, o, f, i",
    "order of weights": "the gates of the weights, but not of the biases, are read in the order i, o, f",
    "order of weight_hh": "only the gates of weight_hh are read in the order i, f, o, g",
    "forget bias": "1 is added to the forget gate's bias",
    "hard sigmoid keras": "sigmoid is the hard one, clip(0.2 z + 0.5)",
    "hard sigmoid torch": "sigmoid is the hard one, clip(z / 6 + 0.5)",
    "relu": "tanh is relu",
    "g sigmoid": "the candidate g goes through sigmoid",
    "g relu": "the candidate g goes through relu",
    "g linear": "the candidate g goes through no tanh",
    "c linear": "c goes through no tanh on its way to h",
    "c relu": "c goes through relu on its way to h",
    "coupled": "the forget gate is 1 - i",
    "no forget gate": "the forget gate is missing",
    "no input gate": "the input gate is missing",
    "no output gate": "the output gate is missing",
    "old c": "h is computed from the c before the step",
    "clip": "c is clipped to [-1, 1]",
    "clip at 50": "c is clipped to [-50, 50]",
    "projection before tanh": "tanh comes after the projection",
    "projection cut": "weight_hr is ignored",
    "peephole": None,
    # Wrong weights: biases dropped or added twice, kernels transposed, layers and directions swapped.
    "no bias_ih": "bias_ih is dropped",
    "no bias_hh": "bias_hh is dropped",
    "no biases": "both biases are dropped",
    "double bias": "the biases are doubled",
    "bias_ih twice": "bias_ih is used for bias_hh too",
    "bias_hh twice": "bias_hh is used for bias_ih too",
    "no reverse bias": "the biases of the reverse direction are dropped",
    "hh transposed": "weight_hh is transposed gate by gate",
    "hh reshaped": "weight_hh is reshaped instead of transposed",
    "ih reshaped": "weight_ih is reshaped instead of transposed",
    "hr reshaped": "weight_hr is reshaped instead of transposed",
    "no recurrence": "weight_hh is ignored",
    "layers reversed": "the layers' weights are in reverse order",
    "one layer for all": "every layer has the first layer's weights",
    "directions swapped": "the weights of the two directions are swapped",
    "shared directions": "the reverse direction has the forward direction's weights",
    "bias off by a thousandth": None,
    # Wrong states: h and c swapped, wrong layout, not sorted with the rows, or stale.
    "state swapped": "h_0 and c_0 are swapped",
    "no h_0": "h_0 is ignored",
    "no c_0": "c_0 is ignored",
    "no state": "the initial state is ignored",
    "h_0 twice": "h_0 is used for c_0 too",
    "state by direction": "h_0 and c_0 are laid out direction by direction",
    "state layers reversed": "h_0 and c_0 have the layers in reverse order",
    "state directions swapped": "h_0 and c_0 have the two directions swapped",
    "state stride": "h_0 and c_0 are read at layer + direction",
    "state of first layer": "every layer starts from the first layer's state",
    "state not sorted": "rows are sorted by length but h_0 and c_0 are not",
    "stale state": "the port keeps state",
    "final swapped": "h_n and c_n are swapped",
    "h_n twice": "h_n is returned for c_n too",
    "final is initial": "the final state is the initial state",
    "final by direction": "h_n and c_n are laid out direction by direction",
    "final layers reversed": "h_n and c_n have the layers in reverse order",
    "final directions swapped": "h_n and c_n have the two directions swapped",
    "final not unsorted": "rows are sorted by length but h_n and c_n are not restored",
    # Errors in time: lengths ignored, padding read, reverse direction flipped or joined wrongly.
    "no lengths": "the lengths are ignored",
    "flip over padding": "the reverse direction starts in the padding",
    "final over padding": "the final state is taken at the end of the padding",
    "final reverse at the end": "the final state of the reverse direction is the state after its first step",
    "padding kept": "the outputs in the padding are not zeroed",
    "padding multiplied": "the padding reaches the results",
    "not flipped back": "the outputs of the reverse direction are not flipped back",
    "never reversed": "the reverse direction runs forwards",
    "time reversed": "the inputs are reversed in time",
    "reverse first": "the reverse direction's outputs come first",
    "reverse first at the top": "the reverse direction's outputs come first in the last layer",
    "interleaved": "the outputs of the two directions are interleaved",
    # The whole port, and errors of a call and of the stack of layers.
    "output of first layer": "the outputs are the first layer's",
    "output shifted": "the outputs are shifted by one time step",
    "output scaled": None,
    "batch first": "the port is batch-first",
    "rows mixed": None,
    # Products, weights or states rounded to too few bits.
    "tf32": "the matrix products run in TF32",
    "bfloat16 products": "the matrix products take bfloat16 operands",
    "bfloat16 weights": "the weights are rounded to bfloat16",
    "float16 weights": "the weights are rounded to float16",
    "bfloat16 c": "c is kept in bfloat16",
    "float32 inside": "float64 inputs are cast to float32",
}

PAIRS = (
    ("order iofg", "no bias_hh"),
    ("order igfo", "forget bias"),
    ("order figo", "not flipped back"),
    ("order ifog", "state swapped"),
    ("no bias_ih", "state by direction"),
    ("double bias", "reverse first"),
    ("layers reversed", "hard sigmoid keras"),
    ("hh transposed", "no c_0"),
    ("flip over padding", "final directions swapped"),
    ("c linear", "final by direction"),
    ("directions swapped", "no h_0"),
    ("bfloat16 weights", "order ifog"),
    ("padding kept", "no state"),
    ("interleaved", "final swapped"),
)

# Bugs that need a projection to show.
NEEDS_PROJECTION = {"hr reshaped", "projection before tanh", "projection cut"}
