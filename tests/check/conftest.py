"""The diagnosis in tests does not depend on the speed of the machine."""

from types import SimpleNamespace

import pytest

from jaxlstm.check.diagnosis import search


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that has any time ends by itself; one that has 0 seconds tries nothing."""
    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: 0.0))
