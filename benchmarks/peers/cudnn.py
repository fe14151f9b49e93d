"""cuDNN's LSTM through ``backend="cudnn"``, for a comparison with the other backends on an NVIDIA GPU."""

from __future__ import annotations

from benchmarks.implementation import Implementation, Unsupported, own
from benchmarks.problems import Problem
from benchmarks.settings import Settings


def implementation(problem: Problem, settings: Settings) -> Implementation:
    """Run all layers and directions in one call."""
    if problem.config.proj_size:
        raise Unsupported("has no projection")
    return own(problem, settings._replace(backend="cudnn"))
