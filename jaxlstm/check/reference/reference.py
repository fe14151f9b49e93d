"""What a verification needs of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import Results


class Reference(Protocol):
    """A right implementation of the subject."""

    @property
    def name(self) -> str:
        """ "oracle" or "torch", for reports."""
        ...

    @property
    def dtype(self) -> np.dtype | None:
        """The dtype of its parameters, or None if it runs in any."""
        ...

    @property
    def chaotic(self) -> float:
        """The amplification of one ulp above which RMS errors are a matter of chance."""
        ...

    def run(self, case: Case, dtype: Any, *, gradients: bool = False) -> Results:
        """Return the results on a case, with its numbers and the parameters in ``dtype``."""
        ...

    def rounded(self, dtype: Any) -> Reference:
        """Return the reference with its parameters rounded to ``dtype``."""
        ...

    def expected(self, case: Case, dtype: Any, truth: Results) -> Results:
        """Return results with the dtypes, NaN and infinities of a right run in ``dtype``."""
        ...

    def perturbed(self, case: Case, size: float, rng: np.random.Generator, *, gradients: bool) -> Results:
        """Return the float64 results after every number of the call has changed by a relative ``size``."""
        ...

    def right_runs(self, case: Case, dtype: Any, *, gradients: bool) -> Sequence[Results]:
        """Return the results of other right implementations in ``dtype``."""
        ...

    def with_other_tables(self, case: Case, rng: np.random.Generator) -> tuple[list[str], Results] | None:
        """Change every number of the tables by rounding; return their names and the float64 results.

        A table, such as a positional encoding, is a buffer that a port often computes instead of reading it.
        The result is None without tables.
        """
        ...
