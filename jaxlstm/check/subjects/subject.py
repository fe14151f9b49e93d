"""What a verification needs of a subject."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import Results


class Subject(Protocol):
    """A port or a model under test."""

    @property
    def noun(self) -> str:
        """ "port" or "model", for reports."""
        ...

    @property
    def optional_outputs(self) -> frozenset[str]:
        """The results that the subject need not return."""
        ...

    def adapt(self, case: Case) -> Case:
        """Return the case without the arguments that the subject does not take."""
        ...

    def run(self, case: Case, dtype: Any, *, gradients: bool) -> Results:
        """Run the subject in ``dtype``; with ``gradients``, differentiate it if that is possible."""
        ...

    def other_dtype(self, results: Results, dtype: Any) -> np.dtype | None:
        """Return the dtype of results that show a run in another dtype than ``dtype``, or None."""
        ...

    def aligned(self, results: Results, truth: Results, *, resolve: bool = False) -> Results:
        """Return the results with the gradients under the names and in the order of the truth.

        ``resolve`` settles from the gradients which parameters correspond where their values are equal.
        """
        ...

    def casts_to_float32(self, case: Case) -> list[str]:
        """Return the lines of code at which a float64 run may convert numbers to float32."""
        ...

    def untested(self, gradients: bool) -> Iterator[tuple[str, str]]:
        """Yield each property that cannot be tested, and why."""
        ...
