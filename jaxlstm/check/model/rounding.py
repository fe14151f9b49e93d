"""The errors that rounding may cause in a right model, measured on the torch module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlstm.check.criteria import rms
from jaxlstm.check.criteria.measurement import largest_errors
from jaxlstm.check.model.comparison import rms_ratios
from jaxlstm.check.model.results import ModelCase, ModelResults
from jaxlstm.check.model.second_opinion import needs_second_opinion, second_opinion
from jaxlstm.check.reference.torch_model import TorchModel

TRIALS = 2
"""Perturbed runs of torch from which the condition is estimated."""


@dataclass(frozen=True)
class Rounding:
    """Runs of a torch module with other rounding: perturbed by an ulp, in its own dtype, without oneDNN."""

    theirs: TorchModel
    seed: int

    def condition(
        self, case: ModelCase, truth: ModelResults, cotangents: Mapping[str, np.ndarray] | None
    ) -> dict[str, float]:
        """Return the change of each array that rounding may cause in float64.

        It is the larger of the change when every number changes by one ulp, and the error that torch makes in
        its own dtype, in proportion.
        """
        rng = np.random.default_rng([self.seed, 99])
        ulp = float(np.finfo(np.float64).eps)
        changes = [largest_errors(self._perturbed(case, ulp, cotangents, rng), truth) for _ in range(TRIALS)]
        if self.theirs.dtype == np.float32:
            scale = float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)
            errors = largest_errors(self.theirs.run(case, np.float32, cotangents=cotangents), truth)
            changes.append({name: scale * error for name, error in errors.items()})
        return {name: max(change[name] for change in changes) for name in changes[0]}

    def ratios(
        self, case: ModelCase, ours: ModelResults, theirs: ModelResults, truth: ModelResults, cotangents: Any
    ) -> list[rms.RmsRatio]:
        """Return the RMS error of each array in the working dtype, relative to correct runs."""
        dtype = self.theirs.dtype
        correct = [self.theirs.run(case, dtype, cotangents=cotangents, onednn=False)]
        ratios = rms_ratios(case, ours, theirs, truth, correct)
        found = list(ratios.values())
        if needs_second_opinion(found):
            rng = np.random.default_rng([self.seed, 100])
            found = second_opinion(ratios, truth, dtype, lambda s: self._perturbed(case, s, cotangents, rng))
        return found

    def _perturbed(
        self, case: ModelCase, size: float, cotangents: Any, rng: np.random.Generator
    ) -> ModelResults:
        """Run torch in float64 with every number changed by a relative ``size``."""
        return self.theirs.run(case, np.float64, cotangents=cotangents, perturbation=(size, rng))
