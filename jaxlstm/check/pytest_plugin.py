"""A pytest plugin: fixtures that verify a port or a model, and ``approx`` for trees of arrays.

The distribution registers the plugin. A failed check prints the verdict, the diagnosis and the first
failures of its report instead of arrays.

>>> def test_my_port(jaxlstm_verify):
...     jaxlstm_verify(my_port, params, config)

>>> def test_my_model(jaxlstm_verify_model):
...     jaxlstm_verify_model(model, torch_model, (x,))

>>> def test_my_tree():
...     assert my_tree() == approx(expected_tree)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jaxlstm.check.report.report import Report


class approx:  # noqa: N801 - It is named like pytest.approx.
    """A tree of arrays that equals any tree whose leaves are close to its own.

    Args:
      expected: an array or a tree of arrays.
      settings: the keyword arguments of :func:`jaxlstm.check.compare`, such as rtol and atol.
    """

    __array_ufunc__ = None  # NumPy then defers == to this class.
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, **settings: Any) -> None:
        self.expected, self.settings = expected, settings
        self.report: Report | None = None

    def __eq__(self, actual: object) -> bool:
        from jaxlstm.check import compare

        self.report = compare(actual, self.expected, **self.settings)
        return self.report.ok

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"approx({type(self.expected).__name__}{settings})"


@pytest.fixture
def jaxlstm_verify() -> Callable[..., Report]:
    """Return :func:`jaxlstm.check.verify`, which fails the test with the report's first screen."""
    return _failing("verify")


@pytest.fixture
def jaxlstm_verify_model() -> Callable[..., Report]:
    """Return :func:`jaxlstm.check.verify_model`, which fails the test with the report's first screen."""
    return _failing("verify_model")


def _failing(name: str) -> Callable[..., Report]:
    def check(*args: Any, **kwargs: Any) -> Report:
        __tracebackhide__ = True
        from jaxlstm import check

        report = getattr(check, name)(*args, **kwargs)
        if not report.ok:
            pytest.fail(report.first_screen(), pytrace=False)
        return report

    return check


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a failed ``assert tree == approx(...)`` by the report."""
    if op != "==":
        return None
    side = next((side for side in (left, right) if isinstance(side, approx)), None)
    if side is None or side.report is None:
        return None
    return ["the trees are not close", *side.report.first_screen().splitlines()]
