"""A pytest plugin: fixtures that verify a port or a model.

The distribution registers the plugin. A failed check prints the verdict, the diagnosis and the first
failures of its report instead of arrays.

>>> def test_my_port(jaxlstm_verify):
...     jaxlstm_verify(my_port, params, config)

>>> def test_my_model(jaxlstm_verify_model):
...     jaxlstm_verify_model(model, torch_model, (x,))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jaxlstm.check.report.report import Report


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
