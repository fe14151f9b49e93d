"""An LSTM port in NumPy, and 85 ways to get it wrong.

Its structure differs from the oracle's and from the catalogue of faults: batches are flipped and masked,
weights are transposed kernels, and a bug is a branch in the code, as it would be in a port.

`BUGS` maps each bug to a part of the cause that the checker must name, or to None if the catalogue lacks it.
"""

from __future__ import annotations

from testing.wrong_ports import gates, precision, states, time, weights, whole
from testing.wrong_ports.gates import sigmoid
from testing.wrong_ports.whole import WrongPort

__all__ = ["BUGS", "NEEDS_PROJECTION", "PAIRS", "WrongPort", "sigmoid"]

BUGS: dict[str, str | None] = {
    bug: explanation
    for part in (gates, weights, states, time, whole, precision)
    for bug, explanation in part.BUGS.items()
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
