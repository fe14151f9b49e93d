"""Fixtures for tests of the diagnosis."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from jaxlstm.check.criteria.catalogue import CRITERIA
from jaxlstm.check.diagnosis import search
from jaxlstm.check.verification import Verification


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch):
    """Stop the clock of the diagnosis: a search tries every fault, or none if it has 0 seconds."""
    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.fixture
def random_texts(monkeypatch):
    """Replace the text of every criterion and the name of every case by random letters.

    The verdict and the diagnosis follow from ids and kinds.
    """
    rng, try_case = np.random.default_rng(0), Verification.try_case

    def text():
        return "".join(rng.choice(list("abcdefgh, "), 12))

    def try_renamed(self, case):
        return try_case(self, replace(case, name=text()))

    criteria = tuple(replace(criterion, text=text()) for criterion in CRITERIA)
    for entry in ("_verify", "_verify_model"):
        monkeypatch.setattr(f"jaxlstm.check.{entry}.CRITERIA", criteria)
    monkeypatch.setattr(Verification, "try_case", try_renamed)
