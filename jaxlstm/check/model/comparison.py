"""Comparisons of the results of a model with torch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxlstm.check.criteria import rms
from jaxlstm.check.model.results import ModelCase, ModelResults, is_floating

Array = np.ndarray


def relative_error(ours: ModelResults, truth: ModelResults) -> float:
    """Return the largest error of an output, relative to its largest element."""
    worst = 0.0
    for name, a in ours.leaves():
        scale = float(np.max(np.abs(truth.outputs[name]), initial=0.0)) or 1.0
        worst = max(worst, float(np.max(np.abs(a - truth.outputs[name]), initial=0.0)) / scale)
    return worst


def structure_problem(ours: ModelResults, theirs: ModelResults) -> str:
    """Describe outputs that only one side has. Keys may come in any order, since ``jax.jit`` sorts them."""
    if ours.outputs.keys() == theirs.outputs.keys():
        return ""
    return f"the model returns {_listed(ours.outputs)}, expected {_listed(theirs.outputs)}"


def _listed(outputs: Mapping[str, Array]) -> str:
    return ", ".join(outputs) or "nothing"


def same_shapes(ours: ModelResults, theirs: ModelResults) -> bool:
    """Return True if both have the same outputs, of the same shapes."""
    shapes = [{name: a.shape for name, a in results.leaves()} for results in (ours, theirs)]
    return shapes[0] == shapes[1]


def rms_ratios(
    case: ModelCase,
    ours: ModelResults,
    theirs: ModelResults,
    truth: ModelResults,
    correct: Sequence[ModelResults],
) -> dict[str, rms.RmsRatio]:
    """Return the RMS error of each floating-point array, beside the errors of torch and other right runs."""
    true, torch, others = truth.arrays(), theirs.arrays(), [c.arrays() for c in correct]
    return {
        name: rms.rms_ratio(f"{case.name}, {name}", a, true[name], [o[name] for o in others], torch[name])
        for name, a in ours.arrays().items()
        if is_floating(a)
    }
