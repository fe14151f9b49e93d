"""The catalogue of faults: parameters, states, time and directions, the cell, and too few bits."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxlstm.check.reference.faults.changes import (
    GATES,
    Change,
    SlotOf,
    around,
    axes_swapped,
    backwards,
    copied,
    each_gate,
    each_parameter,
    final_state,
    half,
    in_slots,
    initial_state,
    layers_alike,
    moved,
    not_flipped_back,
    one_direction,
    over_padding,
    reordered,
    reshaped,
    results,
    rounded_products,
    state_at_the_end,
    swapped,
    tf32,
    transposed,
)
from jaxlstm.layer.config import LSTMConfig


@dataclass(frozen=True)
class Fault:
    """One error of a port.

    Attributes:
      cause: completes the sentence "the port matches an LSTM in which ...".
      apply: applies the fault to a call.
      group: two faults of one group are not combined.
      needs: the properties (see :func:`properties`) that a config must have, separated by spaces.
      rounding: True for faults of precision.
    """

    cause: str
    apply: Change
    group: str
    needs: str = ""
    rounding: bool = False


def faults_of(group: str, by_cause: Mapping[str, Change], **options: Any) -> tuple[Fault, ...]:
    """Return the faults of a group by cause; ``options`` are other attributes of each."""
    return tuple(Fault(cause, apply, group, **options) for cause, apply in by_cause.items())


def properties(config: LSTMConfig) -> set[str]:
    """Return the properties of a config that decide which faults it can have."""
    sizes = map(config.layer_input_size, range(config.num_layers))
    present = {
        "bias": config.bias,
        "bidirectional": config.bidirectional,
        "stacked": config.num_layers > 1,
        "projected": config.proj_size > 0,
        "not-projected": config.proj_size == 0,
        "square-weight_ih": config.hidden_size in sizes,
        "several-alike": len(layers_alike(config)) > 1,
    }
    return {name for name, holds in present.items() if holds}


_USED_BY = {"iofg": " (as in ONNX)", "igfo": " (as in haiku)", "figo": " (as in OpenVINO)"}

WEIGHTS = (
    *(
        Fault(
            f"the gates are read in the order {', '.join(order)}{_USED_BY.get(order, '')}",
            reordered(order),
            "gate order",
        )
        for order in map("".join, itertools.permutations(GATES))
        if order != GATES
    ),
    *faults_of(
        "bias",
        {
            "bias_hh is dropped": each_parameter("bias_hh", lambda a: a * 0),
            "bias_ih is dropped": each_parameter("bias_ih", lambda a: a * 0),
            "both biases are dropped": each_parameter("bias", lambda a: a * 0),
            "the biases are doubled": each_parameter("bias", lambda a: a * 2),
            "bias_ih is used for bias_hh too": copied("bias_ih", "bias_hh"),
            "bias_hh is used for bias_ih too": copied("bias_hh", "bias_ih"),
            "1 is added to the forget gate's bias": each_gate("bias_ih", lambda i, f, g, o: (i, f + 1, g, o)),
        },
        needs="bias",
    ),
    Fault("weight_hh is transposed gate by gate", transposed("weight_hh"), "weight_hh", "not-projected"),
    Fault("weight_ih is transposed gate by gate", transposed("weight_ih"), "weight_ih", "square-weight_ih"),
    Fault("weight_hh is reshaped instead of transposed", reshaped("weight_hh"), "weight_hh"),
    Fault("weight_ih is reshaped instead of transposed", reshaped("weight_ih"), "weight_ih"),
    Fault("the layers' weights are in reverse order", moved(backwards), "layer", "several-alike"),
    *faults_of(
        "direction",
        {
            "the weights of the two directions are swapped": moved(lambda layer, d, _: (layer, 1 - d)),
            "the reverse direction has the forward direction's weights": moved(
                lambda layer, d, _: (layer, 0)
            ),
        },
        needs="bidirectional",
    ),
)


_LAYOUTS: dict[str, tuple[str, SlotOf]] = {
    "are laid out direction by direction": (
        "stacked bidirectional",
        lambda layer, d, config: d * config.num_layers + layer,
    ),
    "have the layers in reverse order": (
        "stacked",
        lambda layer, d, config: (config.num_layers - 1 - layer) * config.num_directions + d,
    ),
    "have the two directions swapped": ("bidirectional", lambda layer, d, config: 2 * layer + 1 - d),
}
"""Layouts of states in words, the properties of a config that they need, and their slots."""


STATES = (
    Fault(
        "h_0 and c_0 are swapped", initial_state(lambda s, _: (s[1], s[0])), "initial state", "not-projected"
    ),
    *faults_of(
        "initial state",
        {
            "h_0 is ignored": initial_state(lambda s, _: (s[0] * 0, s[1])),
            "c_0 is ignored": initial_state(lambda s, _: (s[0], s[1] * 0)),
            "the initial state is ignored": initial_state(lambda s, _: (s[0] * 0, s[1] * 0)),
        },
    ),
    *(
        Fault(f"h_0 and c_0 {layout}", initial_state(in_slots(slot_of)), "initial state", needs)
        for layout, (needs, slot_of) in _LAYOUTS.items()
    ),
    Fault(
        "h_0 and c_0 are read at layer + direction instead of layer * 2 + direction",
        initial_state(in_slots(lambda layer, d, config: layer + d)),
        "initial state",
        "stacked bidirectional",
    ),
    Fault("h_n and c_n are swapped", final_state(lambda s, _: (s[1], s[0])), "final state", "not-projected"),
    *(
        Fault(f"h_n and c_n {layout}", final_state(in_slots(slot_of, written=True)), "final state", needs)
        for layout, (needs, slot_of) in _LAYOUTS.items()
    ),
    Fault(
        "the final state of the reverse direction is the state after its first step",
        results(state_at_the_end),
        "final state",
        "bidirectional",
    ),
)


TIME = (
    Fault(
        "the lengths are ignored",
        lambda call: replace(call, lengths=np.full_like(call.lengths, call.inputs.shape[0])),
        "length",
    ),
    Fault(
        "the reverse direction starts in the padding",
        one_direction(True, over_padding),
        "length",
        "bidirectional",
    ),
    Fault("the final state is taken at the end of the padding", one_direction(False, over_padding), "length"),
    *faults_of(
        "flip",
        {
            "the outputs of the reverse direction are not flipped back": one_direction(
                True, not_flipped_back
            ),
            "the reverse direction runs forwards": one_direction(True, lambda run, *a: run(*a[:-1], False)),
        },
        needs="bidirectional",
    ),
    Fault("the batch and time axes are swapped", axes_swapped, "axes"),
    Fault(
        "the reverse direction's outputs come first",
        around("join", lambda join, outputs: join(outputs[::-1])),
        "join",
        "bidirectional",
    ),
    Fault(
        "the reverse direction's outputs come first in the last layer",
        results(lambda run, call: {"outputs": np.roll(run.outputs, call.config.h_size, axis=-1)}),
        "join",
        "stacked bidirectional",
    ),
)


_ACTIVATIONS = (
    (
        "sigmoid",
        "the hard one, clip(0.2 z + 0.5) (as in old Keras)",
        lambda _, z: np.clip(0.2 * z + 0.5, 0, 1),
    ),
    ("sigmoid", "the hard one, clip(z / 6 + 0.5)", lambda _, z: np.clip(1 / 6 * z + 0.5, 0, 1)),
    ("tanh", "relu", lambda _, z: np.maximum(z, 0)),
)
_LINEAR = around("squashed", lambda _, eq, c: c)
_TANH_AFTER = around("projection", lambda _, eq, h, weight: eq.tanh(eq.product(h, weight)))
_SWAP_STATE = around("cell", lambda cell, eq, w, x, h, c: cell(eq, w, x, c, h))
_RETURN_SWAPPED = around("cell", lambda cell, *args: swapped(cell(*args)))

FORMULAS = (
    *(Fault(f"{name} is {what}", around(name, function), name) for name, what, function in _ACTIVATIONS),
    *faults_of(
        "formula",
        {
            "the candidate g goes through sigmoid": around("candidate", lambda _, eq, z: eq.sigmoid(z)),
            "the candidate g goes through no tanh": around("candidate", lambda _, eq, z: z),
            "c goes through no tanh on its way to h": _LINEAR,
        },
    ),
    *faults_of(
        "formula",
        {
            "h and c are swapped at every step": _SWAP_STATE,
            "every step returns (c, h) instead of (h, c)": _RETURN_SWAPPED,
            "every step takes and returns (c, h) (as in Flax) instead of (h, c)": (
                lambda call: _RETURN_SWAPPED(_SWAP_STATE(call))
            ),
        },
        needs="not-projected",
    ),
    Fault(
        "tanh comes after the projection", lambda call: _TANH_AFTER(_LINEAR(call)), "projection", "projected"
    ),
)


PRECISION = faults_of(
    "precision",
    {"the matrix products run in TF32": rounded_products(tf32), **half("bfloat16"), **half("float16")},
    rounding=True,
)

_FAULTS = (*WEIGHTS, *STATES, *TIME, *FORMULAS, *PRECISION)


def catalogue(config: LSTMConfig) -> tuple[Fault, ...]:
    """Return the faults that a config can have, the more likely first."""
    present = properties(config)
    return tuple(fault for fault in _FAULTS if present.issuperset(fault.needs.split()))
