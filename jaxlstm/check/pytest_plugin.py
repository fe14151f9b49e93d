"""pytest: a fixture that verifies a port, and an ``approx`` for whole trees, told in a screen.

Registered by the distribution, so that a project that installs jaxlstm has them. A check that fails
prints the report's verdict, diagnosis and first failures, and no dump of arrays.

>>> def test_my_port(jaxlstm_verify):
...     jaxlstm_verify(my_port, params, config)

>>> def test_my_tree():
...     assert my_tree() == approx(expected_tree)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jaxlstm.check.report import Report


class approx:  # noqa: N801 - named as pytest's own is
    """A tree of arrays that equals another whose leaves are close: see :func:`jaxlstm.check.compare`.

    Args:
      expected: an array or a tree of them.
      tolerances: the keyword arguments of :func:`jaxlstm.check.compare`; without rtol and atol, those
        of ``torch.testing.assert_close`` by dtype.
    """

    __array_ufunc__ = None  # NumPy then leaves == to us
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, **tolerances: Any) -> None:
        self.expected, self.tolerances = expected, tolerances
        self.report: Report | None = None

    def __eq__(self, actual: object) -> bool:
        from jaxlstm.check import compare

        self.report = compare(actual, self.expected, **self.tolerances)
        return self.report.ok

    def __repr__(self) -> str:
        told = "".join(f", {name}={value!r}" for name, value in self.tolerances.items())
        return f"approx({type(self.expected).__name__}{told})"


@pytest.fixture
def jaxlstm_verify() -> Callable[..., Report]:
    """:func:`jaxlstm.check.verify`, which fails the test with the report's first screen."""

    def check(*arguments: Any, **settings: Any) -> Report:
        __tracebackhide__ = True
        from jaxlstm.check import verify

        report = verify(*arguments, **settings)
        if not report.ok:
            pytest.fail(report.first_screen(), pytrace=False)
        return report

    return check


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """What ``assert tree == approx(...)`` says: the report in place of the arrays."""
    if op != "==":
        return None
    found = next((side for side in (left, right) if isinstance(side, approx)), None)
    if found is None or found.report is None:
        return None
    return ["the trees are not close", *found.report.first_screen().splitlines()]
